"""Ranges of elementwise functions: no sampled value, slope or slope of a slope may leave them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from xmanip_jax import certify, rewrite, smooth
from xmanip_jax.certify import Box, activations, critical_points
from xmanip_jax.certify.enclosure import enclose

pytestmark = pytest.mark.promotes("ranks", "types")

nn = jax.nn
PRIMITIVES = {
    "exp": lax.exp, "exp2": jnp.exp2, "log": lax.log, "log1p": lax.log1p, "expm1": lax.expm1, "tanh": lax.tanh,
    "logistic": lax.logistic, "sqrt": lax.sqrt, "rsqrt": lax.rsqrt, "cbrt": lax.cbrt, "square": lax.square,
    "cube": lambda z: lax.integer_pow(z, 3), "inverse square": lambda z: lax.integer_pow(z, -2),
    "power": lambda z: z**2.5, "power of two": lambda z: 2.0**z, "abs": lax.abs, "sign": lax.sign, "floor": lax.floor,
    "max": lambda z: jnp.maximum(z, 1.0), "min": lambda z: jnp.minimum(1.0, z),
    "clamp": lambda z: lax.clamp(z.dtype.type(-1), z, z.dtype.type(0.5)),
    "erf": lax.erf, "erfc": lax.erfc, "erf_inv": lambda z: lax.erf_inv(z / 8), "sin": lax.sin, "cos": lax.cos,
    "asinh": lax.asinh, "atan": lax.atan, "sinh": lax.sinh, "cosh": lax.cosh, "neg": lax.neg,
    "div": lambda z: z / (z - 3), "inverse": lambda z: 1 / z, "product": lambda z: z * (z - 1),
    "own product": lambda z: z * z, "half": lambda z: z.astype(jnp.bfloat16).astype(z.dtype),
    "select": lambda z: jnp.where(z > 1, 2 - z, z),
    "steps": lambda z: z * (z > 0) + ((z >= 1) & ~(z == 2)).astype(z.dtype) - (z != 0),
    "logaddexp": lambda z: jnp.logaddexp(z, 2 * z),
    "barrier": lambda z: lax.stop_gradient(z) * z, "rounded": lambda z: lax.reduce_precision(z, 8, 7),
}


def boxes(dtype):
    """200 intervals of every width around places up to 80, and 60 points of each: ends, middles, near kinks."""
    place, scale = jax.random.split(jax.random.key(0))
    lower = jax.random.uniform(place, (200,), dtype, -8, 8) * 10.0 ** jax.random.uniform(scale, (200,), dtype, -1, 1)
    upper = lower + 10.0 ** jax.random.uniform(jax.random.key(1), (200,), dtype, -7, 1)
    share = jnp.concatenate([jnp.linspace(0, 1, 40), jax.random.uniform(jax.random.key(2), (12,))]).astype(dtype)
    kinks = jnp.array([-3.0, -1, 0, 1, 2, 3, 6, 0.5])[:, None]
    points = jnp.concatenate([lower + share[:, None] * (upper - lower), jnp.broadcast_to(kinks, (8, 200))])
    return lower, upper, jnp.clip(points.astype(dtype), lower, upper)


def outside(found, values):
    return (values < found[0]) | (values > found[1])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_no_value_leaves_the_range_of_a_primitive(name, dtype, x64):
    function = PRIMITIVES[name]

    @jax.jit
    def violations(lower, upper, points):
        found = enclose(function, lower, upper, 4)
        values, exact = function(points), function(points.astype(jnp.float64))
        wide = found.upper - found.lower
        return (outside(found, values) | outside(found, exact)).sum(), jnp.median(wide / (upper - lower + 1e-6))

    count, width = violations(*boxes(dtype))
    assert count == 0 and width < 1e4


ACTIVATIONS = {
    "relu": nn.relu, "relu6": nn.relu6, "leaky_relu": nn.leaky_relu, "elu": nn.elu, "selu": nn.selu, "celu": nn.celu,
    "gelu": lambda z: nn.gelu(z, approximate=False), "gelu_tanh": nn.gelu, "swish": nn.swish, "mish": nn.mish,
    "softplus": nn.softplus, "log_sigmoid": nn.log_sigmoid, "sigmoid": nn.sigmoid, "tanh": jnp.tanh,
    "hard_tanh": nn.hard_tanh, "hard_sigmoid": nn.hard_sigmoid, "hard_swish": nn.hard_swish,
    "squareplus": nn.squareplus, "soft_sign": nn.soft_sign, "sparse_plus": nn.sparse_plus,
    "sparse_sigmoid": nn.sparse_sigmoid, "abs": jnp.abs, "square": jnp.square, "exp": jnp.exp,
    "softplus_beta": lambda z: smooth.softplus_beta(z, 3.0), "softplus_beta6": lambda z: smooth.softplus_beta6(z, 2.0),
    "centred_softplus": lambda z: smooth.centred_softplus(z, 0.5), "maximum": lambda z: jnp.maximum(z, -1.0),
    "minimum": lambda z: jnp.minimum(z, 2.0), "clip": lambda z: jnp.clip(z, -1.0, 3.0),
}
PARAMETERS = {"softplus_beta": (3.0,), "softplus_beta6": (2.0,), "centred_softplus": (0.5,), "maximum": (-1.0,),
              "minimum": (2.0,), "clip": (-1.0, 3.0)}


def orders(function):
    """The function, its slope and that one's slope, each by jax.grad."""
    first = jax.vmap(jax.grad(lambda z: function(z)))
    second = jax.vmap(jax.grad(jax.grad(lambda z: function(z))))
    return (lambda z: jax.vmap(function)(z.ravel()).reshape(z.shape),
            *(lambda z, f=f: f(z.ravel()).reshape(z.shape) for f in (first, second)))


