"""Attention in a model: a softmax of products of queries and keys, whose result multiplies values.

Found by what is computed, however it is written; docs/rewrite.md says what counts. Weights are given as
Float[heads, queries, keys], whatever their layout in the model.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Array, Example, Float, Model, Shaped
from .errors import LayerError, UnsupportedPrimitiveError
from .jaxprs import Literal
from .plan import Operation, Options, Plan, Step
from .propagate import plan_for, refuse, run
from .unroll import unroll

__all__ = ["Attention", "above", "attention_weights", "attentions", "blocks_of", "products_of"]

_MOVES = ("custom", "elementwise", "route", "select")


class Attention(NamedTuple):
    """An attention block: its number, the shape of its weights (heads, queries, keys), where its softmax stands.

    layout: the axes of the softmax's result that are heads, queries and keys;  tokens: how many the values were made
    of, None where no layer made them;  loop: the loop or branch that it sits in, "" for none.
    """

    index: int  # type: ignore[assignment]  # a tuple's method
    shape: tuple[int, int, int]
    place: str
    layout: tuple[tuple[int, ...], int, int]
    tokens: int | None
    loop: str = ""

    def __str__(self):
        return f"attention {self.index}" + f" ({self.place})" * bool(self.place)


def attentions(f: Model, x: Shaped[Example, "*shape"]) -> tuple[Attention, ...]:
    """The attention blocks of `f` in the order of execution, those of a loop once; nothing is computed.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> [block.shape for block in rewrite.attentions(lambda x: jax.nn.softmax(x @ x.T) @ x, jnp.ones((3, 2)))]
    [(1, 3, 3)]
    """
    return tuple(block for block, _ in blocks_of(plan_for(f, x, Options(open_remat=True, shares=True))[0]))


def attention_weights(f: Model, choose: Callable[[Operation], Any] = lambda operation: None) -> Callable[..., Any]:
    """`g(x, deltas=None) -> (f(x), [Float[heads, queries, keys] of each attention block])`.

    deltas: arrays of these shapes that are added to the weights: at 0, d logit / d deltas is the gradient at the
    weights. choose: as in `propagate`; the cotangent of a delta is then the relevance of the weights. Loops of a fixed
    length are written out, and remat is opened.

    Raises UnsupportedPrimitiveError for a block in a branch or a while loop, and what `choose` refuses.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> f = lambda x: (jax.nn.softmax(x @ x.T) @ x).sum(0)
    >>> rewrite.attention_weights(f)(jnp.zeros((2, 3)))[1]
    [Array([[[0.5, 0.5],
            [0.5, 0.5]]], dtype=float32)]
    """

    def weighted(x, deltas: Sequence[Array] | None = None):
        plan, leaves, structure = plan_for(f, x, options)
        if any(block.loop == "scan" for block, _ in blocks_of(plan)):
            plan, leaves, structure = plan_for(unroll(f), x, options)
        refuse(plan, choose)
        blocks = {id(step): block for block, step in blocks_of(plan)}
        if looped := [block for block in blocks.values() if block.loop]:
            raise UnsupportedPrimitiveError(f"{looped[0]} sits in a `{looped[0].loop}`: it may run any number of times")
        found = []

        def after(step, results):
            if id(step) not in blocks:
                return results
            block, (value,) = blocks[id(step)], results
            if deltas is not None:
                value = value + _back(jnp.asarray(deltas[block.index], value.dtype), block.layout, value.shape)
            found.append(_arranged(value, block.layout))
            return [value]

        out = jax.tree.unflatten(structure, run(plan, leaves, choose, {}, after=after))
        return out, found

    options = Options(open_remat=True, shares=True)
    return weighted


def _arranged(value: Array, layout: tuple) -> Float[Array, "heads queries keys"]:
    heads, queries, keys = layout
    moved = value.transpose(*heads, queries, keys)
    return moved.reshape(-1, *moved.shape[-2:])


def _back(delta, layout, shape):
    return jax.linear_transpose(lambda v: _arranged(v, layout), jax.ShapeDtypeStruct(shape, delta.dtype))(delta)[0]


def blocks_of(plan: Plan) -> list[tuple[Attention, Step]]:
    """Every attention block of a plan with the step of its softmax, those of a loop once."""
    return [(block, step) for block, step, _ in _found(plan)]


def products_of(plan: Plan) -> list[Step]:
    """The products of weights and values."""
    return [product for *_, product in _found(plan)]


def _found(plan, loop="", start=0):
    makers, readers, found = {}, defaultdict(list), []
    for step in plan.steps:
        makers.update(dict.fromkeys(step.outputs, step))
        for i in {i for i in step.inputs if not isinstance(i, Literal)}:
            readers[i].append(step)
    for step in plan.steps:
        for body in step.bodies:
            found += _found(body, step.eqn.primitive.name, start + len(found))
        if step.operation is None or step.operation.kind != "softmax" or not _scored(step, makers):
            continue
        for product, chain in _products(step, readers):
            found.append((_block(plan, start + len(found), step, product, chain, makers, loop), step, product))
            break
    return found


def _carried(step):
    return [i for i, c in zip(step.inputs, step.operation.carried, strict=False) if c]


def _scored(step, makers):
    """Whether a softmax is of products of two values, scaled, masked or shifted."""
    through = (*_MOVES, "activation", "add", "sum")
    return any(s.operation.kind in ("matmul", "product") for s in above(step.inputs[0], makers, through))


def above(i: Any, makers: dict[int, Step], through: Sequence[str]) -> list[Step]:
    """The nearest steps above a value that are of none of the kinds that are looked through."""
    found, seen, stack = [], set(), [i]
    while stack:
        i = stack.pop()
        step = makers.get(i)
        if i in seen or step is None or step.operation is None:
            continue
        seen.add(i)
        if step.operation.kind in through:
            stack += _carried(step)
        else:
            found.append(step)
    return found


def _products(softmax, readers):
    """The products that a softmax is the weight of, each with the steps on the way to it."""
    stack = [(softmax.outputs[0], ())]
    while stack:
        i, chain = stack.pop()
        for step in readers[i]:
            operation = step.operation
            if operation and operation.beside == "softmax" and step.inputs[1 - operation.signal] == i:
                yield step, chain
            elif operation and operation.kind in _MOVES and len(step.outputs) == 1:
                stack.append((step.outputs[0], (*chain, step)))


def _block(plan, index, softmax, product, chain, makers, loop):
    shape = plan.flat.aval(softmax.outputs[0]).shape
    keys = softmax.operation.params["axes"]
    queries = _queries(plan.flat, shape, keys, product, chain)
    where = softmax.operation.place
    if len(keys) != 1 or queries is None:
        raise LayerError(f"attention weights of shape {shape} ({where}), over axes {keys}: which axis holds the "
                         "queries is not seen")
    heads = tuple(a for a in range(len(shape)) if a not in (*keys, queries))
    value = product.inputs[product.operation.signal]
    made = [s for s in above(value, makers, (*_MOVES, "add", "sum")) if s.operation.merge]
    tokens = {math.prod(n for a, n in enumerate(s.operation.merge.shape) if a not in s.operation.merge.neurons[0])
              for s in made}
    size = math.prod(shape[a] for a in heads), shape[queries], shape[keys[0]]
    return Attention(index, size, where, (heads, queries, keys[0]), min(tokens, default=None), loop)


def _queries(flat, shape, keys, product, chain):
    """The axis of the queries: the one that the product with the values keeps, else the one as long as the keys."""
    at = [a if n != 1 else None for a, n in enumerate(shape)]
    for step in chain:
        at = at and _moved(at, step, flat)
    if at is not None and product.operation.kind == "matmul":
        k = 1 - product.operation.signal
        contracted, batch = product.eqn.params["dimension_numbers"]
        free = [a for d, a in enumerate(at) if a is not None and d not in contracted[k] and d not in batch[k]]
    else:
        free = [a for a, n in enumerate(shape) if a not in keys and n == shape[keys[0]]]
    ones = [a for a, n in enumerate(shape) if n == 1 and a not in keys]
    return free[0] if len(free) == 1 else ones[-1] if not free and ones else None


def _moved(at, step, flat):
    """Which axis each axis was before a step; None where it is not known."""
    name, params = step.operation.primitive, step.eqn.params
    shape = flat.aval(step.outputs[0]).shape
    if name == "transpose":
        return [at[a] for a in params["permutation"]]
    if step.operation.kind != "route" or shape == flat.aval(step.inputs[0]).shape:
        return at if len(shape) == len(at) else None
    if name in ("broadcast_in_dim", "expand_dims", "reshape", "squeeze"):
        kept = [a for a in at if a is not None]
        left = iter(kept)
        found = [next(left, None) if n != 1 else None for n in shape]
        return found if sum(n != 1 for n in shape) == len(kept) else None
    return None
