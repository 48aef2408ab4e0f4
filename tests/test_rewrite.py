"""The rewrite changes what it names, nothing else, and refuses what it cannot do faithfully."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from checks import check_derivatives
from xmanip_jax import rewrite

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks", "types")]
smooth = lambda z: jnp.logaddexp(3 * z, 0) / 3
smooth6 = lambda z: smooth(z) - smooth(z - 6)
RULES = {"relu": smooth, "relu6": smooth6}
x = np.linspace(-1.0, 1.0, 5)
w = np.random.default_rng(0).normal(size=(5, 5))


def plain(x, act, act6):
    return act6(act(x @ w) @ w)


def scan(x, act, act6):
    return lax.scan(lambda c, v: (act(c @ w) + v, act6(c)), jnp.asarray(x), jnp.arange(3.0))


def nested_scan(x, act, act6):
    inner = lambda c: lax.scan(lambda c, _: (act(c @ w), None), c, None, length=2)[0]
    return lax.scan(lambda c, _: (inner(c) * 0.5, None), x, None, length=2, reverse=True)[0]


def while_(x, act, act6):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, act(s[1] @ w)), (0, x))[1]


def fori(x, act, act6):
    return lax.fori_loop(0, 3, lambda i, c: act6(c @ w) + i, x)


def cond(x, act, act6):
    return lax.cond(x[0] < 0, lambda x: act(x @ w), lambda x: act6(x), x)


def remat(x, act, act6):
    return jax.checkpoint(lambda x: act(jax.checkpoint(act6)(x @ w)))(x)


def jitted(x, act, act6):
    return jax.jit(lambda x: jax.jit(act)(x @ w) + act6(x))(x)


def vmapped(x, act, act6):
    return jax.vmap(lambda row: act(row @ x))(w)


def pytree(x, act, act6):
    return {"a": act(x), "b": (act6(x @ w), 3.0 * x)}


PROGRAMS = [plain, scan, nested_scan, while_, fori, cond, remat, jitted, vmapped, pytree]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_replaced_equals_written_by_hand(program):
    f = lambda x: program(x, jax.nn.relu, jax.nn.relu6)
    wanted = lambda x: program(x, smooth, smooth6)
    got = rewrite.replace(f, RULES)
    jax.tree.map(np.testing.assert_allclose, got(x), wanted(x))
    jax.tree.map(np.testing.assert_allclose, jax.jit(jax.vmap(got))(w), jax.jit(jax.vmap(wanted))(w))
    total = lambda f: lambda x: sum(jnp.sum(v**2) for v in jax.tree.leaves(f(x)))
    tangent = lambda f: jax.jit(jax.jacfwd(total(f)))(x)
    np.testing.assert_allclose(tangent(got), tangent(wanted))
    if program is not while_:  # reverse mode does not exist there
        hessian = lambda f: jax.jit(jax.hessian(total(f)))(x)
        np.testing.assert_allclose(hessian(got), hessian(wanted), atol=1e-12)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("program", [plain, scan, nested_scan, remat, jitted, cond], ids=lambda p: p.__name__)
def test_gradient_in_a_traced_parameter_of_the_rule(program):
    def of_beta(beta):
        act = lambda z: jnp.logaddexp(beta * z, 0) / beta
        f = rewrite.replace(lambda x: program(x, jax.nn.relu, jax.nn.relu6), {"relu": act, "relu6": act})
        return sum(jnp.sum(v) for v in jax.tree.leaves(f(x)))

    check_derivatives(of_beta, np.float64(2.0))


def test_parameters_stay_differentiable():
    loss = lambda act: lambda w: jnp.sum(act(x @ w) ** 2)
    got = jax.grad(lambda w: rewrite.replace(lambda x: jax.nn.relu(x @ w), {"relu": smooth})(x) @ jnp.ones(5))(w)
    np.testing.assert_allclose(got, jax.grad(lambda w: smooth(x @ w) @ jnp.ones(5))(w))
    assert loss(smooth)(w) > 0


def test_no_extra_flops():
    f = lambda x: jax.nn.relu(jax.nn.relu(x @ w) @ w)
    flops = lambda f: jax.jit(f).lower(x).compile().cost_analysis()["flops"]
    assert flops(rewrite.replace(f, {"relu": jax.nn.relu})) == flops(f)


@pytest.mark.parametrize("variance", [
    lambda x: x.var(), lambda x: (x**2).mean() - x.mean() ** 2, lambda x: jnp.mean(x * x) - jnp.square(x.mean()),
    lambda x: jnp.mean((x - x.mean()) ** 2)])
def test_a_clamp_of_a_variance_is_not_a_relu(variance):
    f = lambda x: jax.nn.relu(x) / jnp.sqrt(jnp.maximum(variance(x), 0) + 1)
    contents = rewrite.inspect(f, x)
    assert contents.activations == {"relu": 1} and not contents.kinks
    np.testing.assert_allclose(rewrite.replace(f, {"relu": lambda z: z * 0 + 7})(x), 7 / jnp.sqrt(x.var() + 1))


@pytest.mark.parametrize("spelling", [
    lambda x: jnp.where(x > 0, x, 0), lambda x: jnp.where(x >= 0, x, 0.0), lambda x: jnp.clip(x, 0),
    lambda x: x * (x > 0), lambda x: jnp.maximum(x, 0), lambda x: jnp.maximum(0.0, x), lambda x: (x + jnp.abs(x)) / 2,
    lambda x: lax.max(x, jnp.zeros_like(x)), jax.jit(jnp.abs)])
def test_other_spellings_of_relu_are_relus(spelling):
    wanted = "abs" if spelling(-1.0) else "relu"
    assert rewrite.inspect(spelling, x).activations == {wanted: 1}
    np.testing.assert_allclose(rewrite.replace(spelling, {wanted: smooth})(x), smooth(x))


def test_names_are_not_believed():
    relu = jax.jit(lambda z: jnp.maximum(z, -1))
    gelu = jax.jit(lambda z: jnp.tanh(z))
    contents = rewrite.inspect(lambda x: gelu(relu(x)), x)
    assert contents.activations == {"maximum": 1, "tanh": 1}


def test_kinks_that_no_surrogate_touches_are_listed():
    assert rewrite.inspect(jax.nn.leaky_relu, x).activations == {"leaky_relu": 1}
    assert rewrite.inspect(lambda x: jnp.maximum(x, x[::-1]) + jnp.floor(x) + x.max(), x).kinks == {
        "max": 1, "floor": 1, "reduce_max": 1}
    assert rewrite.inspect(lambda x: x * (x[::-1] > 0) + x[x.argmax()], x).kinks == {"gt": 1, "argmax": 1}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_activations_in_half_precision_are_known(dtype):
    """Casts are operations of their own: what a rule is given for relu has relu's type."""
    f = lambda x: jax.nn.relu(2 * x.astype(dtype)).astype(jnp.float32).mean()
    assert rewrite.inspect(f, x).activations == {"relu": 1}
    types = []
    found = rewrite.replace(f, {"relu": lambda z: (types.append(z.dtype), z)[1]})(x)
    assert types == [dtype] and found.dtype == jnp.float32
    np.testing.assert_allclose(found, 2 * x.mean(), atol=1e-2)


