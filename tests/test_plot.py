"""Figures have every panel, and a file that a viewer opens."""

import numpy as np
import pytest
from PIL import Image

from xmanip_jax import plot

rng = np.random.default_rng(0)
ARRAYS = {**{name: rng.uniform(size=(3, 12, 12, 3)) for name in ("x", "x_target")},
          **{name: rng.dirichlet(np.ones(144), size=3).reshape(3, 12, 12)
             for name in ("map_original", "map_adv", "map_target")}}
ARRAYS["x_adv"] = np.clip(ARRAYS["x"] + 0.01, 0, 1)


def test_one_image(tmp_path):
    figure = plot.manipulation(ARRAYS, 1, caption={"original": "class 7"}, amplify=10)
    assert len(figure.axes) == 8 and figure.axes[0].get_title() == "original\nclass 7"
    shown = figure.axes[3].images[0].get_array()  # the amplified difference, on grey
    np.testing.assert_allclose(shown, np.clip(0.5 + 10 * (ARRAYS["x_adv"][1] - ARRAYS["x"][1]), 0, 1))
    plot.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 800


def test_several_and_grey_images():
    grey = {name: v[..., :1] if v.ndim == 4 else v for name, v in ARRAYS.items()}
    assert len(plot.manipulations(grey).axes) == 18
    assert len(plot.manipulations(grey, [2]).axes) == 6
    with pytest.raises(KeyError, match="x_adv"):
        plot.manipulation({"x": ARRAYS["x"]})
