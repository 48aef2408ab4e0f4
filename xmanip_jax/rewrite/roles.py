"""What an operation is by its neighbours: a statistic of a normalisation, the signal of a product, a mean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .blocks import Unit
from .graph import NEUTRAL, Flat, constant_of
from .jaxprs import Literal
from .operations import ROUTES, Tag

__all__ = ["centred", "log_sums", "normalising", "scale", "signal"]


def signal(kind: str, tags: Sequence[Any]) -> tuple[int | None, str]:
    """Of two operands of a product, the one that is not merely a gate or a scale, and what the other one is.

    The other is "lost" (it carries nothing), a "scale", a "gate" or a "softmax". (None, "") where both count.
    """
    if kind not in ("matmul", "product", "quotient") or len(tags) != 2:
        return None, ""
    marks = {"lost": [not t.carried for t in tags], "scale": [t.scale for t in tags],
             "gate": [t.gate or t.softmax for t in tags]}
    for name, mark in marks.items():
        if sum(mark) == 1:
            return mark.index(False), "softmax" if tags[mark.index(True)].softmax else name
    return None, ""


def centred(flat: Flat, unit: Unit) -> bool:
    """Whether a unit subtracts from a value its own mean, spread again over the axes that it went over."""
    node = unit.nodes[0]
    if node.eqn.primitive.name != "sub" or isinstance(node.inputs[1], Literal):
        return False
    whole, i, factor = node.inputs[0], node.inputs[1], 1.0
    while (made := flat.makers.get(i)) is not None and made.eqn.primitive.name != "reduce_sum":
        name, own = made.eqn.primitive.name, flat.depending(made)
        constant = 1.0
        if name in ("mul", "div"):
            constant = constant_of(flat, made.inputs[made.inputs[0] == own[0]] if name == "mul" else made.inputs[1])
        if len(own) != 1 or name not in ("mul", "div", *ROUTES, *NEUTRAL) or constant is None:
            return False
        factor, i = factor * constant if name == "mul" else factor / constant, own[0]
    if made is None or made.inputs[0] != whole:
        return False
    count = np.prod([flat.aval(whole).shape[a] for a in made.eqn.params["axes"]])
    return bool(np.isclose(factor * count, 1, rtol=1e-2))


def scale(flat: Flat, unit: Unit, alone: Callable[[int], Unit | None]) -> float:
    """The product of the numbers that the result of a unit is multiplied by, alone, next."""
    product, i = 1.0, unit.outputs[0]
    while (after := alone(i)) is not None and len(flat.depending(after.nodes[0])) == 1:
        for node in after.nodes:
            name = node.eqn.primitive.name
            factor: float | None = 1.0
            if name in ("mul", "div"):
                k = node.inputs.index(i)
                factor = constant_of(flat, node.inputs[1 - k]) if name == "mul" or k == 0 else None
            if factor is None or not np.isfinite(factor) or name not in ("mul", "div", *ROUTES, *NEUTRAL):
                return product
            product, i = product * factor if name == "mul" else product / factor, node.outputs[0]
    return product


def normalising(found: Sequence[Unit], kinds: Mapping[int, str], known: Mapping[int, Tag]) -> set[int]:
    """The values on the way to what a product only scales by: squares, their roots; and the terms of a softmax."""
    makers = {o: k for k, unit in enumerate(found) for o in unit.outputs}
    stack = []
    for k, unit in enumerate(found):
        tags: list[Any] = [None if isinstance(i, Literal) else known.get(i) for i in unit.inputs]
        if kinds.get(k) in ("product", "quotient"):
            stack += [i for i, t in zip(unit.inputs, tags, strict=True) if t.scale and not all(t.scale for t in tags)]
            if kinds[k] == "quotient" and known[unit.outputs[0]].gate:
                stack.append(unit.inputs[0])
    seen = set()
    while stack:
        i = stack.pop()
        if i in seen or i not in makers:
            continue
        seen.add(i)
        tag = known[i]
        if tag.scale or (tag.squares and kinds.get(makers[i]) != "activation"):
            stack += [j for j in found[makers[i]].inputs if not isinstance(j, Literal) and j in known]
    return {i for i in seen if known[i].squares or known[i].scale or known[i].nonnegative}


def log_sums(found: Sequence[Unit], kinds: Mapping[int, str]) -> set[int]:
    """The values log, exp, and |.| between of a log of a sum of exponentials, as jax.nn.log_softmax subtracts it."""
    makers = {o: k for k, unit in enumerate(found) for o in unit.outputs}
    names = [{node.eqn.primitive.name for node in unit.nodes} for unit in found]
    marked: set[int] = set()
    for k, unit in enumerate(found):
        chain = [unit.outputs[0]] if kinds.get(k) == "activation" and names[k] == {"log"} else []
        at = makers.get(unit.inputs[0]) if chain else None
        while at is not None and (kinds.get(at) == "route" or names[at] <= {"abs", "reduce_sum"}):
            chain += found[at].outputs
            at = makers.get(found[at].inputs[0])
        if at is not None and names[at] == {"exp"} and any(names[makers[o]] == {"reduce_sum"} for o in chain):
            marked.update(chain, found[at].outputs)
    return marked
