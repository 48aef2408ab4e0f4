"""The units of a model: single operations, and blocks of elementwise ones that together are one function of one value.

Everything that is computed elementwise from one value is a chain of blocks, cut wherever all that follows depends on
a single value. `z + b -> x * sigmoid(x)` are two: an affine one and one function of x. A cast to another
floating-point type is an operation of its own, so that a block computes in one. A block that the table knows
(`known.recognise`) is one activation; what it does not know is one from its first curved operation to its last.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from .expressions import Expr, Z, express, express_slope
from .graph import ELEMENTWISE, NEUTRAL, Flat, Node, constant_of, is_elementwise_rule, literal
from .jaxprs import Literal, bind, bodies, is_custom_rule, prims
from .known import Known, recognise
from .softmax import softmaxes, without_insides

__all__ = ["Unit", "run_nodes", "units"]

LONGEST = 64  # nodes of a block that are looked at together


class Unit(NamedTuple):
    """One operation: its nodes, the values that it reads (of a block: its variable, then constants) and makes.

    role: "single", or of a block "affine", "neutral" or "curved", or "softmax";  known: the function that a curved one
    is;  axes: along which a softmax sums to 1.
    """

    nodes: tuple[Node, ...]
    inputs: tuple
    outputs: tuple[int, ...]
    role: str = "single"
    known: Known | None = None
    axes: tuple[int, ...] = ()


def units(flat: Flat, shares: bool = False) -> list[Unit]:
    """The units of a flat function through which something depends on the image, in the order of execution.

    shares: a softmax is one of them.
    """
    whole = {found.out: found for found in softmaxes(flat)} if shares else {}
    flat = without_insides(flat, whole.values()) if whole else flat
    roots: dict[int, Any] = {}
    readers: dict[int, list[Node]] = defaultdict(list)
    for node in flat.nodes:
        one = next((whole[o] for o in node.outputs if o in whole), None)
        own = [one.x] if one else flat.depending(node)
        for i in own:
            readers[i].append(node)
        if own and not one and (root := _common_root(flat, node, own, roots)) is not None:
            roots[node.outputs[0]] = root
    found, done = [], set()
    position = {id(node): k for k, node in enumerate(flat.nodes)}
    for node in flat.nodes:
        if not flat.depending(node):
            continue
        out = node.outputs[0] if node.outputs else None
        if out in whole:
            found.append(_unit(flat, whole[out].nodes, whole[out].x)._replace(role="softmax", axes=whole[out].axes))
        elif out not in roots:
            found.append(Unit((node,), node.inputs, node.outputs))
        elif out in flat.outputs or not readers[out] or any(
                roots.get(reader.outputs[0]) != roots[out] for reader in readers[out]):
            for unit in _chain(flat, roots[out], out, position):
                if unit.outputs not in done:
                    done.add(unit.outputs)
                    found.append(unit)
    return found


def _common_root(flat, node, own, roots):
    """The one value that everything a node reads is computed from elementwise, itself included; else None."""
    eqn = node.eqn
    on = [not isinstance(i, Literal) and i in flat.depends for i in node.inputs]
    if (eqn.primitive.name not in ELEMENTWISE and not is_elementwise_rule(eqn, on)) or _changes_precision(eqn):
        return None
    above = {roots.get(i, i) for i in own}
    if len(above) != 1:
        return None
    (root,) = above
    avals = [flat.aval(i) for i in (root, node.outputs[0], *own)]
    real = not any(jax.dtypes.issubdtype(aval.dtype, np.complexfloating) for aval in avals)
    return root if real and len({aval.shape for aval in avals}) == 1 else None


def _changes_precision(eqn):
    """A cast between floating-point types: what computes on either side of it has one type throughout."""
    if eqn.primitive.name != "convert_element_type":
        return False
    types = {eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype}
    return len(types) == 2 and all(jax.dtypes.issubdtype(t, np.floating) for t in types)


def _chain(flat, root, out, position):
    """The units that lead from a value to one that is computed from it elementwise."""
    nodes = sorted(_between(flat, root, out), key=lambda node: position[id(node)])
    cuts = _cuts(nodes, root)
    at = lambda k: nodes[k - 1].outputs[0] if k else root
    parts, k = [], 0
    while k < len(cuts) - 1:
        low, known, last = cuts[k], None, k + 1
        for j in range(len(cuts) - 1, k, -1):
            known = _recognised(flat, nodes[low:cuts[j]], at(low), at(cuts[j]))
            if known:
                last = j
                break
        parts.append(_unit(flat, nodes[low:cuts[last]], at(low), known))
        k = last
    return _merged(flat, parts)


def _between(flat, root, out):
    """The nodes that lead from a value to another."""
    wanted, found, stack = {out}, [], [out]
    while stack:
        node = flat.makers[stack.pop()]
        found.append(node)
        for i in flat.depending(node):
            if i != root and i not in wanted:
                wanted.add(i)
                stack.append(i)
    return found


def _cuts(nodes, root):
    """The numbers k of nodes after which everything depends on the k-th node's result alone."""
    last = {root: 0}
    for k, node in enumerate(nodes, 1):
        last.update({i: k for i in node.inputs if not isinstance(i, Literal) and i in last})
        last[node.outputs[0]] = k
    cuts, open_until = [0], last[root]
    for k, node in enumerate(nodes, 1):
        if open_until <= k:
            cuts.append(k)
        open_until = max(open_until, last[node.outputs[0]])
    return cuts