SINGLE = {"exp2": lax.exp2, "log": lax.log, "log1p": lax.log1p, "sqrt": lax.sqrt, "rsqrt": lax.rsqrt, "erf": lax.erf}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*ACTIVATIONS, *SINGLE, "inverse"])
def test_activations_of_jax_stay_in_both_kinds_of_ranges(name, dtype, x64):
    """Those of the table and those from what the function computes; the table's are the narrower."""
    function = (ACTIVATIONS | SINGLE | {"inverse": jnp.reciprocal})[name]
    if name in ACTIVATIONS:
        shape = critical_points.TABLE[name](*PARAMETERS.get(name, ()))
    else:
        shape = critical_points.PRIMITIVES.get(name, critical_points.RECIPROCAL)

    @jax.jit
    def measure(lower, upper, points):
        of_table = activations.known(name, function, shape)
        computed = activations.enclosed(name, function, jax.ShapeDtypeStruct(lower.shape, dtype))
        count, excess = [], []
        for which, derivative in zip(("values", "slopes", "curvatures"), orders(function), strict=True):
            table, enclosed = (getattr(a, which)(lower, upper) for a in (of_table, computed))
            values = derivative(points)
            count.append([outside(r, values).sum() for r in (table, enclosed)])
            slack = 1e-5 * (1 + jnp.abs(values).max(0))
            if which != "curvatures" and name in ACTIVATIONS:  # limits at kinks and poles are not attained
                excess.append(jnp.stack([values.min(0) - slack - table[0], table[1] - values.max(0) - slack]).max())
        slopes, bends = orders(function)[1](points), orders(function)[2](points)
        most = [(jnp.isnan(slopes) | (jnp.abs(slopes) <= shape.steepest * (1 + 1e-5))).all()]
        if shape.most_curved is not None:
            most.append((jnp.isnan(bends) | (jnp.abs(bends) <= shape.most_curved * (1 + 1e-5))).all())
        return jnp.array(count), jnp.array(excess or [0]), jnp.stack(most)

    if name == "erf" and jax.__version_info__ >= (0, 12):  # written there with the bits of a number; the table knows it
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match="no range is known for bitcast_convert_type"):
            measure(*boxes(dtype))
        return
    count, excess, most = measure(*boxes(dtype))
    assert (count == 0).all(), count
    assert most.all() and (excess < 0.05).all(), (excess, most)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "erf"])
def test_the_numbers_of_the_table_are_attained(name, x64):
    """The steepest slope and the largest curvature are the function's own, not only above it."""
    _, slopes, bends = orders((ACTIVATIONS | SINGLE)[name])
    shape = critical_points.TABLE[name](*PARAMETERS.get(name, ())) if name in ACTIVATIONS else \
        critical_points.PRIMITIVES[name]
    z = jnp.linspace(-40, 40, 80_001)
    for derivative, most in ((slopes, shape.steepest), (bends, shape.most_curved)):
        if most is not None and most < jnp.inf:
            assert 0.99 * most < jnp.abs(jax.jit(derivative)(z)).max() <= most * (1 + 1e-9)


def jitted(name, body):
    """A function of a user's, by a name that may lie."""
    return jax.jit(called(name, body))


def called(name, body):
    function = lambda z: body(z)
    function.__name__ = function.__qualname__ = name
    return function


def with_rule(body, rule, name="body"):
    """`body`, whose derivative is pulled back by rule(z, g)."""
    function = jax.custom_vjp(called(name, body))
    function.defvjp(lambda z: (body(z), z), lambda z, g: (rule(z, g),))
    return function


def with_slope(name, body, slope):
    """`body`, whose derivative is that of a custom_jvp."""
    function = jax.custom_jvp(called(name, body))
    function.defjvp(lambda z, t: (function(*z), slope(*z) * t[0]))
    return function


