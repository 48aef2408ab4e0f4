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


def bar(axis):
    """The ends and the texts of the colour bar under a panel."""
    [inset] = axis.child_axes
    return inset.get_xlim(), [text.get_text() for text in inset.get_xticklabels()]


def test_each_map_on_its_own_scale_or_one_for_all():
    maps = np.stack([ARRAYS[name][0] for name in ("map_original", "map_adv", "map_target")])
    for scale, tops in (("own", np.quantile(maps, 0.995, axis=(1, 2))), ("shared", [np.quantile(maps, 0.995)] * 3)):
        axes = plot.manipulation(ARRAYS, scale=scale).axes
        np.testing.assert_allclose([axis.images[0].get_clim()[1] for axis in axes[4:7]], tops)
        np.testing.assert_allclose([bar(axis)[0][1] for axis in axes[4:7]], tops)
        assert bar(axes[4])[1] == ["0", f"{tops[0]:.1e}"]
    largest = 255 * np.abs(ARRAYS["x_adv"][0] - ARRAYS["x"][0]).max()
    assert bar(axes[7])[1] == ["0", f"{largest:.3g}"]  # the size of the change has its own, in pixel values of 255
    assert bar(plot.manipulation(ARRAYS | {"x_adv": ARRAYS["x"]}).axes[7])[1] == ["0", "1e-12"]  # nothing changed
    with pytest.raises(ValueError, match="scale is 'own' or 'shared', got 'one'"):
        plot.manipulation(ARRAYS, scale="one")


def test_a_map_over_its_photograph():
    image, map = ARRAYS["x"][0], np.array([[1.0, 0.0], [0.5, 0.25]])
    axis = plot.explanations(image, {"grad_cam": map}, overlay=True).axes[1]
    photograph, over = axis.images
    np.testing.assert_allclose(photograph.get_array(), image.mean(-1))
    np.testing.assert_allclose([photograph.get_extent(), over.get_extent()], [(-0.5, 11.5, 11.5, -0.5)] * 2)
    top = np.quantile(map, 0.995)
    np.testing.assert_allclose(over.get_alpha(), 0.85 * np.minimum(map / top, 1))
    assert axis.get_title() == "grad cam" and bar(axis)[1][0] == "0"
    several = plot.manipulations(ARRAYS, [1, 2], overlay=True, labels=["cat", "dog", "American bullfrog"]).axes
    assert [len(axis.images) for axis in several] == [1, 2] * 6
    assert [several[i].get_ylabel() for i in (0, 6)] == ["1: dog", "2: American\nbullfrog"]


def test_signed_maps_are_centred_at_zero():
    signed = rng.normal(size=(12, 12, 3)) + 1
    for scale in ("own", "shared"):
        _, *axes = plot.explanations(ARRAYS["x"][0], {"gradient": signed, "lrp": signed[..., 0]}, signed=True,
                                     scale=scale).axes
        sizes = [np.abs(signed.sum(-1)), np.abs(signed[..., 0])]
        tops = [np.quantile(s if scale == "own" else np.stack(sizes), 0.995) for s in sizes]
        np.testing.assert_allclose([axis.images[0].get_clim() for axis in axes], [(-top, top) for top in tops])
        assert axes[0].images[0].get_cmap().name == "RdBu_r" and bar(axes[0])[1][1] == "0"
        np.testing.assert_allclose(axes[0].images[0].get_array(), signed.sum(-1))
    for bad, found in ((signed, r"shape \(12, 12, 3\)"), (signed[..., 0] - 9, "values reach -")):
        with pytest.raises(ValueError, match=f"lrp is no heat map, {found}"):
            plot.explanations(ARRAYS["x"][0], {"lrp": bad})
    with pytest.raises(ValueError, match=r"lrp is no map of one image, .*: its shape is \(1, 12, 12, 3\)"):
        plot.explanations(ARRAYS["x"][0], {"lrp": signed[None]}, signed=True)


def test_several_and_grey_images():
    grey = {name: v[..., :1] if v.ndim == 4 else v for name, v in ARRAYS.items()}
    assert len(plot.manipulations(grey).axes) == 18
    assert len(plot.manipulations(grey, [2]).axes) == 6
    with pytest.raises(KeyError, match="x_adv"):
        plot.manipulation({"x": ARRAYS["x"]})


def test_a_label_is_no_formula(tmp_path):
    figure = plot.gallery({"a $\\frac$ b_c.png": [ARRAYS["x"][0]]}, ["photograph"])
    plot.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_gallery_shares_colours_within_a_row():
    panels = [ARRAYS["x"][0], ARRAYS["map_original"][0], 10 * ARRAYS["map_adv"][0]]
    notes = {"gradient": ["", "r 0.5", ""]}
    figure = plot.gallery({"gradient": panels, "integrated_gradients": panels}, ["image", "map", "other"], notes=notes)
    axes = figure.axes
    assert len(axes) == 6 and [a.get_title() for a in axes[:3]] == ["image", "map", "other"]
    assert axes[3].get_ylabel() == "integrated\ngradients" and [t.get_text() for t in axes[1].texts] == ["r 0.5"]
    tops = [axis.images[0].get_clim()[1] for axis in axes[1:3]]
    np.testing.assert_allclose(tops, np.quantile(np.stack(panels[1:]), 0.995))
    own = plot.gallery({"gradient": panels}, ["image", "map", "other"], scale="own").axes[1:]
    np.testing.assert_allclose([axis.images[0].get_clim()[1] for axis in own],
                               [np.quantile(panel, 0.995) for panel in panels[1:]])


def test_comparison_draws_percentiles():
    values = {"mse": 10.0 ** np.arange(11), "r": np.linspace(0, 1, 11)}
    figure = plot.comparison({"lrp": values, "gradient_x_input": {**values, "r": [np.nan, 0.5]}},
                             {"mse": "error", "r": "correlation"}, log=("mse",), columns=3)
    error, r = figure.axes
    assert (error.get_yscale(), r.get_yscale()) == ("log", "linear") and error.get_title() == "error"
    assert [t.get_text() for t in error.get_xticklabels()] == ["lrp", "gradient x input"]
    whiskers = [line.get_ydata().tolist() for line in r.lines[:2]]
    np.testing.assert_allclose(whiskers, [[0.25, 0.1], [0.75, 0.9]])  # Dombrowski et al. 2019: 25/75, 10/90


def test_sweep_puts_references_behind_the_curve(tmp_path):
    curve = {1.0: (0.5, 0.4, 0.6), 10.0: (0.7, 0.6, 0.9), "SmoothGrad": (0.8, 0.7, 0.9)}
    panels = {name: {"own": curve, "target": curve} for name in "abcd"}
    figure = plot.sweep(panels, xlabel="kappa", ylabel="r")
    assert len(figure.axes) == 4 and figure.axes[0].get_xscale() == "log"
    assert [t.get_text() for t in figure.axes[3].get_xticklabels()] == ["1", "10", "SmoothGrad"]
    own = figure.axes[0].lines[1].get_xydata()  # behind the line that separates the references
    np.testing.assert_allclose(own, [[1, 0.5], [10, 0.7]])
    assert figure.axes[0].get_xticks()[2] > 10
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["own", "target"]
    plot.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
