"""A linear layer and the affine run after it, as one layer z = apply(x, w) + b."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .blocks import Unit, run_nodes
from .graph import Flat
from .jaxprs import Literal, bind

__all__ = ["Merged", "affine_run", "merged"]

_SAME = {"convert_element_type", "copy", "copy_p", "name", "optimization_barrier", "reduce_precision",
         "sharding_constraint", "device_put"}
_MOVES = {"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "transpose"}


class Merged(NamedTuple):
    """A linear layer with its run.

    apply: (x, w) -> z without shift, bilinear;  weights: (*operands) -> (w with the run's scale in it, shift b,
    broadcastable to z);  run: (z, *constants of the run) -> the result of the run;  forth, back: from the layout of z
    to that of the result, which only moves values, and back;  x and w: their places among the operands;  shape: of z;
    neurons: the axes of z and the axes of w that number the output features, in one order.
    """

    apply: Callable[..., jax.Array]
    weights: Callable[..., tuple[Any, Any]]
    run: Callable[..., jax.Array]
    forth: Callable[[jax.Array], jax.Array]
    back: Callable[[jax.Array], jax.Array]
    x: int
    w: int
    shape: tuple[int, ...]
    neurons: tuple[tuple[int, ...], tuple[int, ...]]


class _Factor(NamedTuple):
    """A part of an axis of the layer's result: how long it is, and whether it numbers features."""

    size: int
    feature: bool


def affine_run(flat: Flat, unit: Unit, kind: str, carried: Sequence[bool],
               next_of: Callable) -> tuple[Unit, ...]:
    """The units after a linear layer that only move its values or scale and shift them, a number for each feature.

    next_of(v): the unit that alone reads v, or None.
    """
    features = _neurons(unit.nodes[0].eqn, kind, carried)[0]
    value, run = unit.outputs[0], []
    layout = [[_Factor(n, a in features)] for a, n in enumerate(flat.aval(value).shape)]
    while (after := next_of(value)) is not None:
        node = after.nodes[0]
        if after.role == "affine" and len(after.nodes) == 1:
            others = [i for i in node.inputs if i != value]
            if len(others) != len(node.inputs) - 1 or not all(_per_feature(flat, i, layout) for i in others):
                break
        elif len(after.nodes) > 1 or len(node.inputs) != 1 or (layout := _moved(flat, node, layout)) is None:
            break
        run.append(after)
        value = after.outputs[0]
    return tuple(run)


def _per_feature(flat, i, layout):
    """Whether a constant varies along the features only: by its shape, or because it was broadcast."""
    shape = flat.aval(i).shape
    if not shape:
        return True
    if len(shape) != len(layout):
        return False
    varying = {d for d, n in enumerate(shape) if n != 1}
    made = None if isinstance(i, Literal) else flat.makers.get(i)
    if made is not None and made.eqn.primitive.name == "broadcast_in_dim":
        source = made.eqn.invars[0].aval.shape
        varying = {d for d, n in zip(made.eqn.params["broadcast_dimensions"], source, strict=True) if n != 1}
    return all(f.feature for d in varying for f in layout[d] if f.size != 1)


def _moved(flat, node, layout):
    """The layout after an operation that only moves values, or None where it does anything else."""
    name, params = node.eqn.primitive.name, node.eqn.params
    before, after = flat.aval(node.inputs[0]), flat.aval(node.outputs[0])
    if name in _SAME:
        return layout if jax.dtypes.issubdtype(after.dtype, np.floating) and before.shape == after.shape else None
    if name == "transpose":
        return [layout[a] for a in params["permutation"]]
    if name == "broadcast_in_dim" and math.prod(before.shape) != math.prod(after.shape):
        return None
    if name in ("squeeze", "expand_dims", "broadcast_in_dim") or (name == "reshape" and params["dimensions"] is None):
        return _reshaped([f for factors in layout for f in factors if f.size != 1], after.shape)
    return None


