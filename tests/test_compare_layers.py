"""A network written again beside the one it was made after: names, layouts, the first layer that is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from xmanip_jax import models

pytestmark = pytest.mark.promotes("ranks", "types")

rng = np.random.default_rng(0)
KERNEL, DENSE = (rng.normal(size=s).astype(np.float32) for s in ((3, 3, 2, 4), (4, 3)))
X = rng.uniform(size=(6, 6, 2)).astype(np.float32)


def network(x, kernel=KERNEL, dense=DENSE):
    z = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    z = checkpoint_name(z, "conv")
    return checkpoint_name(jax.nn.relu(z), "relu")[0].mean((0, 1)) @ dense


def by_hand(kernel=KERNEL, dense=DENSE):
    """As torch would give them: batches of one, channels first."""
    padded = np.pad(np.float64(X), ((1, 1), (1, 1), (0, 0)))
    z = sum(padded[i:i + 6, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3))
    h = np.maximum(z, 0)
    first = lambda v: np.moveaxis(v, -1, 0)[None]
    return {"conv": first(z), "relu": first(h), "logits": (h.mean((0, 1)) @ dense)[None]}


def test_what_is_equal():
    found = models.compare_layers(network, X, by_hand())
    rows = found.layers
    assert [row.name for row in rows] == ["conv", "relu", "logits"] and rows[0].shape == (6, 6, 4)
    assert max(row.relative for row in rows) < 1e-6
    shown = str(found).splitlines()
    assert len(shown) == 5 and shown[-1] == "no layer differs by more than 0.0001 of its largest value"


def test_the_first_layer_that_differs():
    found = models.compare_layers(network, X, by_hand(dense=2 * DENSE), tolerance=0.4)
    rows = found.layers
    assert rows[1].relative < 1e-6 and rows[2].relative == pytest.approx(0.5)
    last = by_hand()["logits"]
    assert rows[2].largest == pytest.approx(np.abs(last).max(), rel=1e-5)
    assert found.first == "logits" and "logits is the first layer that differs by more than 0.4" in str(found)


def test_channels_last_and_some_layers_only():
    last = {"conv": np.moveaxis(by_hand()["conv"], 1, -1)}
    (row,), *_ = models.compare_layers(network, X, last, channels_first=False)
    assert row.name == "conv" and row.relative < 1e-6


def test_what_is_refused():
    there = by_hand()
    for match, reference in (
            (r"no layers \['fc'\]; it has \['conv', 'relu', 'logits'\]", {"fc": 0}),
            (r"nothing to compare with: give some of \['conv',", {}),
            (r"conv has shape \(6, 6, 4\), its reference \(6, 4, 6\)", {"conv": np.moveaxis(there["conv"], 1, -1)}),
            ("logits is not finite in its reference", {"logits": there["logits"] * np.nan})):
        with pytest.raises(ValueError, match=match):
            models.compare_layers(network, X, reference)
    with pytest.raises(ValueError, match="conv is not finite in the model"):
        models.compare_layers(lambda x: network(x, KERNEL * jnp.nan), X, {"conv": there["conv"]})


def test_a_loop_has_no_single_value():
    def f(x):
        h = jax.lax.scan(lambda c, _: (checkpoint_name(jax.nn.relu(c), "inner"), None), x, length=2)[0]
        return checkpoint_name(h, "after").sum((0, 1))

    with pytest.raises(ValueError, match=r"no layers \['inner'\]; it has \['after', 'logits'\]"):
        models.compare_layers(f, X, {"inner": X})
