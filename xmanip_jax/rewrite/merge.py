"""A linear layer and the affine run after it, as one layer z = apply(x, w) + b."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .jaxprs import Literal, bind
from .operations import AFFINE

__all__ = ["Merged", "affine_run", "merged"]


class Merged(NamedTuple):
    """A linear layer with its run.

    apply: (x, w) -> z without shift, bilinear;  weights: (*operands) -> (w with the run's scale in it, shift b,
    broadcastable to z);  run: (z, *constants of the run) -> the result of the run;  x and w: their places among the
    operands;  shape: of z before the run, which only adds or drops axes of length 1;  neurons: the axes of z and the
    axes of w that number the output features.
    """

    apply: Callable[..., jax.Array]
    weights: Callable[..., tuple[Any, Any]]
    run: Callable[..., jax.Array]
    x: int
    w: int
    shape: tuple[int, ...]
    neurons: tuple[tuple[int, ...], tuple[int, ...]]


def affine_run(node, kind, carried, next_of, independent, maker):
    """(the nodes of the run, the axes of the layer's result that number its features).

    next_of(v): the node that alone reads v, or None;  independent(v): v does not depend on the image;  maker(v): the
    node that computes an independent v, or None.
    """
    features, run, value = _feature_axes(node.eqn, kind, carried), [], node.outputs[0]
    shape = node.eqn.outvars[0].aval.shape
    axes = list(range(len(shape)))  # the axis of the layer's result that each axis of the current value is
    while features and (after := next_of(value)) is not None:
        eqn = after.eqn
        out = eqn.outvars[0].aval.shape
        if eqn.primitive.name in ("reshape", "squeeze", "expand_dims", "broadcast_in_dim"):
            if [n for n in out if n != 1] != [n for n in shape if n != 1]:
                break
            kept = iter([a for a, n in zip(axes, shape, strict=True) if n != 1])
            axes = [None if n == 1 else next(kept) for n in out]
        elif not _is_affine(after, value, independent) or out != shape or not all(
                _per_feature(i, v, axes, features, maker) for i, v in zip(after.inputs, eqn.invars, strict=True)
                if i != value):
            break
        run.append(after)
        value, shape = after.outputs[0], out
    return tuple(run), features


def _is_affine(node, value, independent):
    name, others = node.eqn.primitive.name, [i for i in node.inputs if i != value]
    if name not in AFFINE or len(others) != len(node.inputs) - 1:
        return False
    if name == "div" and node.inputs[0] != value:
        return False
    return all(isinstance(i, Literal) or independent(i) for i in others)


def _per_feature(i, var, axes, features, maker):
    """Whether an operand of the run varies along the features only: by its shape, or because it was broadcast."""
    shape = var.aval.shape
    if not shape:
        return True
    if len(shape) != len(axes):
        return False
    varying = {d for d, n in enumerate(shape) if n != 1}
    made = None if isinstance(i, Literal) else maker(i)
    if made is not None and made.eqn.primitive.name == "broadcast_in_dim":
        source = made.eqn.invars[0].aval.shape
        varying = {d for d, n in zip(made.eqn.params["broadcast_dimensions"], source, strict=True) if n != 1}
    return all(axes[d] in features for d in varying)


def _feature_axes(eqn, kind, carried):
    if kind == "conv":
        return (eqn.params["dimension_numbers"].out_spec[1],)
    (lhs_contract, rhs_contract), (lhs_batch, _) = eqn.params["dimension_numbers"]
    if lhs_batch:
        return ()
    free = len(eqn.invars[0].aval.shape) - len(lhs_contract), len(eqn.invars[1].aval.shape) - len(rhs_contract)
    return tuple(range(free[0])) if carried[1] else tuple(range(free[0], sum(free)))


def merged(node, kind, carried, run, features, extra) -> Merged:
    """The layer of `node` with its run; extra: the numbers of the run's constants, which follow the operands."""
    eqn = node.eqn
    x, w = (1, 0) if carried[1] else (0, 1)
    aval = eqn.outvars[0].aval

    def apply(x_value, w_value):
        return bind(eqn, (x_value, w_value) if x == 0 else (w_value, x_value))[0]

    def follow(z, *constants):
        env = {node.outputs[0]: z, **dict(zip(extra, constants, strict=True))}
        for n in run:
            values = [literal(i) if isinstance(i, Literal) else env[i] for i in n.inputs]
            env.update(zip(n.outputs, bind(n.eqn, values), strict=True))
        return env[run[-1].outputs[0]] if run else z

    def weights(*operands):
        if not run:
            return operands[w], jnp.zeros((), aval.dtype)
        at = lambda z: follow(z, *operands[2:])
        shift, scale = jax.jvp(at, (jnp.zeros(aval.shape, aval.dtype),), (jnp.ones(aval.shape, aval.dtype),))
        one_place = tuple(slice(None) if a in features else slice(0, 1) for a in range(len(aval.shape)))
        shift, scale = (v.reshape(aval.shape)[one_place] for v in (shift, scale))
        per_neuron = [n if a in neurons else 1 for a, n in enumerate(operands[w].shape)]
        return operands[w] * scale.reshape(per_neuron), shift

    neurons = _weight_axes(eqn, kind, w)
    return Merged(apply, weights, follow, x, w, aval.shape, (features, neurons))


def _weight_axes(eqn, kind, w):
    """The axes of the weights that number the output features, in the order of those of the result."""
    if kind == "conv":
        return (eqn.params["dimension_numbers"].rhs_spec[0],)
    (contracted, batch) = eqn.params["dimension_numbers"]
    return tuple(a for a in range(len(eqn.invars[w].aval.shape)) if a not in contracted[w] and a not in batch[w])


def literal(v):
    """The value of a Literal in its own type."""
    return jnp.asarray(v.val, v.aval.dtype)
