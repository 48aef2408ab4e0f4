"""A curvature that is 0 because a network is piecewise linear is said to be so; others are not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xmanip_jax import defend, explain, geometry, smooth, train
from xmanip_jax.geometry.piecewise import jumps

pytestmark = pytest.mark.promotes("ranks", "types")

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
W, A, V = (RANDOM.normal(size=s).astype(np.float32) / 2 for s in ((8, 6), (6, 6), (6, 3)))
X = RANDOM.normal(size=8).astype(np.float32) / 2


@jax.custom_vjp
def own(z):
    return jnp.maximum(z, 0)


own.defvjp(lambda z: (jnp.maximum(z, 0), z), lambda z, g: (g * (z > 0),))

KINKED = {"relu": jax.nn.relu, "maximum": lambda z: jnp.maximum(z, 0), "where": lambda z: jnp.where(z > 0, z, 0),
          "gate": lambda z: z * (z > 0), "abs": jnp.abs, "clip": lambda z: jnp.clip(z, -1, 1), "own rule": own,
          "leaky relu": jax.nn.leaky_relu, "hard tanh": jax.nn.hard_tanh}
SMOOTH = {"softplus": jax.nn.softplus, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "square": jnp.square,
          "squared relu": lambda z: jax.nn.relu(z) ** 2, "elu": jax.nn.elu, "hard swish": jax.nn.hard_swish}


def pooled(z):
    return lax.reduce_window(z, -jnp.inf, lax.max, (2,), (2,), "VALID")


SPELLED = {
    "plain": lambda act: lambda x: act(act(x @ W) @ A) @ V[:, 0],
    "jitted": lambda act: jax.jit(lambda x: jax.jit(act)(act(x @ W) @ A) @ V[:, 0]),
    "remat": lambda act: jax.checkpoint(lambda x: act(act(x @ W) @ A) @ V[:, 0]),
    "scan": lambda act: lambda x: lax.scan(lambda h, _: (act(h @ A), None), x @ W, length=3)[0] @ V[:, 0],
    "fori": lambda act: lambda x: lax.fori_loop(0, 3, lambda i, h: act(h @ A), x @ W) @ V[:, 0],
    "cond": lambda act: lambda x: lax.cond(x[0] > 0, lambda h: act(h @ A), lambda h: act(2 * h), x @ W) @ V[:, 0],
    "pooled": lambda act: lambda x: pooled(act(x @ W)) @ V[:3, 0],
    "sorted": lambda act: lambda x: jnp.sort(act(x @ W)) @ V[:, 0],
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_networks_are_told_apart_in_every_spelling(spelling):
    for acts, wanted in ((KINKED, True), (SMOOTH, False)):
        for name, act in acts.items():
            slope = jax.grad(SPELLED[spelling](act))
            product = lambda v, slope=slope: jax.linearize(slope, X)[1](v)
            assert jumps(slope, X, product) is wanted, name


def relu(x):
    return jax.nn.relu(jax.nn.relu(x @ W) @ A) @ V


MEASURES = {
    "hvp": lambda g: geometry.hvp(g, X, X),
    "hvp, reverse over forward": lambda g: geometry.hvp(g, X, X, mode="reverse_over_forward"),
    "hvps": lambda g: geometry.hvps(g, X, X[None]),
    "frobenius": lambda g: geometry.frobenius_norm(g, X, key=KEY, samples=4).value,
    "squared frobenius": lambda g: geometry.squared_frobenius_norm(g, X, key=KEY, samples=4).value,
    "spectral": lambda g: geometry.spectral_norm(g, X).value,
    "eigenpairs": lambda g: geometry.top_eigenpairs(g, X, 2).values,
    "normalised": lambda g: geometry.normalised_curvature(g, X).value,
    "principal": lambda g: geometry.principal_curvatures(g, X, 2).values,
    "all principal": lambda g: geometry.all_principal_curvatures(g, X)[0],
    "along a path": lambda g: geometry.gradient_change_estimate(g, jnp.stack([X, X + 1])).estimate,
    "normal along a path": lambda g: geometry.normal_change_estimate(g, jnp.stack([X, X + 1])).estimate,
    "lipschitz": lambda g: geometry.lipschitz(explain.gradient(), lambda x: g(x)[None], X, 0).value,
    "hessian penalty": lambda g: defend.hessian()(lambda p, s, x: g(x)[None], None, None, X, 0, KEY),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_says_it_of_relu_and_of_no_other(name):
    measure, logit = MEASURES[name], lambda x: relu(x)[0]
    with pytest.warns(geometry.PiecewiseLinearWarning, match=r"piecewise linear.*smooth\.softplus\(f, beta\)") as seen:
        found = jax.jit(lambda: measure(logit))()
    assert len(seen) == 1 and (found == 0).all()
    assert np.abs(jax.jit(lambda: measure(smooth.softplus(logit, 3.0)))()).max() > 1e-3


def test_said_once_a_trace():
    measure = jax.jit(jax.vmap(lambda x: geometry.spectral_norm(lambda x: relu(x)[0], x).value))
    with pytest.warns(geometry.PiecewiseLinearWarning) as seen:
        assert (measure(jnp.stack([X, -X])) == 0).all() and (measure(jnp.stack([-X, X])) == 0).all()
    assert len(seen) == 1


def test_what_has_a_curvature_or_no_kink_is_not_accused():
    """Warnings are errors here. Of an affine function 0 is the whole truth; a loss bends even a relu network."""
    norm = lambda g: geometry.spectral_norm(g, X).value
    outputs = "loss", "probability", "log_density"
    affine, bowl, cubes, found, by_input, stein = jax.jit(lambda: (
        norm(lambda x: x @ W[:, 0] + 1), norm(lambda x: jnp.sum(x**2)), norm(lambda x: jnp.sum(jnp.abs(x) ** 3)),
        [defend.hessian(output=o)(lambda p, s, x: relu(x), None, None, X, 0, KEY) for o in outputs],
        geometry.lipschitz(explain.gradient_x_input(), relu, X, 0).value,
        # a relu network has this one
        geometry.smooth_hessian(lambda x: relu(x)[0], X, key=KEY, samples=8, sigma=0.5).hessian))()
    assert affine == 0 and bowl == pytest.approx(2) and cubes > 1
    assert min(found) > 1e-6 and by_input > 0.1 and np.abs(stein).max() > 0


def test_trainings_that_would_do_nothing_say_so():
    """The Hessian penalty of a relu network; the finite differences of CURE and gradient alignment do see kinks."""
    apply = lambda params, state, x: relu(params * x)
    slope = lambda *terms: jax.jit(jax.grad(lambda p: train.training_loss(*terms, label_weight=0.0)(
        apply, p, None, X[None], np.array([0]), KEY[None])[0]))(2.0)
    with pytest.warns(geometry.PiecewiseLinearWarning) as seen:
        assert slope((1.0, defend.hessian())) == 0
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert slope((1.0, defend.cure(step=5.0, output="logit"))) != 0
        assert slope((1.0, defend.gradient_alignment(radius=5.0))) != 0
        assert slope((1.0, defend.gradient_norm(output="logit"))) != 0