def test_a_log_softmax_and_complex_factors_are_no_activations():
    for f in (jax.nn.log_softmax, lambda x: x - jax.nn.logsumexp(x), lambda x: jnp.log(jnp.exp(x).sum()),
              lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * (2 + 1j))):
        assert "activation" not in [op.kind for op in rewrite.flow(f, x)]
    assert [op.kind for op in rewrite.flow(lambda x: jnp.log(1 + jnp.exp(x).sum()), x)].count("activation") == 2


def test_kinks_on_which_no_result_depends_are_none():
    f = lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x), jax.nn.logsumexp(x))
    contents = rewrite.inspect(f, x)
    assert not contents.kinks and not contents.activations
    rounded = lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)
    assert rewrite.inspect(rounded, x).kinks == {"round": 1}  # values jump, if not the derivative


def test_a_surrogate_warns_of_the_kinks_that_it_leaves():
    models = {"reduce_max": lambda x: jax.nn.relu(x).max(), "round": lambda x: jax.nn.relu(jnp.round(x)),
              "argmax": lambda x: jax.nn.relu(x)[x.argmax()]}
    for left, f in models.items():
        with pytest.warns(rewrite.KinkWarning, match=rf"no surrogate replaces {left}\b"):
            rewrite.map_calls(f, lambda call, z: jax.nn.softplus(z), smooth=True)(jnp.asarray(x))


@pytest.mark.parametrize("derivative", [
    lambda f: jax.grad(lambda x: f(x).sum()), lambda f: jax.grad(lambda x: jax.jit(f)(x).sum()),
    lambda f: lambda x: jax.jvp(f, (x,), (x,))[1], lambda f: jax.jacrev(jax.checkpoint(f)),
    lambda f: jax.grad(lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0].sum())])
@pytest.mark.parametrize("act", [jax.nn.relu, jax.nn.relu6])
def test_a_derivative_inside_is_refused(derivative, act):
    with pytest.raises(rewrite.DerivativeInModelError, match=r"grad\(replace\(f\)\)"):
        rewrite.replace(derivative(lambda x: act(x @ w)), RULES)(x)


def test_a_custom_rule_is_lost_with_a_warning():
    @jax.custom_vjp
    def twice(x):
        return jax.nn.relu(x)

    twice.defvjp(lambda x: (twice(x), None), lambda _, g: (2 * g,))
    with pytest.warns(rewrite.LostRuleWarning, match="twice"):
        g = jax.grad(lambda x: rewrite.replace(twice, {"relu": smooth})(x).sum())(x)
    np.testing.assert_allclose(g, jax.grad(lambda x: smooth(x).sum())(x))


