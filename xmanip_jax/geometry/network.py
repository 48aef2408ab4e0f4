"""A model as a sequence of affine maps, activations and max-poolings: what bounds of a network walk along."""

from typing import NamedTuple

import jax

from .. import rewrite
from ..types import Array, Model
from .activations import Activation, activation
from .affine import Affine, affine
from .windows import Windows, windows

__all__ = ["Network", "Step", "read"]


class Step(NamedTuple):
    """One stage: what it is; the numbers of the values it reads and makes; the shapes of those it makes.

    weighted: a dense layer or a convolution;  addition: of two values, as at a residual.
    """

    part: Affine | Activation | Windows
    carried: tuple[int, ...]
    results: tuple[int, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    weighted: bool
    addition: bool


class Network(NamedTuple):
    """The steps in the order of execution, the numbers of the input and of the result."""

    steps: list[Step]
    image: int
    result: int


def read(f: Model, x: Array) -> Network:
    """`f` as a network, its convolutions at the highest precision; x for its shape and type.

    Raises rewrite.UnsupportedPrimitiveError naming every operation that is none of the three.
    """
    with jax.default_matmul_precision("highest"):
        program = rewrite.stages(f, x)
    shapes, steps, unknown = {program.image: jax.ShapeDtypeStruct(x.shape, x.dtype)}, [], set()
    for stage in program.stages:
        shapes.update(zip(stage.results, stage.shapes, strict=True))
        carried = tuple(shapes[n] for n in stage.carried)
        part = activation(stage) or windows(stage, carried[0]) or affine(stage, carried)
        if part is None:
            unknown.add(stage.operation.name)
        steps.append(Step(part, stage.carried, stage.results, stage.shapes, stage.operation.merge is not None,
                          stage.operation.kind == "add"))
    if unknown:
        raise rewrite.UnsupportedPrimitiveError(
            f"no bound is known for {', '.join(sorted(unknown))}; supported are dense layers, convolutions, sums, "
            "average and max-pooling, residuals, BatchNorm in inference, relu, relu6, softplus, tanh and sigmoid of "
            "jax.nn, smooth.softplus_beta, smooth.softplus_beta6 and smooth.centred_softplus")
    return Network(steps, program.image, program.result)
