"""The table of known elementwise functions: how each may be written, and what is smooth in its place.

A function is known by what it computes (see `expressions`), never by its name. What else the library knows of one hangs
on the name that it has here: its bounds in `certify.activations`, its place among the layers in `rewrite.layers`.
"""

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..nonlinearities import centred_softplus, softplus_beta, softplus_beta6
from .expressions import Expr, Z, express_function, express_slope, free, match

__all__ = ["KNOWN", "Function", "Known", "recognise", "rules_of"]


class Known(NamedTuple):
    """A recognised function: its name in the table, and its parameters, numbers or arrays."""

    name: str
    parameters: tuple[Any, ...] = ()


class Function(NamedTuple):
    """One row of the table.

    spellings: functions (z, *parameters) that all compute it, the first one being the reference;
    surrogate: (r, z, *parameters) -> what takes its place, r being a smooth relu, or None where it has no kink;
    nonnegative: its values are;  gate: they lie in [0, 1];  layer: the function whose surrogate it is.
    """

    spellings: tuple[Callable, ...]
    surrogate: Callable | None = None
    nonnegative: bool = False
    gate: bool = False
    layer: str | None = None


_relu, _sigmoid = jax.nn.relu, jax.nn.sigmoid
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _negative_part(r, z):
    """min(z, 0), by a relu."""
    return z - r(z)


def _like(value, z):
    return jnp.asarray(value, z.dtype)


def _is_one(a):
    return not isinstance(a, jax.core.Tracer) and jnp.ndim(a) == 0 and float(a) == 1


