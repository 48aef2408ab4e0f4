"""A model as a sequence of affine maps, activations, products and maxima: what bounds of a network walk along."""

import itertools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Array, Model
from .activations import Activation, activation, enclosed
from .affine import Affine, affine, moved
from .windows import Windows, over_axes, windows

__all__ = ["Network", "Product", "Step", "read"]

_MAXIMA = {"max": 1, "min": -1}


class Product(NamedTuple):
    """The product of two values that carry the image, elementwise. shape: of each."""

    shape: jax.ShapeDtypeStruct


class Step(NamedTuple):
    """One stage: what it is; the numbers of the values it reads and makes; the shapes of those it makes.

    weighted: a dense layer or a convolution.
    """

    part: Affine | Activation | Product | Windows
    carried: tuple[int, ...]
    results: tuple[int, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    weighted: bool = False


class Network(NamedTuple):
    """The steps in the order of execution, the numbers of the input and of the result, the shape of every value."""

    steps: list[Step]
    image: int
    result: int
    shapes: dict[int, jax.ShapeDtypeStruct]


def read(f: Model, x: Array) -> Network:
    """`f` as a network, its convolutions at the highest precision; x for its shape and type.

    Raises rewrite.UnsupportedPrimitiveError naming every operation that is none of the four, and derivative rules of
    the model's own that no bound covers.
    """
    with jax.default_matmul_precision("highest"), warnings.catch_warnings():
        warnings.simplefilter("error", rewrite.LostRuleWarning)
        try:
            program = rewrite.stages(f, x)
        except rewrite.LostRuleWarning as lost:
            raise rewrite.UnsupportedPrimitiveError(f"no bound is known: {lost}") from lost
    network = Network([], program.image, program.result, {program.image: jax.ShapeDtypeStruct(x.shape, x.dtype)})
    fresh, unknown = itertools.count(1 + max((n for s in program.stages for n in s.results), default=0)), {}
    for stage in program.stages:
        network.shapes.update(zip(stage.results, stage.shapes, strict=True))
        try:
            _append(network, stage, fresh)
        except rewrite.UnsupportedPrimitiveError as error:
            unknown[_name(stage.operation)] = str(error)
    if unknown:
        reasons = "; ".join(reason for reason in dict.fromkeys(unknown.values()) if reason)
        raise rewrite.UnsupportedPrimitiveError(
            f"no bound is known for {', '.join(sorted(unknown))}{reasons and f' ({reasons})'}; supported are dense "
            "layers, convolutions, sums, maxima, average and max-pooling, products and quotients, and elementwise "
            "functions of arithmetic, exponentials, powers and comparisons; a derivative rule of the model's own only "
            "where it is elementwise and linear in what it pulls back")
    return network


def _name(operation):
    place = getattr(operation, "place", "")
    return f"{operation.name} ({place})" if place else operation.name


def _append(network, stage, fresh):
    """The steps of a stage: one, but two for a quotient and three for a maximum of two values."""
    add = lambda *step: network.steps.append(Step(*step))
    kind, name = stage.operation.kind, stage.operation.name
    out = stage.shapes[0]

    def inner(part, carried, shape):
        number = next(fresh)
        network.shapes[number] = shape
        add(part, carried, (number,), (shape,))
        return number

    def widened(number):
        """A value that is broadcast to the result's shape."""
        source = network.shapes[number]
        if source.shape == out.shape:
            return number
        shape = jax.ShapeDtypeStruct(out.shape, source.dtype)
        return inner(moved(lambda v: (jnp.broadcast_to(v, out.shape),), (source,), (shape,)), (number,), shape)

    if kind in ("activation", "add", "elementwise", "product", "quotient") or (name in ("mul", "div", "max", "min")):
        stage = stage._replace(operands=tuple(widened(o) if isinstance(o, int) else o for o in stage.operands))
    carried, shapes = stage.carried, tuple(network.shapes[n] for n in stage.carried)
    one, two = len(set(carried)) == 1, len(set(carried)) == 2
    if part := windows(stage, shapes[0]) or affine(stage, shapes):
        add(part, carried, stage.results, stage.shapes, stage.operation.merge is not None)
    elif one and (kind in ("activation", "elementwise", "product", "quotient") or name in ("mul", "div", "max", "min")):
        add(activation(stage), carried[:1], stage.results, stage.shapes)
    elif two and (kind == "product" or name == "mul"):
        add(Product(out), carried, stage.results, stage.shapes)
    elif two and (kind == "quotient" or name == "div"):
        shape = shapes[1]
        inverse = inner(enclosed("div", lambda v: 1 / v, shape), carried[1:], shape)
        add(Product(out), (carried[0], inverse), stage.results, stage.shapes)
    elif two and name in _MAXIMA:
        _add_maximum(inner, add, _MAXIMA[name], stage, shapes)
    else:
        raise rewrite.UnsupportedPrimitiveError("")


def _add_maximum(inner, add, sign, stage, shapes):
    """The larger of two values, or the smaller as the larger of their negatives: a maximum over an axis of two."""
    out, = stage.shapes
    pair = jax.ShapeDtypeStruct((2, *out.shape), out.dtype)
    stacked = moved(lambda *v: (sign * jnp.stack(v),), shapes, (pair,), lambda *v: (jnp.stack(v),))
    both = inner(stacked, stage.carried, pair)
    largest = over_axes((0,), out.shape, pair)
    if sign == 1:
        add(largest, (both,), stage.results, stage.shapes)
        return
    best = inner(largest, (both,), out)
    add(moved(lambda v: (-v,), (out,), (out,), lambda v: (v,)), (best,), stage.results, stage.shapes)
