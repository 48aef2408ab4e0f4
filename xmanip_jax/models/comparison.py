"""Does a network that was written again compute what the first one did? Layer by layer."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from ..rewrite import layer_values
from ..types import AnyArray, ArrayLike, Model, Nested, Shaped

__all__ = ["Comparison", "LayerDifference", "compare_layers"]


class LayerDifference(NamedTuple):
    """How far a layer is from its reference: the largest difference, and that over the reference's largest value."""

    name: str
    shape: tuple[int, ...]
    largest: float
    relative: float


class Comparison(NamedTuple):
    """Of `compare_layers`; shown, it is a table.

    layers: in the order in which the model computes them;  first: the name of the first whose relative difference is
    above the tolerance, or None.
    """

    layers: tuple[LayerDifference, ...]
    first: str | None
    tolerance: float

    def __repr__(self) -> str:
        width = max(len("layer"), *(len(row.name) for row in self.layers))
        places = max(len("shape"), *(len(str(row.shape)) for row in self.layers))
        lines = [f"{'layer':{width}} {'shape':{places}} largest difference   relative"]
        for row in self.layers:
            mark = " *" * (row.relative > self.tolerance)
            lines.append(f"{row.name:{width}} {row.shape!s:{places}} {row.largest:18.2e} {row.relative:10.2e}{mark}")
        found = "no layer differs" if self.first is None else f"{self.first} is the first layer that differs"
        return "\n".join([*lines, f"{found} by more than {self.tolerance:g} of its largest value"])


def compare_layers(f: Model, x: Shaped[AnyArray, "*shape"], reference: Mapping[str, ArrayLike | Nested], *,
                   channels_first: bool = True, tolerance: float = 1e-4) -> Comparison:
    """How far the layers of `f` at x are from those of the network that it was made after; shown, it is a table.

    Args:
      f: a model of one example;  x: its input.
      reference: from the names of layers (`rewrite.layers(f, x)`: those that the model gives its values by
        `checkpoint_name`, else relu#0, relu#1 ...) and "logits", the model's result, to the other network's values.
        A batch axis of length 1 is dropped on both sides.
      channels_first: whether the reference's layers of three or more axes are [c, h, w], as torch's, and the model's
        [h, w, c].
      tolerance: a layer whose relative difference is larger is marked; the first of them is the one to look at.

    Raises ValueError for names that the model has not, shapes that do not fit, and values that are not finite.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import models
    >>> f = lambda x: jax.nn.relu(x) @ jnp.ones((2, 1))
    >>> models.compare_layers(f, jnp.array([1.0, 2.0]), {"relu#0": [[1.0, 2.0]], "logits": [[3.5]]})
    layer  shape largest difference   relative
    relu#0 (2,)            0.00e+00   0.00e+00
    logits (1,)            5.00e-01   1.43e-01 *
    logits is the first layer that differs by more than 0.0001 of its largest value
    """
    logits, values = jax.jit(layer_values(f))(x)
    values |= {"logits": values.get("logits", logits)}
    if not reference:
        raise ValueError(f"nothing to compare with: give some of {list(values)}")
    if strange := [name for name in reference if name not in values]:
        raise ValueError(f"the model has no layers {strange}; it has {list(values)}")
    pairs = {name: _matched(values[name], reference[name], channels_first) for name in values if name in reference}
    if problems := [p for name, pair in pairs.items() for p in _problems(name, *pair)]:
        raise ValueError("; ".join(problems))
    rows = [LayerDifference(name, ours.shape, *_difference(ours, theirs)) for name, (ours, theirs) in pairs.items()]
    first = next((row.name for row in rows if row.relative > tolerance), None)
    return Comparison(tuple(rows), first, tolerance)


def _matched(ours, theirs, channels_first):
    """Both without a batch axis, channels last, in double precision."""
    ours, theirs = (np.asarray(v, np.float64) for v in (ours, theirs))
    if theirs.ndim > ours.ndim or (theirs.ndim == ours.ndim and theirs.shape[:1] == ours.shape[:1] == (1,)):
        theirs = theirs[0] if theirs.shape[0] == 1 else theirs
    ours = ours[0] if ours.ndim > theirs.ndim and ours.shape[0] == 1 else ours
    return ours, np.moveaxis(theirs, 0, -1) if channels_first and theirs.ndim > 2 else theirs


def _problems(name, ours, theirs):
    if ours.shape != theirs.shape:
        return [f"{name} has shape {ours.shape}, its reference {theirs.shape}, both without a batch, channels last"]
    finite = {"the model": np.isfinite(ours).all(), "its reference": np.isfinite(theirs).all()}
    return [f"{name} is not finite in {side}" for side, whole in finite.items() if not whole]


def _difference(ours, theirs):
    largest = float(np.abs(ours - theirs).max(initial=0))
    return largest, largest / max(float(np.abs(theirs).max(initial=0)), np.finfo(np.float32).tiny)
