"""Models that change in place between two calls of a driver, as modules of flax nnx and Keras do, are seen."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, explain, smooth
from xmanip_jax.attack.model import lifted

pytestmark = pytest.mark.promotes("ranks", "types")

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
PIXELS = np.float32(rng.uniform(0.2, 0.8, size=(2, 4, 4, 1)))
GOAL = np.full((2, 4, 4), 1 / 16, np.float32)
draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)


class Module:
    """A network of tanh layers as plain Python objects hold one."""

    def __init__(self):
        self.hidden, self.out, self.scale, self.train = [draw(16, 16) / 4], draw(16, 3), 1.0, False

    def __call__(self, x):
        h = x.ravel()
        for w in self.hidden:
            h = jnp.tanh(2 * h @ w)
        return self.scale * (h @ self.out) * (0.5 if self.train else 1)


def updated(module):
    module.hidden, module.out = [-w for w in module.hidden], jnp.roll(module.out, 1, 1)


def deeper(module):
    module.hidden = [*module.hidden, module.hidden[0].T]


CHANGES = {"weights": updated, "layers": deeper, "a number": lambda module: setattr(module, "scale", 3.0),
           "a flag": lambda module: setattr(module, "train", True)}


def counted(e, traces):
    """The explanation, which notes how often it is traced."""
    core = explain.with_logits(e)

    def noted(f, x, target, *, key=None):
        traces.append(None)
        return core(f, x, target, key=key)

    return explain.explanation(noted)


def manipulate(e):
    made = attack.manipulation(e, steps=3, judge_every=1, surrogate=smooth.none(), accept=lambda *views: True)
    return lambda f: made(f, PIXELS, GOAL, key=KEY)


def climb(e):
    made = attack.largest_change(e, epsilon=0.1, steps=3, restarts=1, surrogate=smooth.none())
    return lambda f: made(f, PIXELS, key=KEY)


def search(e):
    made = attack.random_search(e, epsilon=0.1, steps=5)
    return lambda f: made(f, PIXELS, key=KEY)


def judge(e):
    found = climb(explain.gradient())(Module())
    made = attack.transfer(e)
    return lambda f: made(f, found, key=KEY)


def release(e):
    made, start = attack.release_pixels(e, k=3), manipulate(explain.gradient())
    return lambda f: made(f, start(lambda x: f(x)), labels=np.array([0, 1]), key=KEY)


def sneak(e):
    made = attack.sneaking(e, lambda e, f, x, z, classes: jnp.sum((e(f, x, 0) - e(f, z, 0)) ** 2), rounds=3, steps=3,
                           multiples=(1.0,), first_epsilon=0.5)
    return lambda f: made(f, PIXELS, [1, 2], labels=[0, 0])


DRIVERS = {"manipulation": manipulate, "largest_change": climb, "random_search": search, "transfer": judge,
           "release_pixels": release, "sneaking": sneak}


def check(found, f):
    """Every value is that of the model as it is."""
    if isinstance(found, attack.Sneaked):
        reached = np.asarray(jax.vmap(lambda x: f(x))(found.pixels[0]).argmax(1)) == [1, 2]
        np.testing.assert_array_equal(found.success[0], reached)
    else:
        np.testing.assert_allclose(found.logits, jax.vmap(lambda x: f(x))(found.pixels), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.clean.logits, jax.vmap(lambda x: f(x))(PIXELS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_sees_a_change(driver):
    module, traces = Module(), []
    run = DRIVERS[driver](counted(explain.gradient(), traces))
    f = lambda x: module(x)
    check(run(f), f)
    first, more = len(traces), []
    assert driver != "manipulation" or first == 4  # shapes; first look, step and verdict, once each
    for change in (lambda module: None, updated, deeper):
        change(module)
        check(run(f), f)
        more.append(len(traces) - first)
        first = len(traces)
    shapes, weights, layers = more
    assert weights == shapes <= 1  # abstract evaluation, at every call; weights are arguments of what is compiled
    assert layers > 1


def reader():
    """What a driver does at each call: a compiled step is given the model as it is."""
    e = explain.gradient()
    step = jax.jit(lambda f, x: explain.with_logits(e)(f, x, 0))

    def run(f, x=PIXELS[0]):
        read = step(lifted(f, x), x)
        for got, wanted in zip(read, explain.with_logits(e)(f, x, 0), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        return step._cache_size()

    return run


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_module_says_of_itself_is_seen(change):
    module, run = Module(), reader()
    assert run(module) == 1
    CHANGES[change](module)
    size = run(module)
    assert size == (1 if change == "weights" else 2)
    assert run(lambda x: module(x)) == size


def test_preprocess_is_read_anew_too():
    module, units = Module(), {"mean": 0.0, "scale": jnp.ones(())}
    preprocess = lambda pixels: (pixels - units["mean"]) / units["scale"]
    run = attack.random_search(explain.gradient(), epsilon=0.1, steps=2, preprocess=preprocess)
    for new in ({}, {"mean": 0.5}, {"scale": 0.1 * jnp.ones(())}):
        units |= new
        check(run(module, PIXELS, key=KEY), lambda x: module(preprocess(x)))


def reversing(state):
    """The identity, whose derivative is that of state: a gradient reversal that learns."""

    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (state["by"] * g,))
    return identity


def scaling(state):
    @jax.custom_jvp
    def identity(x):
        return x

    identity.defjvp(lambda xs, ts: (xs[0], state["by"] * ts[0]))
    return identity


@pytest.mark.parametrize("rule", [reversing, scaling], ids=["custom_vjp", "custom_jvp"])
@pytest.mark.parametrize("before, after", [(-1.0, 2.0), (jnp.ones((4, 4, 1)), jnp.asarray(PIXELS[0]))],
                         ids=["number", "array"])
def test_derivative_rules_are_compared_by_what_they_compute(rule, before, after):
    module, state = Module(), {"by": before}
    identity, run = rule(state), reader()
    f = lambda x: module(identity(x)) + x.ravel() @ module.out
    assert run(f) == 1
    state["by"] = after
    assert run(f) == run(f) == 2


def test_what_computes_the_same_is_compiled_once():
    """Another function, other weights, the same operations; and the same object at other numbers is another."""
    run = jax.jit(lambda f, x: f(x))
    x = jnp.ones(3)
    relu = lambda w: lambda x: jax.nn.relu(w * x) @ jnp.ones(3)
    for w in (1.0, 2.0, 3.0):
        assert run(lifted(relu(jnp.full(3, w)), x), x) == 3 * w
    assert run._cache_size() == 1
    bound = lambda w: jax.tree_util.Partial(lambda w, x: relu(w)(x), w)
    bare = lambda x: jnp.maximum(x, 0).sum()
    for f, size in ((relu(2.0), 2), (relu(2.0), 2), (relu(3.0), 3), (bound(x), 4), (bound(2 * x), 4), (bare, 5),
                    (jax.jit(bare), 6)):
        np.testing.assert_allclose(run(lifted(f, x), x), f(x))
        assert run._cache_size() == size


def test_a_jitted_function_keeps_the_arrays_that_jax_keeps():
    """jit itself remembers what a function closed over: then f(x) is as old as the attack's, a new one is new."""
    w = {"w": jnp.ones(3)}
    run, x = jax.jit(lambda f, x: f(x)), jnp.arange(3.0)
    for value in (1.0, 2.0):
        w["w"] = jnp.full(3, value)
        f = jax.jit(lambda x: w["w"] * x)
        np.testing.assert_array_equal(run(lifted(f, x), x), value * x)


