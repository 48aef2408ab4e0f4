"""A model as a sequence of affine maps, activations, products and maxima: what bounds of a network walk along."""

import itertools
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import rewrite
from ..memory import chosen
from ..numerics import epsilon
from ..types import Array, Model
from .activations import Activation, activation, known
from .affine import Affine, affine, moved
from .critical_points import RECIPROCAL
from .windows import Windows, over_axes, windows

__all__ = ["Layer", "Layers", "Product", "RoundingWarning", "read", "relative_error"]

_ELEMENTWISE = ("activation", "custom", "elementwise", "product", "quotient", "route", "statistic")


_WIDER = 'certify in float64, jax.config.update("jax_enable_x64", True), with weights and images of that type'


class RoundingWarning(UserWarning):
    """Bounds that are right, and wide by the rounding of their type alone."""


class Product(NamedTuple):
    """The product of two values that carry the image, elementwise. shape: of each."""

    shape: jax.ShapeDtypeStruct


class Layer(NamedTuple):
    """One stage of the network, as bounds see it: what it is, the numbers of the values that it reads and makes, the
    shapes of those that it makes.

    weighted: a dense layer or a convolution.
    """

    part: Affine | Activation | Product | Windows
    carried: tuple[int, ...]
    results: tuple[int, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    weighted: bool = False


class Layers(NamedTuple):
    """The layers in the order of execution, the numbers of the input and of the result, the shape of every value."""

    steps: list[Layer]
    image: int
    result: int
    shapes: dict[int, jax.ShapeDtypeStruct]


def read(f: Model, x: Array) -> Layers:
    """`f` as a network, its convolutions at the highest precision; x for its shape and type.

    Raises rewrite.UnsupportedPrimitiveError naming every operation that is none of the four, and derivative rules of
    the model's own that no bound covers; ValueError inside a driver whose precision rounds products, and where the
    rounding of x's type is as large as what is added up. Warns where it widens bounds by more than a twentieth.
    """
    if chosen.value and chosen.value.rounded:
        raise ValueError("bounds hold for products that are not rounded: certify without precision=")
    with jax.default_matmul_precision("highest"):
        program = rewrite.stages(f, x)
    network = Layers([], program.image, program.result, {program.image: jax.ShapeDtypeStruct(x.shape, x.dtype)})
    fresh, unknown = itertools.count(1 + max((n for s in program.stages for n in s.results), default=0)), {}
    for stage in program.stages:
        network.shapes.update(zip(stage.results, stage.shapes, strict=True))
        try:
            _append(network, stage, fresh)
        except rewrite.UnsupportedPrimitiveError as error:
            unknown[str(stage.operation)] = str(error)
    if unknown:
        reasons = "; ".join(reason for reason in dict.fromkeys(unknown.values()) if reason)
        raise rewrite.UnsupportedPrimitiveError(
            f"no bound is known for {', '.join(sorted(unknown))}{reasons and f' ({reasons})'}; supported are dense "
            "layers, convolutions, sums, maxima, average and max-pooling, products and quotients, and elementwise "
            "functions of arithmetic, exponentials, powers and comparisons; a derivative rule of the model's own only "
            "where it is elementwise and linear in what it pulls back")
    _check_rounding(network)
    return network


def relative_error(terms: int, shapes: Iterable[jax.ShapeDtypeStruct]) -> float:
    """Of each product in a sum of so many terms: rounding, here and where the network itself is computed."""
    return 2 * (terms + 4) * max(map(epsilon, shapes))


def _check_rounding(network):
    """Rounding is bounded by its first order, which holds as long as it is small."""
    sums = [(relative_error(s.part.terms, of), s.part.terms, max(of, key=epsilon).dtype)
            for s in network.steps if isinstance(s.part, Affine) for of in [(*s.part.shapes, *s.shapes)]]
    worst, terms, dtype = max(sums, key=lambda of: of[0], default=(0.0, 0, None))
    if worst > 0.5:
        raise ValueError(f"in {dtype} the rounding of a sum of {terms} terms is as large as the sum: {_WIDER}")
    if (total := sum(error for error, *_ in sums)) > 0.05:
        warnings.warn(f"in {dtype} rounding alone widens these bounds by about {100 * total:.0f} %: {_WIDER}",
                      RoundingWarning, stacklevel=4)


def _append(network, stage, fresh):
    """The steps of a stage: one, but two for a quotient and several for a maximum of two values and for a minimum."""
    add = lambda *step: network.steps.append(Layer(*step))
    kind, name, (out, *_) = stage.operation.kind, stage.operation.primitive, stage.shapes
    carried, shapes = stage.carried, tuple(network.shapes[n] for n in stage.carried)
    one = len(set(carried)) == 1

    def inner(part, carried, shape):
        number = next(fresh)
        network.shapes[number] = shape
        add(part, carried, (number,), (shape,))
        return number

    if part := windows(stage, shapes[0]) or affine(stage, shapes):
        add(part, carried[:len(part.shapes)] if isinstance(part, Affine) else carried, stage.results, stage.shapes,
            stage.operation.merge is not None)
    elif one and kind in _ELEMENTWISE and shapes[0].shape == out.shape:
        add(activation(stage), carried[:1], stage.results, stage.shapes)
    elif kind == "product":
        add(Product(out), carried, stage.results, stage.shapes)
    elif kind == "quotient":
        inverse = inner(known("div", jnp.reciprocal, RECIPROCAL), carried[1:], shapes[1])
        add(Product(out), (carried[0], inverse), stage.results, stage.shapes)
    elif name in ("max", "min") and len(carried) == 2:
        sign = 1 if name == "max" else -1
        pair = jax.ShapeDtypeStruct((2, *out.shape), out.dtype)
        stacked = lambda *v: (sign * jnp.stack(v),)
        both = inner(moved(stacked, shapes, (pair,), lambda *v: (jnp.stack(v),)), carried, pair)
        _add_largest(inner, add, sign, over_axes((0,), out.shape, pair), both, stage)
    elif name == "reduce_min":
        largest = over_axes(stage.operation.params["axes"], out.shape, shapes[0])
        _add_largest(inner, add, -1, largest, inner(_negative(shapes[0]), carried, shapes[0]), stage)
    else:
        raise rewrite.UnsupportedPrimitiveError("")


def _add_largest(inner, add, sign, largest, value, stage):
    """A maximum, the last step of a stage; a minimum is that of the negatives."""
    if sign == 1:
        add(largest, (value,), stage.results, stage.shapes)
    else:
        out, = stage.shapes
        add(_negative(out), (inner(largest, (value,), out),), stage.results, stage.shapes)


def _negative(shape):
    return moved(lambda v: (-v,), (shape,), (shape,), lambda v: (v,))
