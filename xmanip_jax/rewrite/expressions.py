"""What an elementwise function computes, in a normal form that does not depend on how it was written.

`x * 0.5 * erfc(-x / sqrt(2))` and `0.5 * x * (1 + erf(x * 0.7071))` are one function, and so are `where(x > 0, x, 0)`,
`x * (x > 0)` and `clip(x, 0)`. Sums and products are flattened, their constants folded and factored out; quotients are
products with reciprocals; powers are products; casts that change nothing and tests for NaN go. Two expressions are
compared by `match`, which finds out what the parameters of one of them are in the other.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .graph import Flat, constant_of, flatten
from .jaxprs import Literal, bind, bodies, is_custom_rule, prims, trace

__all__ = ["Expr", "T", "Z", "express", "express_function", "express_slope", "identity", "match"]


class Expr(NamedTuple):
    """An operation on expressions. Leaves are "z" (the input), "t" (a cotangent), "const" and "free" (a value)."""

    op: str
    args: tuple = ()
    params: tuple = ()


Z, T = Expr("z"), Expr("t")
_IGNORED = {"convert_element_type", "reduce_precision", "copy", "copy_p", "broadcast_in_dim", "reshape"}
_SWAPPED = {"gt": "lt", "ge": "le"}  # a > b is b < a


def const(value: Any) -> Expr:
    return Expr("const", params=(value,))


def free(i: Any) -> Expr:
    """A value that does not depend on the image."""
    return Expr("free", params=(i,))


def express(flat: Flat, out: Any, leaves: dict, *, opened: bool = False) -> Expr:
    """The expression of a value; leaves: expressions of some values, by number.

    A function with its own derivative rule is one operation, known by the text of its body and of its derivative, or,
    `opened`, the expression of its body, whose derivative is not looked at.
    """
    known = dict(leaves)

    def of(i):
        if not isinstance(i, Literal) and i in known:
            return known[i]
        if (value := constant_of(flat, i)) is not None:
            return const(value)
        if isinstance(i, Literal) or i not in flat.depends:
            return free(i)
        node = flat.makers[i]
        args = [of(j) for j in node.inputs]
        if not is_custom_rule(node.eqn):
            known[i] = _simplified(node.eqn, args, flat.aval(i))
        elif opened:
            known[i] = _opened(node.eqn, args)
        else:
            known[i] = Expr("rule", tuple(args), identity(node.eqn, flat.memo))
        return known[i]

    return of(out)


def _opened(eqn, args):
    """The expression of a function with a derivative rule: that of its body."""
    jaxpr, consts = bodies(eqn)[0]
    inner = flatten(jaxpr, consts, [True] * len(jaxpr.invars), _calls)
    return express(inner, inner.outputs[0], dict(zip(inner.inputs, args, strict=True)), opened=True)


def _calls(eqn, on):
    return eqn.primitive is prims.jit_p


_SHAPES = re.compile(r"\[[0-9,]*\]|shape=\([0-9, ]*\)|broadcast_dimensions=\([0-9, ]*\)|ShapedArray\([^)]*\)")


def identity(eqn: Any, memo: dict) -> tuple[str, str]:
    """The text of a function with a derivative rule and of that rule, without shapes; memo: remembers it."""
    if id(eqn) not in memo:
        texts = str(bodies(eqn)[0][0]), str(_rule(eqn))
        memo[id(eqn)] = tuple(re.sub(r"[\s;]+", " ", _SHAPES.sub("", text)) for text in texts)
    return memo[id(eqn)]


def _rule(eqn):
    """The derivative of a function with a rule, traced."""
    if "jvp_jaxpr_fun" in eqn.params:  # what JAX itself will call, and remember
        return eqn.params["jvp_jaxpr_fun"].call_wrapped(*[False] * len(eqn.invars))[0]
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    run = lambda *values: bind(eqn, values)[0]
    back = lambda t, *values: jax.vjp(run, *values)[1](t)[0]
    out = jax.ShapeDtypeStruct(eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype)
    return jax.make_jaxpr(back)(out, *avals).jaxpr


def express_function(f: Callable, *arguments: Any, leaves: tuple[Expr, ...], opened: bool = False) -> Expr:
    """The expression of a function; leaves: one for each argument, whose shapes and types `arguments` give."""
    jaxpr, consts, _, _ = trace(f, *arguments)
    flat = flatten(jaxpr, consts, [leaf.op in "zt" for leaf in leaves], _calls)
    return express(flat, flat.outputs[0], dict(zip(flat.inputs, leaves, strict=True)), opened=opened)


def express_slope(f: Callable, z: Any, *parameters: Any, leaves: tuple[Expr, ...]) -> Expr:
    """The expression of what flows back through f(z, *parameters) to z when t flows into it, as JAX computes it."""
    back = lambda t, z, *parameters: jax.vjp(lambda z: f(z, *parameters), z)[1](t)[0]
    out = jax.eval_shape(f, z, *parameters)
    return express_function(back, out, z, *parameters, leaves=(T, Z, *leaves), opened=True)


def _simplified(eqn, args, aval) -> Expr:
    name, params = eqn.primitive.name, eqn.params
    if name in ("convert_element_type", "select_n") and (found := _chosen(name, args, eqn)) is not None:
        return found
    if name in _IGNORED and jax.dtypes.issubdtype(aval.dtype, np.floating) == jax.dtypes.issubdtype(
            eqn.invars[0].aval.dtype, np.floating):
        return args[0]
    if name == "square":
        return _product([args[0], args[0]])
    if name == "one_minus_square":  # of jax 0.12, in the derivative of tanh
        return _sum([const(1.0), _product([const(-1.0), args[0], args[0]])])
    if name == "integer_pow" and 1 <= params["y"] <= 4:
        return _product([args[0]] * params["y"])
    if name in _ARITHMETIC:
        return _ARITHMETIC[name](*args)
    if name == "max" and (found := _leaky(*args)) is not None:
        return found
    if name in _SWAPPED:
        return Expr(_SWAPPED[name], tuple(args[::-1]))
    kept = tuple(sorted((k, str(v)) for k, v in params.items() if k in ("y", "new_dtype", "approximate")))
    return Expr(name, tuple(args), kept)


def _chosen(name, args, eqn):
    """Choices between two values; a truth value as a number is the choice between 0 and 1."""
    if name == "convert_element_type":
        number = eqn.invars[0].aval.dtype == bool and jax.dtypes.issubdtype(eqn.params["new_dtype"], np.floating)
        return Expr("choose", (args[0], const(0.0), const(1.0))) if number else None
    if len(args) != 3:
        return None
    test, no, yes = args
    if test.op == "ne" and test.args[0] == test.args[1]:  # a test for NaN
        return no
    return Expr("choose", (test, no, yes))


def _number(e):
    return float(e.params[0]) if e.op == "const" else None


def _product(args) -> Expr:
    """c times the factors: constants folded, products flattened, choices between 0 and 1 taken outside."""
    c, factors, stack = 1.0, [], list(args)[::-1]
    while stack:
        e = stack.pop()
        if e.op == "const":
            c *= _number(e)
        elif e.op == "mul":
            c *= e.params[0]
            stack.extend(e.args[::-1])
        else:
            factors.append(e)
    for k, e in enumerate(factors):
        if e.op == "choose" and _number(e.args[1]) == 0 and _number(e.args[2]) == 1:
            rest = _product([const(c), *factors[:k], *factors[k + 1:]])
            return Expr("choose", (e.args[0], const(0.0), rest))
    if not factors or c == 0:
        return const(c if not factors else 0.0)
    return factors[0] if len(factors) == 1 and c == 1 else Expr("mul", tuple(factors), (c,))


def _sum(args) -> Expr:
    """k (c + the terms), k being the coefficient of the first of them in the order of `_key`."""
    c, terms, stack = 0.0, [], [(1.0, e) for e in args][::-1]
    while stack:
        k, e = stack.pop()
        if e.op == "const":
            c += k * _number(e)
        elif e.op == "add":
            c += k * e.params[0]
            stack.extend((k, a) for a in e.args[::-1])
        elif e.op == "mul" and len(e.args) == 1:
            stack.append((k * e.params[0], e.args[0]))
        elif e.op == "mul":
            terms.append((k * e.params[0], e._replace(params=(1.0,))))
        else:
            terms.append((k, e))
    if not terms:
        return const(c)
    terms.sort(key=lambda term: _key(term[1]))
    scale = terms[0][0]
    scaled = tuple(_product([const(k / scale), e]) for k, e in terms)
    inner = scaled[0] if len(scaled) == 1 and not c else Expr("add", scaled, (c / scale,))
    return _product([const(scale), inner])


def _key(e) -> str:
    """A name of an expression by which terms are sorted, the same whatever its free values are; those come last."""
    if e.op in ("free", "const"):
        return "~"
    return f"{e.op}({','.join(map(_key, e.args))})"


def _leaky(a, b) -> Expr | None:
    """max(y, c y) with 0 < c < 1 as the choice y where y > 0, else c y; None for other maxima."""
    (k, y), (n, same) = map(_scaled, (a, b))
    if y != same or y[0].op == "const" or k * n <= 0:
        return None
    big, c = (k, n / k) if abs(k) > abs(n) else (n, k / n)
    y = _product([const(np.sign(big)), *y])
    return _product([const(abs(big)), Expr("choose", (Expr("lt", (const(0.0), y)), _product([const(c), y]), y))])


def _scaled(e):
    """A number and the factors that it multiplies."""
    return (e.params[0], e.args) if e.op == "mul" else (1.0, (e,))


def _reciprocal(e) -> Expr:
    if e.op == "const" and _number(e) != 0:
        return const(1 / _number(e))
    if e.op == "add" and e.params == (1.0,) and len(e.args) == 1 and e.args[0].op == "exp":  # 1 / (1 + exp(y))
        return Expr("logistic", (_product([const(-1.0), e.args[0].args[0]]),))
    if e.op == "mul":
        return _product([const(1 / e.params[0]), *map(_reciprocal, e.args)])
    return Expr("reciprocal", (e,))


def _odd(name):
    """f(-y) = -f(y): the sign goes outside."""
    def of(e):
        if e.op == "mul" and e.params[0] < 0:
            return _product([const(-1.0), Expr(name, (e._replace(params=(-e.params[0],)) if len(
                e.args) > 1 or e.params[0] != -1 else e.args[0],))])
        return Expr(name, (e,))

    return of


_erf = _odd("erf")
_ARITHMETIC = {
    "add": lambda a, b: _sum([a, b]), "add_any": lambda a, b: _sum([a, b]),
    "sub": lambda a, b: _sum([a, _product([const(-1.0), b])]), "neg": lambda a: _product([const(-1.0), a]),
    "mul": lambda a, b: _product([a, b]), "div": lambda a, b: _product([a, _reciprocal(b)]),
    "erf": _erf, "erfc": lambda a: _sum([const(1.0), _product([const(-1.0), _erf(a)])]), "tanh": _odd("tanh"),
    "exp": lambda a: Expr("exp", (a,)),
}


def match(pattern: Expr, e: Expr, tolerance: float, found: dict | None = None) -> dict | None:
    """What the free values of `pattern` are in `e`, or None if it is another function.

    tolerance: by which constants may differ, relatively.
    """
    found = {} if found is None else found
    if pattern.op == "free":
        name = pattern.params[0]
        if e.op not in ("free", "const") or (name in found and found[name] != e):
            return None
        return {**found, name: e}
    if e.op == "const" and pattern.op == "reciprocal" and _number(e):
        return match(pattern.args[0], const(1 / _number(e)), tolerance, found)
    if e.op == "const" and pattern.op == "mul" and len(pattern.args) == 1:
        return match(pattern.args[0], const(_number(e) / pattern.params[0]), tolerance, found)
    if pattern.op == "const":
        same = e.op == "const" and _close(_number(pattern), _number(e), tolerance)
        return found if same else None
    if pattern.op in ("mul", "add", "max", "min"):
        return _match_any_order(_terms(pattern), _terms(e), tolerance, found) if pattern.op == e.op or (
            pattern.op in ("mul", "add") and _has_free(pattern)) else None
    if pattern.op != e.op or len(pattern.args) != len(e.args) or pattern.params != e.params:
        return None
    for a, b in zip(pattern.args, e.args, strict=True):
        found = match(a, b, tolerance, found)
        if found is None:
            return None
    return found


def _terms(e):
    """The operands of a sum or product, a constant among them if there is one."""
    neutral = {"mul": 1.0, "add": 0.0}.get(e.op)
    return [*e.args, *([const(e.params[0])] if neutral is not None and e.params[0] != neutral else [])]


def _has_free(e):
    return any(a.op == "free" for a in e.args)


def _match_any_order(patterns, terms, tolerance, found):
    if len(patterns) != len(terms):
        return None
    if not patterns:
        return found
    first, *rest = patterns
    for k, term in enumerate(terms):
        so_far = match(first, term, tolerance, found)
        if so_far is not None:
            all_found = _match_any_order(rest, terms[:k] + terms[k + 1:], tolerance, so_far)
            if all_found is not None:
                return all_found
    return None


def _close(a, b, tolerance):
    return a == b or (bool(np.isfinite([a, b]).all()) and abs(a - b) <= tolerance * max(abs(a), abs(b)))
