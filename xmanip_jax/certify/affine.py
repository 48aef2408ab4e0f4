"""The linear stages of a network, and what bounds of them need: the same map with coefficients in absolute value."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import epsilon
from ..rewrite import Stage
from ..types import Array
from .custom_rules import primitive_of
from .operator_norms import layer_norm, matrix_norm

__all__ = ["Affine", "affine", "moved"]

_SCALES = {"mul", "div", "add", "sub", "neg"}
_ROUTES = {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "device_put", "dynamic_slice",
           "expand_dims", "gather", "name", "optimization_barrier", "pad", "reshape", "rev", "select_n",
           "sharding_constraint", "slice", "split", "squeeze", "stack", "tile", "transpose", "unstack"}


class Affine(NamedTuple):
    """A stage that is affine in what it carries: (*carried) -> tuple of results.

    apply: the stage;  linear: without its constants;  absolute: with its coefficients in absolute value;  shift:
    the absolute values of its constants;  terms: at most so many products are added up in a number, either way;
    shapes, results: of the carried operands and of the results;  spectral: () -> the spectral norm of `linear`, never
    below the truth, or None;  ends: (lowers, uppers of the operands, relative error of a product) -> (lower, upper) of
    each result, rounded by their own size so that 0 stays 0; None where they do not follow end by end.
    """

    apply: Callable[..., tuple[Array, ...]]
    linear: Callable[..., tuple[Array, ...]]
    absolute: Callable[..., tuple[Array, ...]]
    shift: tuple[Array, ...]
    terms: int
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    results: tuple[jax.ShapeDtypeStruct, ...]
    spectral: Callable[[], Array | None] = lambda: None
    ends: Callable[..., list[tuple[Array, Array]]] | None = None

    def transposed(self, *cotangents: Array) -> tuple[Array, ...]:
        """linear^T: from the results back to the carried operands."""
        return jax.linear_transpose(self.linear, *self.shapes)(cotangents)

    def absolute_transposed(self, *cotangents: Array) -> tuple[Array, ...]:
        """|linear|^T."""
        return jax.linear_transpose(self.absolute, *self.shapes)(cotangents)

    def norms(self) -> tuple[list[Array], Array]:
        """(for each operand the norm of its own part, that of `linear` as a whole): never below the truth.

        The root of the largest row sum times the largest column sum of the absolute coefficients bounds the spectral
        norm of every matrix, so that operands which are broadcast count as often as they are used.
        """
        columns = [_largest([c]) for c in self.absolute_transposed(*_filled(1, self.results))]
        rows = lambda part: _largest(self.absolute(*(v * float(part in (i, None)) for i, v in enumerate(
            _filled(1, self.shapes)))))
        up = 1 + 8 * (self.terms + 4) * epsilon(columns[0])
        own = [jnp.sqrt(rows(i) * c) * up for i, c in enumerate(columns)]
        whole = jnp.sqrt(rows(None) * _largest(columns)) * up
        spectral = self.spectral()
        if spectral is not None:
            whole = jnp.minimum(whole, spectral)
        return [jnp.minimum(n, whole) for n in own], whole


def affine(stage: Stage, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Affine | None:
    """The stage as an affine map, or None: of what it carries, or once of a value that it carries twice.

    shapes: those of the carried operands.
    """
    operation, name = stage.operation, stage.operation.primitive
    if operation.merge:
        return _layer(stage, shapes)
    if operation.kind == "elementwise":
        run = lambda x: _results(operation.apply(*(x if isinstance(o, int) else o for o in stage.operands)))
        single = len(set(stage.carried)) == 1 and primitive_of(lambda x: run(x)[0], shapes[0]) in _SCALES
        return _scaled(run, shapes[:1], stage.shapes) if single else None
    run = lambda *x: _results(operation.apply(*_with(stage, x)))
    if operation.kind == "add":
        return moved(run, shapes, stage.shapes, lambda a, b: (a + b,))
    if operation.kind == "sum" or (name in _ROUTES and not _chooses_by_image(stage)):
        window = max(shapes[0].shape, default=1) if name == "cumsum" else math.prod(
            operation.params.get("window_dimensions", (1,)))
        part = moved(run, shapes, stage.shapes, window=window)
        return part._replace(ends=_rising(part, exact=operation.kind != "sum" and name != "convert_element_type"))
    return None


def moved(run: Callable[..., tuple[Array, ...]], shapes: tuple[jax.ShapeDtypeStruct, ...],
          results: tuple[jax.ShapeDtypeStruct, ...], absolute: Callable[..., tuple[Array, ...]] | None = None,
          window: int = 1) -> Affine:
    """An affine map from what it computes. absolute: None where no coefficient is negative;  window: numbers added."""
    zeros = tuple(_filled(0, shapes))
    linear = lambda *x: jax.jvp(run, zeros, x)[1]
    before, after = (max(1, sum(math.prod(s.shape) for s in several)) for several in (shapes, results))
    terms = int(max(2, window, np.ceil(before / after), np.ceil(after / before)))
    return Affine(run, linear, absolute or linear, tuple(map(jnp.abs, run(*zeros))), terms, shapes, results)


def _rising(part, exact):
    """`Affine.ends` of a map without a negative coefficient. exact: it only moves values."""
    def ends(lowers, uppers, gamma):
        slack = lambda v: [0 if exact else gamma * s for s in part.absolute(*map(jnp.abs, v))]
        several = zip(part.apply(*lowers), slack(lowers), part.apply(*uppers), slack(uppers), strict=True)
        return [(low - below, high + above) for low, below, high, above in several]

    return ends


def _filled(value, shapes):
    return [jnp.full(s.shape, value, s.dtype) for s in shapes]


def _largest(values):
    return jnp.stack([v.max(initial=0) for v in values]).max()


def _chooses_by_image(stage):
    """A gather or select whose index depends on the image."""
    name, operands = stage.operation.primitive, stage.operands
    index = {"select_n": operands[:1], "gather": operands[1:], "dynamic_slice": operands[1:]}.get(name, ())
    return any(isinstance(o, int) for o in index)


def _with(stage, carried):
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
    sizes = [jax.jvp(shift(k), (operands[k],), (operands[k],))[1] for k in range(2, len(operands))]
    added = sum(map(jnp.abs, sizes), jnp.abs(b))
    size = lambda v: m.forth(jnp.broadcast_to(v, m.shape))
    features = math.prod(w.shape[a] for a in m.neurons[1])
    # Either way: over the inputs of a neuron, or over the neurons (at every offset of a kernel) that read an input.
    terms = max(w.size // max(features, 1), w.size // max(1, min(w.shape)) if w.ndim > 1 else w.size)

    def spectral():
        if stage.operation.kind == "conv":
            return layer_norm(stage.operation.params, w, shapes[0].shape)
        contracted, batch = stage.operation.params["dimension_numbers"]
        if any(batch):
            return None
        return matrix_norm(jnp.moveaxis(w, contracted[m.w], range(len(contracted[m.w]))).reshape(-1, features))

    return Affine(lambda x: (size(m.apply(x, w) + b),), lambda x: (size(m.apply(x, w)),),
                  lambda x: (size(m.apply(x, jnp.abs(w))),), (size(added),), terms, shapes, stage.shapes, spectral)


def _scaled(run, shapes, results):
    zero, one = (tuple(_filled(v, shapes)) for v in (0, 1))
    shift, scale = (v[0] for v in jax.jvp(run, zero, one))

    def ends(lowers, uppers, gamma):
        slack = lambda v: gamma * (jnp.abs(scale) * jnp.abs(v) + jnp.abs(shift))
        low, high = ((run(v)[0], slack(v)) for v in (*lowers, *uppers))
        down = scale < 0
        return [(jnp.where(down, high[0] - high[1], low[0] - low[1]),
                 jnp.where(down, low[0] + low[1], high[0] + high[1]))]

    return Affine(run, lambda x: (scale * x,), lambda x: (jnp.abs(scale) * x,), (jnp.abs(shift),), 2, shapes,
                  results, ends=ends)
