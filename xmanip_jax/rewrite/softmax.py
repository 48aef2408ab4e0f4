"""A softmax, however it is written: exponentials over their own sum, shifted or masked, found as one operation.

`p / sum(p)` of p = exp(e), and `exp(e - log(sum(exp(e))))`, are the softmax of e. If e is x less its maximum, which is
the same along the summed axes, it is the softmax of x. Masks before the exponential and after it, and a constant added
to the sum, belong to it.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .graph import NEUTRAL, STEPS, Flat, Node, constant_of
from .jaxprs import Literal

__all__ = ["Softmax", "is_share", "softmaxes", "without_insides"]

_SHAPED = {"broadcast_in_dim", "expand_dims", "reshape", "squeeze"}
_CASTS = NEUTRAL - {"stop_gradient"}
_MASKS = {"select_n"} | _CASTS
_FACTORS = _MASKS | {"mul"}
_ALONG = {"inverse": _SHAPED | _CASTS, "log": _SHAPED | _CASTS | {"abs", "add"},
          "reduce_sum": _SHAPED | _CASTS | {"abs", "add", "max", "select_n"},
          "reduce_max": _SHAPED | NEUTRAL | {"add", "max", "select_n"}}
_INSIDE = _SHAPED | NEUTRAL | STEPS | {"abs", "add", "div", "exp", "exp2", "integer_pow", "log", "max", "mul",
                                       "reduce_max", "reduce_sum", "select_n", "sub"}


class Softmax(NamedTuple):
    """nodes: its equations, in order;  x: the number of its scores;  axes: along which it sums to 1."""

    nodes: tuple[Node, ...]
    x: int
    axes: tuple[int, ...]

    @property
    def out(self) -> int:
        return self.nodes[-1].outputs[0]


def softmaxes(flat: Flat) -> list[Softmax]:
    """All of a flat function, in the order of execution."""
    order = {id(node): k for k, node in enumerate(flat.nodes)}
    found = []
    for node in flat.nodes:
        for x, axes in _candidates(flat, node):
            nodes = _between(flat, x, node)
            if nodes is not None:
                found.append(Softmax(tuple(sorted(nodes, key=lambda n: order[id(n)])), x, axes))
                break
    return found


def _candidates(flat, node) -> Iterator[tuple[int, tuple[int, ...]]]:
    """What the result of a node may be the softmax of, and along which axes."""
    name, found = node.eqn.primitive.name, None
    if name == "div" and len(flat.depending(node)) == 2:
        found = _of_quotient(flat, *node.inputs)
    elif name == "mul" and len(flat.depending(node)) == 2:
        one, other = node.inputs
        found = _of_quotient(flat, one, other, True) or _of_quotient(flat, other, one, True)
    elif name == "exp" and flat.depending(node):
        found = _of_logarithm(flat, node)
    if found is not None:
        e, axes = found
        x = _unshifted(flat, e, axes)
        yield from ((i, axes) for i in dict.fromkeys((x, _unmasked(flat, x), e)))


def _of_quotient(flat, part, whole, inverted=False):
    """(the exponent, the axes) of exponentials over their sum; inverted: times the reciprocal of it."""
    exponential = _maker(flat, _unmasked(flat, part, _FACTORS))
    if exponential is None or exponential.eqn.primitive.name not in ("exp", "exp2"):
        return None
    inverse = _spread(flat, whole, "inverse") if inverted else None
    total = None if inverted and inverse is None else _spread(flat, whole, "reduce_sum", through=inverse)
    other = total and _maker(flat, _unmasked(flat, total.inputs[0], _FACTORS))
    same = other and (other.eqn.primitive, other.inputs) == (exponential.eqn.primitive, exponential.inputs)
    return (exponential.inputs[0], _axes(total)) if same else None


def _of_logarithm(flat, node):
    """(the exponent, the axes) of an exponential of what is less the logarithm of the sum of its exponentials."""
    difference = _maker(flat, node.inputs[0])
    if difference is None or difference.eqn.primitive.name != "sub" or len(flat.depending(difference)) != 2:
        return None
    e, rest = difference.inputs
    logarithm, added = (_spread(flat, rest, goal, terms=True) for goal in ("log", "reduce_max"))
    total = logarithm and _spread(flat, rest, "reduce_sum", terms=True, through=logarithm)
    exponential = total and _maker(flat, total.inputs[0])
    if not exponential or exponential.eqn.primitive.name != "exp":
        return None
    shift = None if added is None else _subtracted(flat, exponential.inputs[0])
    same = exponential.inputs[0] == e if added is None else bool(shift) and shift[0] == e and shift[1] is added
    return (e, _axes(total)) if same else None


def _unshifted(flat, e, axes):
    """x, if the exponent is x less its largest value along the axes, or a larger set of them; else the exponent."""
    shift = _subtracted(flat, e)
    if shift is None or not set(axes) <= set(_axes(shift[1])):
        return e
    x, largest = shift
    return x if largest.inputs[0] == x or _unmasked(flat, largest.inputs[0]) == _unmasked(flat, x) else e


def _subtracted(flat, e):
    """(x, the node of the maximum) of x less a maximum spread over it."""
    node = _maker(flat, e)
    if node is None or node.eqn.primitive.name != "sub" or node.inputs[0] not in flat.depends:
        return None
    largest = None if isinstance(node.inputs[1], Literal) else _spread(flat, node.inputs[1], "reduce_max")
    return largest and (node.inputs[0], largest)


def _unmasked(flat, i, masks=_MASKS):
    """The value behind masks and casts: choices that the image does not make and, of _FACTORS, constant factors."""
    while (node := _maker(flat, i)) is not None and node.eqn.primitive.name in masks:
        own = flat.depending(node)
        if len(own) != 1 or (node.eqn.primitive.name == "select_n" and own[0] == node.inputs[0]):
            return i
        i = own[0]
    return i


def _spread(flat, i, goal, *, terms=False, through=None):
    """The node of a reduction that a value is, spread again over the axes that it went over; None for any other value.

    terms: of a sum of two values, either may be it;  through: a logarithm or a reciprocal on the way.
    """
    return next(_found(flat, i, goal, terms, through, ()), None)


def _found(flat, i, goal, terms, through, chain):
    node = _maker(flat, i)
    if node is None:
        return
    name = node.eqn.primitive.name
    if name == goal or (goal == "inverse" and _inverts(flat, node)):
        if goal in ("inverse", "log") or _returns(flat, node, chain):
            yield node
    elif name in _ALONG[goal] or node is through:
        own = [j for j in node.inputs[name == "select_n":] if j in flat.depending(node)]
        if len(own) == 1 or (terms and name == "add"):
            for j in own:
                yield from _found(flat, j, goal, terms, through, (node, *chain))


def _inverts(flat, node):
    name = node.eqn.primitive.name
    return (name == "integer_pow" and node.eqn.params["y"] == -1) or (name == "div" and constant_of(
        flat, node.inputs[0]) == 1)


def _returns(flat, reduction, chain):
    """Whether every axis that a reduction kept is where it was after the nodes of a chain."""
    axes, rank = _axes(reduction), len(flat.aval(reduction.inputs[0]).shape)
    at = [a for a in range(rank) if a not in axes]
    for node in chain:
        shape = flat.aval(node.outputs[0]).shape
        if node.eqn.primitive.name == "broadcast_in_dim":
            places = [None] * len(shape)
            for a, d in zip(at, node.eqn.params["broadcast_dimensions"], strict=True):
                places[int(d)] = a
            at = places
        elif node.eqn.primitive.name in _SHAPED:
            source, = flat.depending(node)
            before = iter([a for a, n in zip(at, flat.aval(source).shape, strict=True) if n != 1])
            at = [next(before, None) if n != 1 else None for n in shape]
    size = flat.aval(reduction.inputs[0]).shape
    return len(at) == rank and all(a in (None, k) for k, a in enumerate(at)) and all(
        k in at or k in axes or size[k] == 1 for k in range(rank))


def _between(flat, x, last):
    """The nodes that lead from a value to a node, if all that leads to it comes from there; else None."""
    found, seen, stack = [], {x}, [last]
    while stack:
        node = stack.pop()
        if node is None or node.eqn.primitive.name not in _INSIDE:
            return None
        found.append(node)
        for i in flat.depending(node):
            if i not in seen:
                seen.add(i)
                stack.append(flat.makers.get(i))
    return found


def _maker(flat, i):
    return None if isinstance(i, Literal) or i not in flat.depends else flat.makers.get(i)


def _axes(node):
    return tuple(int(a) for a in node.eqn.params["axes"])


def without_insides(flat: Flat, found: Collection[Softmax]) -> Flat:
    """Without the nodes that are read by softmaxes alone, each of which is what its last node makes of its scores."""
    inside = {id(node): one for one in found for node in one.nodes[:-1]}
    last = {id(one.nodes[-1]): one for one in found}
    hidden = {o for one in found for node in one.nodes[:-1] for o in node.outputs}
    needed, kept = {o for o in flat.outputs if not isinstance(o, Literal)}, []
    for node in reversed(flat.nodes):
        if needed.isdisjoint(node.outputs) and (id(node) in inside or hidden & set(flat.depending(node))) and id(
                node) not in last:
            continue
        kept.append(node)
        read = last[id(node)].nodes if id(node) in last else (node,)
        made = {o for n in read for o in n.outputs} if id(node) in last else set()
        needed.update(i for n in read for i in n.inputs if not isinstance(i, Literal) and i not in made)
    return flat._replace(nodes=kept[::-1])


def is_share(flat: Flat, part: Any, whole: Any) -> bool:
    """Whether a quotient divides exponentials by their own sum, as a softmax does."""
    return _of_quotient(flat, part, whole) is not None