KNOWN: dict[str, Function] = {
    "relu": Function((
        _relu, lambda z: jnp.maximum(z, 0), lambda z: jnp.where(z > 0, z, 0), lambda z: jnp.where(z >= 0, z, 0),
        lambda z: jnp.where(z < 0, 0, z), lambda z: jnp.where(z <= 0, 0, z), lambda z: -jnp.minimum(-z, 0),
        lambda z: z - jnp.minimum(z, 0), lambda z: (z + jnp.abs(z)) / 2,
    ), lambda r, z: r(z), nonnegative=True),
    "relu6": Function((
        jax.nn.relu6, lambda z: jnp.clip(z, 0, 6), lambda z: jax.lax.clamp(_like(0, z), z, _like(6, z)),
        lambda z: jnp.minimum(_relu(z), 6), lambda z: jnp.maximum(jnp.minimum(z, 6), 0),
    ), lambda r, z: r(z) - r(z - 6), nonnegative=True),
    "leaky_relu": Function((
        jax.nn.leaky_relu, lambda z, a: jnp.where(z > 0, z, a * z), lambda z, a: jnp.where(z < 0, a * z, z),
        lambda z, a: jnp.where(z <= 0, a * z, z), lambda z, a: jnp.maximum(z, 0) + a * jnp.minimum(z, 0),
        lambda z, a: _relu(z) - a * _relu(-z),
    ), lambda r, z, a: a * z + (1 - a) * r(z)),
    "elu": Function((
        jax.nn.elu, lambda z, a: jnp.where(z > 0, z, a * jnp.expm1(z)),
        lambda z, a: jnp.where(z > 0, z, a * (jnp.exp(z) - 1)),
        lambda z, a: jnp.where(z > 0, z, a * jnp.expm1(jnp.minimum(z, 0))),
    ), lambda r, z, a: jax.nn.elu(z) if _is_one(a) else r(z) + a * jnp.expm1(_negative_part(r, z))),
    "selu": Function((jax.nn.selu,), lambda r, z: SELU_SCALE * (r(z) + SELU_ALPHA * jnp.expm1(_negative_part(r, z)))),
    "celu": Function((jax.nn.celu,)),
    "gelu": Function((lambda z: jax.nn.gelu(z, approximate=False),)),
    "gelu_tanh": Function((lambda z: jax.nn.gelu(z, approximate=True),)),
    "swish": Function((jax.nn.silu,)),
    "mish": Function((jax.nn.mish, lambda z: z * jnp.tanh(jnp.log1p(jnp.exp(z))))),
    "softplus": Function((
        jax.nn.softplus, lambda z: jnp.logaddexp(0.0, z), lambda z: jnp.log1p(jnp.exp(z)),
        lambda z: jnp.log(1 + jnp.exp(z)),
    ), nonnegative=True),
    "log_sigmoid": Function((jax.nn.log_sigmoid, lambda z: jnp.log(_sigmoid(z)))),
    "sigmoid": Function((
        _sigmoid, lambda z: 0.5 * (1 + jnp.tanh(0.5 * z)), lambda z: jnp.exp(z) / (1 + jnp.exp(z)),
    ), nonnegative=True, gate=True),
    "tanh": Function((jnp.tanh, lambda z: 2 * _sigmoid(2 * z) - 1)),
    "hard_tanh": Function((jax.nn.hard_tanh, lambda z: jnp.clip(z, -1, 1)), lambda r, z: r(z + 1) - r(z - 1) - 1),
    "hard_sigmoid": Function((
        jax.nn.hard_sigmoid, lambda z: jnp.clip(z / 6 + 0.5, 0, 1), lambda z: jnp.clip(z + 3, 0, 6) / 6,
    ), lambda r, z: (r(z + 3) - r(z - 3)) / 6, nonnegative=True, gate=True),
    "hard_swish": Function((
        jax.nn.hard_silu, lambda z: z * jnp.clip(z + 3, 0, 6) / 6, lambda z: z * jnp.clip(z / 6 + 0.5, 0, 1),
    ), lambda r, z: z * (r(z + 3) - r(z - 3)) / 6),
    "squareplus": Function((jax.nn.squareplus,), nonnegative=True),
    "soft_sign": Function((jax.nn.soft_sign,)),
    "sparse_plus": Function((jax.nn.sparse_plus,), nonnegative=True),
    "sparse_sigmoid": Function((
        jax.nn.sparse_sigmoid, lambda z: jnp.clip((z + 1) / 2, 0, 1),
    ), lambda r, z: (r(z + 1) - r(z - 1)) / 2, nonnegative=True, gate=True),
    "abs": Function((jnp.abs,), lambda r, z: r(z) + r(-z), nonnegative=True),
    "square": Function((jnp.square,), nonnegative=True),
    "softplus_beta": Function((softplus_beta,), nonnegative=True, layer="relu"),
    "softplus_beta6": Function((softplus_beta6,), nonnegative=True, layer="relu6"),
    "centred_softplus": Function((centred_softplus,), layer="relu"),
    "clip": Function((
        jnp.clip, lambda z, low, high: jnp.maximum(jnp.minimum(z, high), low),
        lambda z, low, high: jax.lax.clamp(low, z, high),
    ), lambda r, z, low, high: low + r(z - low) - r(z - high)),
    "maximum": Function((jnp.maximum,), lambda r, z, c: c + r(z - c)),
    "minimum": Function((jnp.minimum,), lambda r, z, c: c - r(c - z)),
}
_PARAMETERS = {"leaky_relu": 1, "elu": 1, "celu": 1, "squareplus": 1, "softplus_beta": 1, "softplus_beta6": 1,
               "centred_softplus": 1, "clip": 2, "maximum": 1, "minimum": 1}


@functools.cache
def _patterns(dtype: Any, opened: bool) -> dict[frozenset[str], list[tuple[str, Expr]]]:
    """The expressions of all spellings with the names of their functions, by the operations in them."""
    found: dict[frozenset[str], list[tuple[str, Expr]]] = defaultdict(list)
    for name, row in KNOWN.items():
        n = _PARAMETERS.get(name, 0)
        arguments = [jax.ShapeDtypeStruct((2,), dtype), *[jax.ShapeDtypeStruct((), dtype)] * n]
        for f in row.spellings:
            e = express_function(f, *arguments, leaves=(Z, *map(free, range(n))), opened=opened)
            if (name, e) not in found[_operations(e)]:
                found[_operations(e)].append((name, e))
    return dict(found)