def _recognised(flat, nodes, variable, out):
    if len(nodes) > LONGEST or _role(flat, nodes) != "curved":
        return None
    dtype = flat.aval(variable).dtype
    ruled = any(is_custom_rule(node.eqn) for node in nodes)

    def slope():
        values = [i for node in nodes for i in node.inputs if not isinstance(i, Literal) and i not in flat.depends]
        constants = tuple(dict.fromkeys(values))
        run = lambda z, *values: run_nodes(nodes, dict(zip((variable, *constants), (z, *values), strict=True)))[out]
        shape = lambda i: jax.ShapeDtypeStruct(flat.aval(i).shape, flat.aval(i).dtype)
        leaves = tuple(_leaf(flat, i) for i in constants)
        return express_slope(run, shape(variable), *map(shape, constants), leaves=leaves)

    found = recognise(lambda opened: express(flat, out, {variable: Z}, opened=opened), slope if ruled else None, dtype)
    return found


def _leaf(flat, i):
    value = constant_of(flat, i)
    return Expr("free", params=(i,)) if value is None else Expr("const", params=(value,))


def _unit(flat, nodes, variable, known=None):
    role = "curved" if known else _role(flat, nodes)
    if role != "curved" and len(nodes) == 1 and nodes[0].inputs.count(variable) == 1:  # else z + z, a function of one
        return Unit(tuple(nodes), nodes[0].inputs, nodes[0].outputs, role)
    made = {o for node in nodes for o in node.outputs} | {variable}
    values = dict.fromkeys(i for node in nodes for i in node.inputs if not isinstance(i, Literal) and i not in made)
    return Unit(tuple(nodes), (variable, *values), nodes[-1].outputs, role, known)


def _role(flat, nodes):
    """ "neutral" where a block passes its variable on (or not, by a fixed choice), "affine" in it, else "curved"."""
    kinds = {_share(flat, node) for node in nodes}
    return "curved" if "curved" in kinds else "affine" if "affine" in kinds else "neutral"


def _share(flat, node):
    name, own = node.eqn.primitive.name, flat.depending(node)
    if not all(jax.dtypes.issubdtype(flat.aval(i).dtype, np.floating) for i in (*own, node.outputs[0])):
        return "curved"
    if name == "select_n":
        fixed = isinstance(node.inputs[0], Literal) or node.inputs[0] not in flat.depends
        return "neutral" if fixed else "curved"
    if (name in NEUTRAL and name != "stop_gradient") or _never_acts(flat, node):
        return "neutral"
    scaled = name == "mul" and len(own) == 1
    linear = scaled or name in ("add", "add_any", "sub", "neg")
    return "affine" if linear or (name == "div" and node.inputs[1] not in own) else "curved"


