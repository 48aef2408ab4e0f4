"""The linear stages of a network, and what bounds of them need: the same map with coefficients in absolute value."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..rewrite import Stage
from ..types import Array
from .operator_norms import layer_norm, matrix_norm

__all__ = ["Affine", "affine"]

_ELEMENTWISE = {"mul", "div", "add", "sub", "neg"}
_ROUTES = {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "device_put", "dynamic_slice",
           "expand_dims", "gather", "name", "optimization_barrier", "pad", "reshape", "rev", "select_n",
           "sharding_constraint", "slice", "split", "squeeze", "stack", "tile", "transpose", "unstack"}


class Affine(NamedTuple):
    """A stage that is affine in what it carries: (*carried) -> tuple of results.

    apply: the stage;  linear: without its constants;  absolute: with its coefficients in absolute value;  shift:
    the absolute values of its constants;  terms: at most so many products are added up in a number, either way;
    norm: () -> a bound of the spectral norm of `linear`, operands and results taken as one vector each, or None if
    none is known;  shapes: of the carried operands.
    """

    apply: Callable[..., tuple[Array, ...]]
    linear: Callable[..., tuple[Array, ...]]
    absolute: Callable[..., tuple[Array, ...]]
    shift: tuple[Array, ...]
    terms: int
    norm: Callable[[], Array | None]
    shapes: tuple[jax.ShapeDtypeStruct, ...]

    def transposed(self, *cotangents: Array) -> tuple[Array, ...]:
        """linear^T: from the results back to the carried operands."""
        return jax.linear_transpose(self.linear, *self.shapes)(cotangents)

    def absolute_transposed(self, *cotangents: Array) -> tuple[Array, ...]:
        """|linear|^T."""
        return jax.linear_transpose(self.absolute, *self.shapes)(cotangents)


def affine(stage: Stage, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Affine | None:
    """The stage as an affine map, or None. shapes: those of the carried operands."""
    operation, name = stage.operation, stage.operation.name
    if operation.merge:
        return _layer(stage, shapes)
    if operation.kind == "elementwise" and name in _ELEMENTWISE and len(stage.carried) == 1:
        return _scaled(stage, shapes)
    if operation.kind == "add":
        sign = -1 if name == "sub" else 1
        zero = (jnp.zeros(stage.shapes[0].shape, stage.shapes[0].dtype),)
        plus = lambda a, b: (a + b,)
        difference = lambda a, b: (a + sign * b,)
        return Affine(difference, difference, plus, zero, 2, lambda: jnp.sqrt(jnp.asarray(2.0)), shapes)
    if operation.kind == "sum" or (name in _ROUTES and not _chooses_by_image(stage)):
        return _moved(stage, shapes)
    return None


def _chooses_by_image(stage):
    """A gather or select whose index depends on the image."""
    name, operands = stage.operation.name, stage.operands
    index = {"select_n": operands[:1], "gather": operands[1:], "dynamic_slice": operands[1:]}.get(name, ())
    return any(isinstance(o, int) for o in index)


def _filled(stage, carried):
    """All operands, those that carry the image taken from `carried`."""
    carried = iter(carried)
    return [next(carried) if isinstance(o, int) else o for o in stage.operands]


def _results(value):
    return value if isinstance(value, tuple) else (value,)


def _layer(stage, shapes):
    m = stage.operation.merge
    operands = [0 if isinstance(o, int) else o for o in stage.operands]
    w, b = m.weights(*operands)
    # The sizes of what is added up in the shift, which may cancel: each constant times its derivative.
    shift = lambda k: lambda v: m.weights(*operands[:k], v, *operands[k + 1:])[1]
    moved = [jax.jvp(shift(k), (operands[k],), (operands[k],))[1] for k in range(2, len(operands))]
    added = sum(map(jnp.abs, moved), jnp.abs(b))
    size = lambda v: m.forth(jnp.broadcast_to(v, m.shape))
    features = math.prod(w.shape[a] for a in m.neurons[1])
    # Either way: over the inputs of a neuron, or over the neurons (at every offset of a kernel) that read an input.
    terms = max(w.size // features, w.size // min(w.shape) if w.ndim > 1 else w.size)

    def norm():
        if stage.operation.kind == "conv":
            return layer_norm(stage.operation.params, w, shapes[0].shape)
        contracted, batch = stage.operation.params["dimension_numbers"]
        if any(batch):
            return None
        return matrix_norm(jnp.moveaxis(w, contracted[m.w], range(len(contracted[m.w]))).reshape(-1, features))

    return Affine(lambda x: (size(m.apply(x, w) + b),), lambda x: (size(m.apply(x, w)),),
                  lambda x: (size(m.apply(x, jnp.abs(w))),), (size(added),), terms, norm, shapes)


def _scaled(stage, shapes):
    run = lambda x: _results(stage.operation.apply(*_filled(stage, [x])))
    zero, one = (jnp.full(shapes[0].shape, v, shapes[0].dtype) for v in (0, 1))
    shift, scale = jax.jvp(run, (zero,), (one,))
    return Affine(run, lambda x: (scale[0] * x,), lambda x: (jnp.abs(scale[0]) * x,), (jnp.abs(shift[0]),), 2,
                  lambda: jnp.abs(scale[0]).max(), shapes)


def _moved(stage, shapes):
    run = lambda *x: _results(stage.operation.apply(*_filled(stage, x)))
    zeros = tuple(jnp.zeros(s.shape, s.dtype) for s in shapes)
    linear = lambda *x: jax.jvp(run, zeros, x)[1]
    shift = tuple(map(jnp.abs, run(*zeros)))
    before, after = (sum(math.prod(s.shape) for s in several) for several in (shapes, stage.shapes))
    window = math.prod(stage.operation.params.get("window_dimensions", (1,)))
    if stage.operation.name == "cumsum":
        window = max(shapes[0].shape)
    terms = int(max(2, window, np.ceil(before / after), np.ceil(after / before)))

    def norm():
        """The root of the largest row sum times the largest column sum, no coefficient being negative."""
        ones = lambda of: tuple(jnp.ones(s.shape, s.dtype) for s in of)
        largest = lambda values: jnp.stack([v.max() for v in values]).max()
        columns = jax.linear_transpose(linear, *shapes)(ones(stage.shapes))
        return jnp.sqrt(largest(linear(*ones(shapes))) * largest(columns))

    return Affine(run, linear, linear, shift, terms, norm, shapes)