def test_a_custom_rule_without_activation_survives():
    @jax.custom_vjp
    def twice(x):
        return x

    twice.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    f = rewrite.replace(lambda x: jax.nn.relu(twice(x)).sum(), {"relu": lambda z: z})
    np.testing.assert_array_equal(jax.grad(f)(x), 2 * jnp.ones(5))
    assert rewrite.inspect(twice, x).custom_rules == {"twice": 1}


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="gellu"):
        rewrite.replace(plain, {"gellu": smooth})


def test_max_pool_with_its_window():
    image = jax.random.normal(jax.random.key(1), (7, 7, 2))
    f = lambda x: nn.max_pool(x, (3, 3), (2, 2), ((0, 1), (1, 0)))
    seen = []

    def pool(z, window):
        seen.append(window)
        return lax.reduce_window(z, -jnp.inf, lax.max, *window)

    np.testing.assert_array_equal(rewrite.replace(f, {"max_pool": pool})(image), f(image))
    assert seen[0].dimensions[-3:] == (3, 3, 1) and seen[0].padding[-3:] == ((0, 1), (1, 0), (0, 0))
    assert rewrite.inspect(f, image).max_pools == 1


def test_flax_models_nnx_and_linen():
    class Small(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(5, 5, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(0), use_running_average=True)

        def __call__(self, x):
            return nnx.relu(self.norm(self.dense(nnx.relu(self.dense(x)))))  # one module, used twice

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.LayerNorm()(nn.relu(nn.Dense(5)(x))))

    linen = Linen()
    variables = linen.init(jax.random.key(0), x)
    for f in (Small(), lambda x: linen.apply(variables, x)):
        assert rewrite.inspect(f, x).activations == {"relu": 2}
        assert not jnp.allclose(rewrite.replace(f, {"relu": smooth})(x), f(x))


def test_inputs_are_the_preactivations_in_order():
    f = lambda x: lax.scan(lambda c, _: (jax.nn.relu(c + 1), None), jax.nn.relu(x) - 3, None, length=2)[0]
    first, loop = rewrite.inputs(f)(x)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(loop, jnp.stack([jax.nn.relu(x) - 2, jax.nn.relu(jax.nn.relu(x) - 2) + 1]))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="cond"):
        rewrite.inputs(lambda x: cond(x, jax.nn.relu, jax.nn.relu6))(x)


def test_layers_named_automatic_and_repeated():
    named = lambda x: checkpoint_name(checkpoint_name(jax.nn.relu(x), "a") @ w, "features")
    assert [layer.name for layer in rewrite.layers(named, x)] == ["a", "features"]
    assert [layer.name for layer in rewrite.layers(lambda x: jax.nn.relu(jax.nn.relu(x)), x)] == ["relu#0", "relu#1"]
    twice = lambda x: checkpoint_name(checkpoint_name(x, "a"), "a")
    assert [layer.name for layer in rewrite.layers(twice, x)] == ["a#0", "a#1"]


def test_tap_reads_and_moves_a_layer():
    f = lambda x: jax.jit(lambda x: checkpoint_name(jax.nn.relu(x), "h"))(x) @ w
    logits, value = rewrite.tap(f, "h")(x, 0.0)
    np.testing.assert_array_equal(value, jax.nn.relu(x))
    np.testing.assert_array_equal(logits, f(x))
    g = jax.grad(lambda d: rewrite.tap(f, "h")(x, d)[0][2])(jnp.zeros(5))
    np.testing.assert_allclose(g, w[:, 2])
    np.testing.assert_allclose(rewrite.tap(lambda x: jax.nn.relu(x) @ w, "relu#0")(x, 1.0)[0], (jax.nn.relu(x) + 1) @ w)


def test_tap_refuses_unknown_layers_and_loops():
    with pytest.raises(rewrite.LayerError, match=r"'h'.*relu#0"):
        rewrite.tap(jax.nn.relu, "h")(x, 0.0)
    loop = lambda x: lax.scan(lambda c, _: (checkpoint_name(c, "h"), None), x, None, length=2)[0]
    with pytest.raises(rewrite.LayerError, match="loop"):
        rewrite.tap(loop, "h")(x, 0.0)


def test_a_module_changed_in_place_is_traced_anew():
    module = nnx.Linear(5, 3, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    f = lambda x: nnx.relu(module(x))
    scale = lambda: float(rewrite.linear_layers(f)(x)["dense#0"].w.max())
    before = scale()
    module.kernel[...] *= 2
    assert scale() == 2 * before
    np.testing.assert_allclose(rewrite.replace(f, {"relu": jnp.abs})(x), jnp.abs(module(x)))