def _never_acts(flat, node):
    """A maximum with minus infinity, as jax.nn.softmax takes one, or a minimum with infinity."""
    bound = {"max": -np.inf, "min": np.inf}.get(node.eqn.primitive.name)
    return bound is not None and bound in [constant_of(flat, i) for i in node.inputs]


def _merged(flat, parts):
    """Unknown curved parts that follow each other, with the plain numbers added or multiplied between them, as one.

    So is a square that an unknown part follows, exp(-z**2), and what turns the sign after it, 1 - exp(-z).
    """
    found = []
    for part in parts:
        start = len(found)
        if part.known is None and part.role == "curved":
            while start and _is_plain(flat, found[start - 1]):
                start -= 1
            opens = start and found[start - 1].role == "curved" and _is_open(found[start - 1])
            start = start - 1 if opens else len(found)
        joined = [*found[start:], part]
        found[start:] = [_joined(flat, joined)]
    return _turned(flat, found)


def _joined(flat, parts):
    return parts[0] if len(parts) == 1 else _unit(flat, [n for part in parts for n in part.nodes], parts[0].inputs[0])


def _turned(flat, parts):
    """With each unknown curved part the plain ones after it, up to the last that turns the sign, if they turn it."""
    found = []
    for part in parts:
        found.append(part)
        at = next((k for k in reversed(range(len(found))) if not _is_plain(flat, found[k])), None)
        after = found[at + 1:] if at is not None and found[at].role == "curved" and found[at].known is None else []
        if after and _sign(flat, after[-1]) < 0:
            found[at:] = [_joined(flat, found[at:])]
    return found


def _sign(flat, part):
    """Of what a plain part multiplies by."""
    node, = part.nodes
    name, at = node.eqn.primitive.name, next(k for k, i in enumerate(node.inputs) if i in flat.depending(node))
    if name in ("mul", "div"):
        return np.sign(constant_of(flat, node.inputs[1 - at]))
    return -1 if name == "neg" or (name == "sub" and at == 1) else 1


def _is_open(part):
    """Whether an unknown curved part goes on with what stands before it."""
    return part.known is None or part.known.name == "square"


def _is_plain(flat, part):
    """Whether a part adds or multiplies a number that is known."""
    constants = [i for i in part.inputs if isinstance(i, Literal) or i not in flat.depends]
    return part.role == "affine" and len(part.nodes) == 1 and all(constant_of(flat, i) is not None for i in constants)


def run_nodes(nodes: Iterable[Node], values: dict,
              instead: Mapping[str, Callable] = MappingProxyType({})) -> dict[int, Any]:
    """The values that nodes make of given ones, by number; instead: functions in place of some primitives."""
    env = dict(values)
    for node in nodes:
        operands = [literal(i) if isinstance(i, Literal) else env[i] for i in node.inputs]
        env.update(zip(node.outputs, _computed(node.eqn, operands, instead), strict=True))
    return env


def _computed(eqn, operands, instead):
    if eqn.primitive.name in instead:
        return [instead[eqn.primitive.name](*operands)]
    if instead and (is_custom_rule(eqn) or eqn.primitive is prims.jit_p):
        jaxpr, consts = bodies(eqn)[0]
        return _through(jaxpr, consts, operands, instead)
    return bind(eqn, operands)


def _through(jaxpr, consts, operands, instead):
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *operands), strict=True))
    read = lambda v: literal(v) if isinstance(v, Literal) else env[v]
    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _computed(eqn, list(map(read, eqn.invars)), instead), strict=True))
    return list(map(read, jaxpr.outvars))