def _reshaped(factors, shape):
    """Factors, in row-major order, dealt out to axes of the given lengths, split where they must be."""
    left, found = list(factors), []
    for n in shape:
        axis, missing = [], n
        while missing > 1:
            if not left:
                return None
            f = left.pop(0)
            if missing % f.size == 0:
                axis.append(f)
                missing //= f.size
            elif f.size % missing == 0:
                axis.append(f._replace(size=missing))
                left.insert(0, f._replace(size=f.size // missing))
                missing = 1
            else:
                return None
        found.append(axis)
    return None if left else found


def _neurons(eqn, kind, carried):
    """The axes of the result and the axes of the weights that number the output features, in one order."""
    if kind == "conv":
        numbers = eqn.params["dimension_numbers"]
        return (numbers.out_spec[1],), (numbers.rhs_spec[0],)
    contracted, batch = eqn.params["dimension_numbers"]
    w = 0 if carried[1] else 1
    free = [[a for a in range(len(eqn.invars[k].aval.shape)) if a not in contracted[k] and a not in batch[k]]
            for k in (0, 1)]
    n = len(batch[0])
    start = n if w == 0 else n + len(free[0])
    return (*range(n), *range(start, start + len(free[w]))), (*batch[w], *free[w])


def merged(flat: Flat, unit: Unit, kind: str, carried: Sequence[bool],
           run: tuple[Unit, ...], extra: tuple) -> Merged:
    """The layer of a unit with its run; extra: the numbers of the run's constants, which follow the operands."""
    eqn = unit.nodes[0].eqn
    x, w = (1, 0) if carried[1] else (0, 1)
    start, end = unit.outputs[0], run[-1].outputs[0] if run else unit.outputs[0]
    shape, dtype = flat.aval(start).shape, flat.aval(start).dtype
    w_dtype = flat.aval(unit.inputs[w]).dtype
    nodes = [node for part in run for node in part.nodes]
    moves = [(node, i) for node in nodes for i in node.inputs if not isinstance(i, Literal) and i in flat.depends]

    def apply(x_value, w_value):
        return bind(eqn, (x_value, w_value) if x == 0 else (w_value, x_value))[0]

    def follow(z, *constants):
        return run_nodes(nodes, {start: z, **dict(zip(extra, constants, strict=True))})[end]

    def forth(z):
        env = {start: z}
        for node, i in moves:
            env[node.outputs[0]] = bind(node.eqn, [env[i]])[0] if node.eqn.primitive.name in _MOVES else env[i]
        return env[end]

    def back(r):
        return jax.linear_transpose(forth, jax.ShapeDtypeStruct(shape, dtype))(r)[0] if run else r

    def weights(*operands):
        if not run:
            return operands[w], jnp.zeros((), dtype)
        at = lambda z: follow(z, *operands[2:])
        shift, scale = jax.jvp(at, (jnp.zeros(shape, dtype),), (jnp.ones(shape, dtype),))
        one_place = tuple(slice(None) if a in features else slice(0, 1) for a in range(len(shape)))
        shift, scale = (back(v)[one_place] for v in (shift, scale))
        return operands[w] * at_neurons(scale, (features, neurons), operands[w].ndim).astype(w_dtype), shift

    features, neurons = _neurons(eqn, kind, carried)
    return Merged(apply, weights, follow, forth, back, x, w, shape, (features, neurons))


def at_neurons(v: jax.Array, neurons: tuple[tuple[int, ...], tuple[int, ...]], rank: int) -> jax.Array:
    """A number for each feature, as the layer's result has them, broadcastable to its weights of `rank` axes."""
    of_result, of_weights = neurons
    v = v.reshape([n for a, n in enumerate(v.shape) if a in of_result]) if v.ndim != len(of_result) else v
    order = np.argsort(of_weights)
    sizes = dict(zip(of_weights, v.shape, strict=True))
    return v.transpose(order).reshape([sizes.get(a, 1) for a in range(rank)])
