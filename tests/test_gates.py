"""Products, quotients and maxima of what carries the image: gates, normalisations, maxout; ties, empty slices, lies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xmanip_jax import certify, models, rewrite
from xmanip_jax.certify import Box

pytestmark = pytest.mark.promotes("ranks", "types")

KEY = jax.random.key(0)
W, V, U, A = (jax.random.normal(k, s) / 2 for k, s in zip(jax.random.split(KEY, 4), [(6, 6), (6, 6), (3, 6), (3, 3)],
                                                         strict=True))


def normed(x, axes, groups=1, centred=True):
    """Layer, group and root-mean-square normalisation."""
    x = x.reshape(groups, -1) if groups > 1 else x
    x = x - x.mean(-1, keepdims=True) if centred else x
    return (x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 0.1)).reshape(axes)


SMOOTH = {
    "a gated linear unit": lambda x: U @ ((W @ x) * jax.nn.sigmoid(V @ x)),
    "jax's glu": lambda x: A @ jax.nn.glu(W @ x),
    "squeeze and excitation": lambda x: U @ ((h := jnp.tanh((W @ x).reshape(3, 2))) * jax.nn.sigmoid(
        A @ h.mean(1))[:, None]).ravel(),
    "a highway": lambda x: U @ ((t := jax.nn.sigmoid(W @ x)) * jnp.tanh(V @ x) + (1 - t) * x),
    "layer norm": lambda x: U @ jnp.tanh(normed(W @ x, (6,))),
    "group norm": lambda x: U @ jnp.tanh(normed(W @ x, (6,), 3)),
    "root mean square": lambda x: U @ normed(W @ x, (6,), centred=False),
    "an input of unit length": lambda x: U @ jnp.tanh(W @ (x / jnp.sqrt(jnp.sum(x * x) + 0.01))),
    "a ratio": lambda x: (U @ jnp.exp(0.3 * W @ x)) / jnp.exp(0.3 * V @ x).sum(),
    "a product of three": lambda x: U @ ((W @ x) * (V @ x) * jnp.tanh(x)),
}
SHARP = {
    "maxout": lambda x: U @ jnp.maximum(W @ x, V @ x), "the smaller of two": lambda x: U @ jnp.minimum(W @ x, -x),
    "a minimum over axes": lambda x: A @ (W @ x).reshape(3, 2).min(1),
    "nested maxima": lambda x: A @ jnp.tanh(jnp.maximum((W @ x).reshape(3, 2).max(1), (V @ x)[:3])),
    "a gate of a maximum": lambda x: U @ (jax.nn.relu(W @ x) * (V @ x).max(keepdims=True)),
}


def outside(box, values):
    return (values < box.lower) | (values > box.upper) | jnp.isnan(values)


QUICK = "a highway", "layer norm", "nested maxima"  # with linear forms and curvatures, which take long to compile


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name, thorough", [
    *((n, n in QUICK) for n in (*SMOOTH, *SHARP)),
    *(pytest.param(n, True, marks=pytest.mark.slow) for n in (*SMOOTH, *SHARP) if n not in QUICK)])
def test_nothing_leaves_the_bounds_of_gates_and_norms(name, thorough, x64):
    f = (SMOOTH | SHARP)[name]

    @jax.jit
    @jax.vmap
    def one(key):
        at, size, inside = jax.random.split(key, 3)
        x = jax.random.normal(at, (6,))
        box = certify.ball(x, 10.0 ** jax.random.uniform(size, minval=-5, maxval=0))
        points = jnp.clip(box.lower + jax.random.uniform(inside, (40, 6)) * (box.upper - box.lower), *box)
        g = jax.vmap(jax.grad(lambda x: f(x)[1]))(points)
        out, found = [outside(certify.output_bounds(f, box), jax.vmap(f)(points)).any()], []
        for linear in (False, True)[:1 + thorough]:
            gradients = certify.gradient_bounds(f, box, 1, linear=linear)
            out.append(outside(gradients, g).any())
            found.append(((g.max(0) - g.min(0)).max() + 1e-9) / ((gradients.upper - gradients.lower).max() + 1e-9))
        if name in SMOOTH and thorough:
            y = points[0]
            h = jax.hessian(lambda x: f(x)[1])(y)
            moved = lambda v: jnp.linalg.norm(v(x) - v(y))
            grad = jax.grad(lambda x: f(x)[1])
            normal = lambda x: grad(x) / jnp.linalg.norm(grad(x))
            out += [jnp.linalg.norm(h) > certify.hessian_bound(f, x, 1, box=box),
                    jnp.linalg.norm(h, 2) > certify.hessian_bound(f, x, 1, box=box, spectral=True),
                    moved(grad) > certify.gradient_change_bound(f, x, y, 1),
                    moved(normal) > certify.normal_change_bound(f, x, y, 1, linear=True)]
        return jnp.stack(out), jnp.stack(found)

    out, filled = one(jax.random.split(KEY, 60))
    assert not out.any(), out.sum(0)
    assert (filled.max(0) > 0.02).all(), filled.max(0)  # and they say something


def test_a_product_has_no_bound_at_all_inputs():
    f = SMOOTH["a gated linear unit"]
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="at all inputs is known for a product; give a box"):
        certify.hessian_bound(f, jnp.ones(6), 0)


def test_the_curvature_of_a_product_is_attained(x64):
    f = lambda x: (x[:1] * x[1:2]) * 3.0
    box = certify.ball(jnp.zeros(2), 0.5)
    of = jax.jit(lambda f: certify.hessian_bound(f, jnp.zeros(2), 0, box=box), static_argnums=0)
    np.testing.assert_allclose(of(f), 6.0, rtol=1e-6)  # ||H||_F = 3 sqrt 2
    np.testing.assert_allclose(of(jnp.square), 2.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_ties_and_near_ties_go_either_way(dtype, x64):
    """Equal inputs, and some that differ by less than rounding, under maxima over axes and windows and of two."""
    pool = lambda x: models.max_pool(x.reshape(4, 4, 1), 2, 2).ravel()
    cases = {"axes": lambda x: (1.1 * x).reshape(4, 4).max(1), "windows": pool, "flax": lambda x: lax.reduce_window(
        x.reshape(4, 4), -jnp.inf, lax.max, (2, 2), (2, 2), "VALID").ravel(),
        "nested": lambda x: pool(x).max(keepdims=True), "two": lambda x: jnp.maximum(x[:8], x[8:])}
    base = jnp.round(jax.random.normal(KEY, (30, 16)), 0).astype(dtype)
    nudged = base * (1 + jnp.finfo(dtype).eps * jax.random.randint(KEY, base.shape, -1, 2)).astype(dtype)
    for name, f in cases.items():
        for xs in (base, nudged):
            g = jax.jit(jax.vmap(jax.grad(lambda x, f=f: f(x)[0])))(xs)
            bounds = jax.jit(jax.vmap(lambda x, f=f: certify.gradient_bounds(f, Box(x, x), 0)))(xs)
            assert not outside(bounds, g).any(), name
        certain = jax.jit(lambda x, f=f: certify.gradient_bounds(f, Box(x, x), 0))(jnp.arange(16.0).astype(dtype))
        assert (certain.upper - certain.lower).max() < 1e-4, name  # no tie, no doubt


def test_an_empty_slice_is_nothing(x64):
    w = jnp.ones((3, 4))
    f = lambda x: jnp.tanh(w @ jnp.concatenate([x[:0], x, 2 * x[4:]]))
    x = jnp.arange(4.0) / 4
    bounds = jax.jit(lambda x: certify.gradient_bounds(f, certify.ball(x, 0.1), 0))(x)
    assert not outside(bounds, jax.grad(lambda x: f(x)[0])(x)).any()
    h = jnp.linalg.norm(jax.hessian(lambda x: f(x)[0])(x))
    assert h <= jax.jit(lambda x: certify.hessian_bound(f, x, 0))(x)


def lies(body, rule):
    """A function named max_pool that is another, or whose derivative is."""
    @functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
    def max_pool(x, window, stride):
        return body(x, window, stride)

    max_pool.defjvp(lambda window, stride, x, t: rule(x[0], t[0], window, stride))
    return max_pool


def test_a_function_named_max_pool_is_not_believed():
    real = lambda x, n, s: lax.reduce_window(x, -jnp.inf, lax.max, (n, n, 1), (s, s, 1), "VALID")
    mean = lambda x, t, n, s: (real(x, n, s), lax.reduce_window(t, 0.0, lax.add, (n, n, 1), (s, s, 1), "VALID") / n**2)
    scaled = lambda x, n, s: 2 * real(x, n, s)
    x = jnp.arange(16.0).reshape(4, 4, 1)
    for pool in (lies(real, mean), lies(scaled, lambda x, t, n, s: jax.jvp(lambda x: scaled(x, n, s), (x,), (t,)))):
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match="max_pool"):
            certify.gradient_bounds(lambda x, pool=pool: pool(x, 2, 2).sum((0, 1)), Box(x, x), 0)
    for options in ((2, 2), (3, 2, True), (3, 1, False, 1)):
        f = lambda x, options=options: models.max_pool(x, *options).sum((0, 1))
        bounds = jax.jit(lambda x, f=f: certify.gradient_bounds(f, Box(x, x), 0))(x)
        assert not outside(bounds, jax.grad(lambda x, f=f: f(x)[0])(x)).any()