@functools.cache
def rules_of(dtype: Any) -> frozenset:
    """The identities of the functions with derivative rules that occur in the table."""
    return frozenset().union(*(_ruled(e) for row in _patterns(dtype, False).values() for _, e in row))


def _ruled(e: Expr) -> frozenset:
    own = frozenset([e.params]) if e.op == "rule" else frozenset()
    return own.union(*map(_ruled, e.args))


@functools.lru_cache(maxsize=256)
def _with(name: str, dtype: Any, parameters: tuple[float | None, ...], opened: bool | None) -> tuple[Expr, ...]:
    """The expressions of a function's spellings with given parameters, None where one is not a number.

    opened: see `express`; None for the expressions of the slopes.
    """
    z = jax.ShapeDtypeStruct((2,), dtype)
    unknown = [k for k, p in enumerate(parameters) if p is None]
    express = express_slope if opened is None else functools.partial(express_function, opened=opened)

    def filled(f):
        def of(z, *values):
            values = iter(values)
            return f(z, *(next(values) if p is None else jnp.asarray(p, dtype) for p in parameters))
        return of

    leaves = tuple(map(free, unknown))
    arguments = [z, *[jax.ShapeDtypeStruct((), dtype)] * len(unknown)]
    return tuple(dict.fromkeys(express(filled(f), *arguments, leaves=leaves if opened is None else (Z, *leaves))
                               for f in KNOWN[name].spellings))


def recognise(express: Callable[[bool], Expr], slope: Callable[[], Expr] | None, dtype: Any) -> Known | None:
    """The function that maps z as an expression does, or None. Parameters are expressions, see `Known`.

    express(opened) -> the expression of the function, see `expressions.express`;  slope() -> that of its derivative;
    None where no part of the function has its own derivative rule.
    """
    if not jax.dtypes.issubdtype(dtype, np.floating):
        return None
    e = express(False)
    found = _find(e, dtype, False)
    if found is None and slope is not None and not _ruled(e) <= rules_of(np.dtype(dtype)):
        found = _find(express(True), dtype, True)
        if found and not _has_slope(found, slope(), dtype):
            return None
    return found


def _find(e, dtype, opened):
    if e.op in ("z", "const", "free"):
        return None
    patterns = _patterns(np.dtype(dtype), opened).get(_operations(e), ())
    for name, pattern in patterns:
        if (matched := match(pattern, e, _tolerance(dtype))) is not None:
            return Known(name, tuple(matched[k] for k in range(_PARAMETERS.get(name, 0))))
    for name in dict.fromkeys(name for name, _ in patterns if _PARAMETERS.get(name) == 1):
        for number in _numbers(e):  # a constant that took part in the folding
            if any(match(p, e, _tolerance(dtype)) is not None for p in _with(name, np.dtype(dtype), (number,), opened)):
                return Known(name, (Expr("const", params=(number,)),))
    return None


def _has_slope(found, slope, dtype):
    numbers = tuple(float(p.params[0]) if p.op == "const" else None for p in found.parameters)
    return any(match(p, slope, _tolerance(dtype)) is not None for p in _with(
        found.name, np.dtype(dtype), numbers, None))


def _tolerance(dtype):
    return 8 * float(jnp.finfo(dtype).eps)


def _numbers(e) -> set[float]:
    """The constants of an expression and their reciprocals."""
    own = {float(v) for v in e.params if e.op in ("const", "mul", "add") and v != 0}
    own = own.union(*map(_numbers, e.args)) if e.args else own
    return own | {1 / v for v in own if v} | {1.0}


def _operations(e: Expr) -> frozenset[str]:
    """The operations of an expression, leaves, sums and products left out."""
    own = frozenset() if e.op in ("z", "t", "const", "free", "add", "mul", "reciprocal") else frozenset([e.op])
    return own.union(*map(_operations, e.args))
