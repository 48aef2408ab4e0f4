"""Products in the precision that is asked for, wherever they stand in a driver's programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, certify, explain, geometry, numerics, precision
from xmanip_jax.rewrite.products import with_products

W = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 2, 2)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(6,)).astype(np.float32)
PLACES = {
    "dense": lambda w, x: w @ x,
    "convolution": lambda w, x: jax.lax.conv_general_dilated(
        (w @ x).reshape(1, 3, 2), KERNEL, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")),
    "in a loop": lambda w, x: jax.lax.fori_loop(0, 2, lambda i, x: w @ x, x),
    "in a while": lambda w, x: jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, w @ s[1]), (0, x))[1],
    "in a branch": lambda w, x: jax.lax.cond(x[0] > 9, jnp.sin, lambda x: w @ x, x),
    "in remat": lambda w, x: jax.grad(lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.tanh(w @ x))(x)))(x),
    "in a jitted function": lambda w, x: jax.jit(lambda x: w @ x)(x),
}


def rounded(v, bits):
    """By the mantissa, of numpy: half to even."""
    fraction, exponent = np.frexp(v)
    return np.ldexp(np.round(fraction * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent).astype(v.dtype)


@pytest.mark.parametrize("bits", [7, 10])
def test_rounding_is_that_of_the_type(bits):
    v = np.random.default_rng(3).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(precision.rounding(bits)(v), rounded(v, bits))
    if bits == 7:
        np.testing.assert_array_equal(precision.rounding(7)(v), v.astype(jnp.bfloat16).astype(np.float32))


@pytest.mark.parametrize("name", PLACES)
def test_products_are_rounded_wherever_they_stand(name):
    f = PLACES[name]
    primitives = str(jax.make_jaxpr(with_products(f, precision.rounding(7), order=True))(W, X))
    count = str(jax.make_jaxpr(f)(W, X))
    products = sum(count.count(p) for p in (" dot_general[", " conv_general_dilated["))
    assert products and primitives.count(" reduce_precision[") == 2 * products
    np.testing.assert_allclose(with_products(f, None, order=True)(W, X), f(W, X), rtol=1e-6)
    assert np.abs(with_products(f, precision.rounding(7), order=True)(W, X) - f(W, X)).max() > 1e-4


def test_a_driver_multiplies_as_asked():
    measure = lambda x, w: w @ x
    points = np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)
    exact = points.astype(float) @ W.T.astype(float)
    for name, bits in (("float32", None), ("highest", None), ("tf32", 10), ("bf16", 7)):
        found = geometry.sweep(measure, points, W, precision=name)
        operands = (points, W) if bits is None else (rounded(points, bits), rounded(W, bits))
        np.testing.assert_allclose(found, operands[0] @ operands[1].T, rtol=1e-5, atol=1e-6)
        assert (np.abs(found - exact).max() > 1e-4) == (bits is not None)
    with pytest.raises(ValueError, match=r"precision is one of float32, tf32, bf16, highest, or None .*, got 'fp8'"):
        attack.manipulation(explain.gradient(), precision="fp8")


def test_double_precision_is_not_rounded(x64):
    points = np.random.default_rng(4).normal(size=(3, 6))
    found = geometry.sweep(lambda x, w: w @ x, points, W.astype(float), precision="bf16")
    np.testing.assert_allclose(found, points @ W.T.astype(float), rtol=1e-12)


def layered(width, dtype):
    w = np.random.default_rng(5).normal(size=(width, width)).astype(dtype) / width
    return (lambda x: jnp.tanh(w @ jnp.tanh(w @ x))), certify.ball(jnp.full(width, 0.3, dtype), 0.01)


def test_certificates_say_when_they_need_double_precision(x64):
    net, box = layered(100, jnp.bfloat16)
    with pytest.raises(ValueError, match=r"in bfloat16 the rounding of a sum of 100 terms .*: certify in float64"):
        certify.gradient_bounds(net, box, 0)
    net, box = layered(20, np.float16)
    with pytest.warns(certify.RoundingWarning, match=r"in float16 rounding alone widens .* by about 9 %: certify in "):
        certify.gradient_bounds(net, box, 0)
    for dtype in (np.float32, np.float64):
        certify.gradient_bounds(*layered(100, dtype), 0)  # neither


def test_certificates_refuse_rounded_products():
    net, box = layered(4, np.float32)
    bounds = lambda low: certify.gradient_bounds(net, certify.Box(low, low + 0.1), 0)
    with pytest.raises(ValueError, match="bounds hold for products that are not rounded"):
        geometry.sweep(bounds, box.lower[None], precision="bf16")
    np.testing.assert_array_equal(geometry.sweep(bounds, box.lower[None], precision="highest").lower[0],
                                  geometry.sweep(bounds, box.lower[None]).lower[0])


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_what_accelerators_run_gives_the_same(backend, monkeypatch):
    """Their loops and their native TF32, on CPU: here a product in TF32 is one in float32."""
    net = lambda x: jnp.tanh(W @ x)
    e = explain.integrated_gradients(steps=7, chunk=3)
    step = jax.grad(lambda x: jnp.sum(e(net, x, 0) ** 2))
    measures = {
        "average": lambda: step(X),
        "chunks": lambda: numerics.over_chunks(lambda v: (v @ W).sum(0), np.stack([X] * 5), 2, add=True),
        "repeat": lambda: numerics.repeat(lambda v: jnp.tanh(W @ v), X, 3),
        "bf16": lambda: geometry.sweep(lambda x: net(x), X[None], precision="bf16")[0],
        "highest": lambda: geometry.sweep(step, X[None], precision="highest")[0],
    }
    on_cpu = {name: np.asarray(run()) for name, run in measures.items()}
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert precision.fraction_bits("bf16") == 7
    assert precision.fraction_bits("tf32") == (None if backend == "gpu" else 10)
    for name, run in measures.items():
        np.testing.assert_allclose(run(), on_cpu[name], rtol=2e-5, atol=1e-6, err_msg=name)
    assert " scan[" in str(jax.make_jaxpr(step)(X))