USERS = {
    "tanh that is steeper": jitted("tanh", lambda z: jnp.tanh(2 * z)),
    "sigmoid that falls": jitted("sigmoid", lambda z: jax.nn.sigmoid(-3 * z)),
    "softplus that is squared": jitted("softplus", lambda z: jax.nn.softplus(z) ** 2),
    "relu6 up to 1": jitted("relu6", lambda z: jnp.clip(z, 0.0, 1.0)),
    "relu from -1": jitted("relu", lambda z: jnp.maximum(z, -1.0)),
    "softplus_beta with a threshold": jitted("softplus_beta", lambda z: jnp.where(z > 2, z, jnp.log1p(jnp.exp(z)))),
    "gradient reversal": lambda z: jnp.tanh(with_rule(lambda z: 1.0 * z, lambda z, g: -g)(z)),
    "reversal of an affine map": lambda z: jnp.tanh(with_rule(lambda z: 2 * z + 1, lambda z, g: -g, "rev")(z)),
    "a slope of an affine map": lambda z: jnp.tanh(with_slope("transpose", lambda z: 2 * z, lambda z: 0 * z + 3)(z)),
    "a maximum in name": lambda z: jnp.tanh(with_slope("reduce_max", lambda z: jnp.sin(z) - 1, jnp.cos)(z)),
    "gradient scaling": with_rule(jnp.tanh, lambda z, g: 0.5 * g * jnp.where(z > 0, 1.0, 2.0)),
    "a relu with a rule": with_rule(lambda z: jnp.maximum(z, 0), lambda z, g: jnp.where(z > 0, g, 0.1 * g)),
    "straight through": lambda z: jnp.tanh(with_slope("relu", jnp.sign, lambda z: 1.0 * (jnp.abs(z) < 1))(z)),
    "steeper than it is": with_slope("softplus", jax.nn.softplus, lambda z: 3 * jax.nn.sigmoid(z)),
    "snake": lambda z: z + jnp.sin(z) ** 2, "sine": jnp.sin, "gaussian": lambda z: jnp.exp(-z * z),
    "quadratic": lambda z: z * z - z, "bent identity": lambda z: (jnp.sqrt(z * z + 1) - 1) / 2 + z,
    "three pieces": lambda z: jnp.where(z < -1, -0.1, jnp.where(z > 1, z, 0.5 * z)),
    "softplus by logaddexp": lambda z: jnp.logaddexp(z, 0.0), "log of cosh": lambda z: jnp.log(jnp.cosh(z)),
    "arcsinh": jnp.arcsinh, "cubic": lambda z: 0.1 * z**3 - z, "a ratio": lambda z: z / (1 + z * z),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", USERS)
def test_what_users_write_is_right_whatever_its_name(name, x64):
    """Values, gradients and their changes of a small network around each, over balls of every size."""
    act, (w, v) = USERS[name], (jax.random.normal(k, (4, 4)) for k in jax.random.split(jax.random.key(3)))

    def f(x):
        return v @ elementwise(act)(w @ x)

    @jax.jit
    @jax.vmap
    def one(key):
        at, size, inside = jax.random.split(key, 3)
        x = jax.random.normal(at, (4,))
        box = certify.ball(x, 10.0 ** jax.random.uniform(size, minval=-4, maxval=0.3))
        points = jnp.clip(box.lower + jax.random.uniform(inside, (50, 4)) * (box.upper - box.lower), *box)
        gradients, outputs = certify.gradient_bounds(f, box, 1), certify.output_bounds(f, box)
        g = jax.vmap(jax.grad(lambda x: f(x)[1]))(points)
        return (outside(gradients, g).any(), outside(outputs, jax.vmap(f)(points)).any(),
                (jnp.ptp(g, 0).max() + 1e-9) / ((gradients.upper - gradients.lower).max() + 1e-9))

    of_gradients, of_outputs, filled = one(jax.random.split(jax.random.key(0), 150))
    assert not of_gradients.any() and not of_outputs.any(), (of_gradients.mean(), of_outputs.mean())
    assert jnp.median(filled) > 0.1  # not sound by being vast


def elementwise(act):
    """The activation as one stage, as the rewriting makes of every elementwise function."""
    return act if hasattr(act, "lower") or isinstance(act, jax.custom_vjp | jax.custom_jvp) else jax.jit(act)


def test_rules_that_are_not_linear_are_refused():
    x = jnp.ones(3)
    clipped = with_rule(jnp.tanh, lambda z, g: jnp.clip(g, -0.1, 0.1))
    normed = with_rule(jnp.tanh, lambda z, g: g / (1e-3 + jnp.abs(g)))
    shifted = with_rule(jnp.tanh, lambda z, g: g + 0.1)
    for rule in (clipped, normed, shifted):
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match="not linear in what it pulls back"):
            certify.gradient_bounds(lambda x, rule=rule: rule(2 * x), Box(x, x), 0)


def test_an_operation_without_a_range_is_named():
    x = jnp.ones(3)
    gamma = jax.jit(lambda z: jnp.tanh(lax.lgamma(z)))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="lgamma"):
        certify.gradient_bounds(gamma, Box(x, x), 0)