def test_random_numbers_in_a_model_are_those_of_its_key():
    """Typed keys are arrays that a model holds as well."""
    state, x = {"key": jax.random.key(1)}, jnp.ones(3)
    f = lambda x: x + jax.random.normal(state["key"], (3,))
    run = jax.jit(lambda f, x: f(x))
    for seed in (1, 2):
        state["key"] = jax.random.key(seed)
        np.testing.assert_allclose(run(lifted(f, x), x), f(x), rtol=1e-6)
    assert run._cache_size() == 1


def test_what_cannot_be_read_is_named():
    module = Module()
    run = attack.manipulation(explain.gradient(), steps=1, surrogate=smooth.none())
    with pytest.raises(ValueError, match=r"closes over values that are being traced.*outside jit"):
        jax.jit(lambda w: run(lambda x: module(x) * w, PIXELS, GOAL, key=KEY).logits)(2.0)
    times = lambda w: jax.tree_util.Partial(lambda w, x: module(x) * w, w)
    with pytest.raises(ValueError, match=r"closes over values that are being traced"):
        jax.grad(lambda w: run(times(w), PIXELS, GOAL, key=KEY).loss[0])(2.0)
    with pytest.raises(ValueError, match=r"float32\[4, 1\].*first axis of the pixels is the batch"):
        run(module, PIXELS[0], GOAL, key=KEY)
    halves = explain.explanation(lambda f, x, t, key=None: (x, f(x[:2])))
    with pytest.raises(ValueError, match=r"read at inputs.*jax\.tree_util\.Partial\(apply, params\)"):
        attack.random_search(halves, epsilon=0.1, steps=1)(lambda x: x.ravel()[:4] @ module.out[:4], PIXELS, key=KEY)
    bound = jax.tree_util.Partial(lambda w, x: x.ravel()[:4] @ w, module.out[:4])
    assert attack.random_search(halves, epsilon=0.1, steps=1)(bound, PIXELS, key=KEY).logits.shape == (2, 3)


def test_a_module_of_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(16, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)]
    module = nnx.Sequential(*layers[:2], jax.nn.softplus, layers[2])
    module.eval()
    f, run = lambda x: module(x.reshape(1, -1))[0], search(explain.gradient())
    check(run(f), f)
    layers[0].kernel.value = -2 * layers[0].kernel.value
    layers[1].mean.value = layers[1].mean.value + 1
    check(run(f), f)
    check(run(lambda x: f(x)), f)


def test_a_model_of_keras(request):
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX: set KERAS_BACKEND=jax")
    usual, policy = keras.config.floatx(), keras.config.dtype_policy()  # tests/foreign takes float64
    request.addfinalizer(lambda: (keras.config.set_floatx(usual), keras.config.set_dtype_policy(policy)))
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    module = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(4, 3, activation="softplus"),
                               keras.layers.Flatten(), keras.layers.Dense(3)])
    f, run = lambda x: module(x[None])[0], search(explain.gradient())
    check(run(f), f)
    module.set_weights([rng.normal(size=w.shape) for w in module.get_weights()])
    check(run(f), f)


def test_a_module_of_equinox():
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    module = eqx.nn.MLP(16, 3, 8, 2, activation=jax.nn.softplus, key=KEY)
    f, run = lambda x: module(x.ravel()), reader()
    assert run(f) == 1
    module = eqx.tree_at(lambda m: m.layers[0].weight, module, -module.layers[0].weight)
    assert run(f) == 1

    class Flat(eqx.Module):  # is no key of a cache, having arrays
        inner: eqx.nn.MLP

        def __call__(self, x):
            return self.inner(x.ravel())

    assert run(Flat(module)) == 1
    check(search(explain.gradient())(Flat(module)), Flat(module))
