"""A model as a straight program, for those who carry something else than numbers through it: intervals, norms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..types import Array, Example, Shaped
from .errors import UnsupportedPrimitiveError
from .graph import describe
from .jaxprs import Literal, trace
from .plan import IMAGE, Operation, Options, early_values, make_plan, read

__all__ = ["Program", "Stage", "stages"]


class Stage(NamedTuple):
    """One operation of a program.

    operands: the number of a value that depends on the image, or an array that does not;  results: numbers;
    shapes: jax.ShapeDtypeStruct of each result.
    """

    operation: Operation
    operands: tuple[int | Array, ...]
    results: tuple[int, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def carried(self) -> tuple[int, ...]:
        """The numbers of the operands that carry the image."""
        return tuple(o for o in self.operands if isinstance(o, int))


class Program(NamedTuple):
    """stages in the order of execution, from the value `image` to the value `result`."""

    stages: list[Stage]
    image: int
    result: int


def stages(f: Callable[[Any], Any], x: Shaped[Example, "*shape"]) -> Program:
    """The operations of `f`, a function of one array, through which its result depends on the image.

    Calls are opened, each linear layer has its affine run merged into it (`Operation.merge`, whose operands the stage
    has), everything that does not depend on the image is computed. x: the image, for its shape and type.

    Raises UnsupportedPrimitiveError naming loops, branches and everything that reads the image without carrying it
    (comparisons, indices), if the result depends on them.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> program = rewrite.stages(lambda x: jax.nn.relu(x @ jnp.ones((2, 3)) + 1).sum(), jnp.ones(2))
    >>> [stage.operation.name for stage in program.stages]  # the sum belongs to the layer
    ['dot_general', 'relu', 'reduce_sum']
    """
    jaxpr, consts, leaves, structure = trace(f, x)
    if len(leaves) != 1 or structure.num_leaves != 1:
        raise UnsupportedPrimitiveError("a straight program takes one array and returns one array")
    plan = make_plan(jaxpr, consts, [IMAGE], Options(open_remat=True, opens_rules=lambda eqn: False))
    env = early_values(plan, {})
    operand = lambda i: i if not isinstance(i, Literal) and i in plan.flat.depends else read(env, i)
    kept, needed = [], {plan.outputs[0]}
    refused: set[Any] = set()
    behind: set[Any] = set()
    for step in reversed(plan.steps):
        if needed.isdisjoint(step.outputs):
            continue
        needed.update(i for i in step.inputs if isinstance(i, int))
        if step.operation is None:  # named where what carries the image comes to an end, not behind
            carried = (plan.tags.get(i) for i in step.inputs if isinstance(i, int))
            (refused if any(t and t.carried for t in carried) else behind).add(describe(step.eqn))
            continue
        avals = map(plan.flat.aval, step.outputs)
        shapes = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
        kept.append(Stage(step.operation, tuple(map(operand, step.inputs)), step.outputs, shapes))
    if refused := refused or behind:
        raise UnsupportedPrimitiveError(f"the result depends on the image through {', '.join(sorted(refused))}: "
                                        "branches, comparisons and what stop_gradient hides, as in a softmax, have no "
                                        "straight program, and loops of a fixed length only after rewrite.unroll(f)")
    return Program(kept[::-1], plan.inputs[0], plan.outputs[0])
