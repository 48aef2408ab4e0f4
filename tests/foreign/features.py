"""What the library does with any model, each feature judged without it: `check(subject)` raises where it is wrong."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from foreign.judge import Subject, close, finite, gated, kinked, over_points, proportional
from xmanip_jax import attack, certify, defend, explain, rewrite, smooth

__all__ = ["FEATURES"]

KEY = jax.random.key
BASELINE, RADIUS = 0.3, 0.02


def explained(s: Subject, e, **options):
    return jax.jit(lambda x: e(s.f, x, s.target, **options))(s.x)


def gradient(s):
    """Central differences of the values."""
    close(explained(s, explain.gradient()), s.slope, s.tolerance(1e-6))


def gradient_x_input(s):
    """x times central differences."""
    close(explained(s, explain.gradient_x_input()), np.asarray(s.x) * s.slope, s.tolerance(1e-6))


def integrated_gradients(s, steps=16):
    """The mean of gradients on the way, and completeness."""
    found = explained(s, explain.integrated_gradients(steps=steps, baseline=BASELINE))
    way = lambda t: BASELINE + t.reshape(-1, *[1] * s.x.ndim) * (s.x - BASELINE)
    points = way(jnp.arange(1, steps + 1) / steps)
    close(found, np.asarray(s.x - BASELINE) * s.gradients(points).mean(0), s.tolerance(1e-8))
    values = s.values(way(jnp.linspace(0, 1, 257)))
    variation = np.abs(np.diff(np.diff(values))).sum() * 256
    gap = abs(float(found.sum()) - (values[-1] - values[0]))
    if s.model.honest:
        assert gap <= 1.1 * variation / steps + s.tolerance(1e-8) * np.abs(values).max(), f"completeness: {gap:.2g}"


def smoothgrad(s):
    """The mean of gradients at the same noise."""
    found = explained(s, explain.smoothgrad(explain.gradient(), sigma=0.1, samples=4), key=KEY(0))
    noise = [jax.random.normal(jax.random.split(k)[0], s.x.shape, s.x.dtype) for k in jax.random.split(KEY(0), 4)]
    close(found, s.gradients(s.x + 0.1 * jnp.stack(noise)).mean(0), s.tolerance(1e-8))


def by_other_activations(s, found, wrap, *, times_input=False, known=True):
    """Against the gradient of the same model built with activations of another derivative; finite, where unknown."""
    finite(found)
    assert found.shape == s.x.shape, f"shape {found.shape}"
    if known and s.model.honest and s.model.takes("wrap"):
        expected = jax.jit(jax.grad(s.like(wrap)))(s.x)
        close(found, s.x * expected if times_input else expected, s.tolerance(1e-7))


def guided_backprop(s):
    """The gradient of the same model built with activations through which relu(R) act'(z) flows."""
    by_other_activations(s, explained(s, explain.guided_backprop()), gated)


def lrp_0(s):
    """x times the gradient of the same model built with activations of slope act(z) / z, where that is LRP-0."""
    zero = explain.epsilon(0.0)
    found = explained(s, explain.lrp(conv=zero, dense=zero, sums=zero))
    by_other_activations(s, found, proportional, times_input=True, known=s.model.linear)


def lrp_dombrowski2019(s):
    """Its shares of the logit: none negative, together at most 1 and, in networks of known layers, most of it."""
    found = explained(s, explain.lrp_dombrowski2019(0.0, 1.0))
    finite(found)
    assert found.shape == s.x.shape, f"shape {found.shape}"
    share, slack = found / s.logits[s.target], s.tolerance(1e-4)
    assert share.min() >= -slack, f"a share of {share.min():.2g}"
    assert share.sum() <= 1 + slack, f"shares that sum to {share.sum():.3g}"
    assert share.sum() >= 0.5 or not s.model.linear, f"of the logit, {share.sum():.3g} arrives"


def patterns(s):
    """With patterns of ones, the logit times central differences."""
    layers = jax.eval_shape(lambda x: {n: layer.w for n, layer in rewrite.linear_layers(s.f)(x).items()}, s.x)
    ones = {name: jnp.ones(w.shape, w.dtype) for name, w in layers.items()}
    try:
        found = explained(s, explain.pattern_attribution(ones))
    except ValueError as error:
        assert "pattern" not in str(error), f"the patterns of its own layers are refused: {error}"
        raise
    finite(found)
    if s.model.honest:
        close(found, s.logits[s.target] * s.slope, s.tolerance(1e-6))


def grad_cam(s):
    """Numpy on the value and the gradient of every layer with places."""
    layers = rewrite.layers(s.f, s.x)
    known = {layer.name: _value(s, layer.name) for layer in layers if not layer.in_loop}
    for name, (a, g) in {name: pair for name, pair in known.items() if pair[0].ndim > 1}.items():
        axis = -a.ndim if s.model.channels_first else -1
        found = explained(s, explain.grad_cam(name, relu=False, channels=axis))
        a, g = np.moveaxis(a, axis, -1), np.moveaxis(g, axis, -1)
        close(found, (a * g.mean(tuple(range(a.ndim - 1)))).sum(-1), s.tolerance(1e-8), name)
    if all(a.ndim < 2 for a, _ in known.values()):
        finite(explained(s, explain.grad_cam(layers[0].name if layers else "features")))


def _value(s, name):
    """A layer's value and its gradient, without leading axes of length 1."""
    tapped = rewrite.tap(s.f, name)
    shape = jax.eval_shape(tapped, s.x, 0.0)[1]

    def score(delta):
        logits, value = tapped(s.x, delta)
        return logits[s.target], value

    found = jax.jit(jax.grad(score, has_aux=True))(jnp.zeros(shape.shape, shape.dtype))
    g, a = (np.asarray(v, float) for v in found)
    while a.shape[:1] == (1,):
        a, g = a[0], g[0]
    return a, g


def softplus(s):
    """Values that tend to the model's, and no kink along a segment without a warning."""
    at = lambda beta: over_points(lambda x: smooth.softplus(s.f, beta, max_pool=True)(x)[s.target])
    points = s.around(0.2, 32)
    exact = s.values(points)
    gaps = [np.abs(at(beta)(points) - exact).max() / np.abs(exact).max() for beta in (5.0, 50.0, 5000.0)]
    assert gaps[2] <= gaps[1] + s.tolerance(1e-9) and gaps[2] <= s.tolerance(1e-2), f"gaps {gaps}"
    return "kinks are left, without a word" if not s.precision and kinked(at(5.0), s.x) else None


def manipulation(s):
    """After three steps, finite pixels in [0, 1] with the logits and heat maps of a fresh call."""
    heat = explain.heatmap(explained(s, explain.gradient()))
    search = attack.manipulation(explain.gradient(), steps=3, judge_every=3)
    found = search(s.f, s.x[None], jnp.flip(heat)[None], key=KEY(0))
    _fresh(s, found, s.f)


def largest_change(s):
    """The same, and pixels inside the ball."""
    search = attack.largest_change(explain.gradient(), epsilon=0.05, steps=3, restarts=1)
    found = search(s.f, s.x[None], key=KEY(0))
    _fresh(s, found, s.f)
    finite(found.change)
    assert float(jnp.abs(found.pixels[0] - s.x).max()) <= 0.05 + 1e-9, "outside the ball"


def _fresh(s, found, f):
    """What an attack returns, recomputed by hand."""
    finite(found.pixels, found.heatmap, found.logits)
    assert float(found.pixels.min()) >= 0 and float(found.pixels.max()) <= 1, "outside the pixels"
    close(found.logits[0], f(found.pixels[0]), s.tolerance(1e-8), "logits")
    assert int(found.logits[0].argmax()) == int(found.clean.logits[0].argmax()), "another class"
    mass = np.abs(jax.grad(lambda x: f(x)[int(found.clean.logits[0].argmax())])(found.pixels[0]))
    mass = mass.sum(-1) if mass.ndim >= 3 else mass
    close(found.heatmap[0], mass / mass.sum(), s.tolerance(1e-7), "heat map")


def weights_in_place(s):
    """The logits of the new weights."""
    f, x, update = s.model.build()
    search = attack.largest_change(explain.gradient(), epsilon=0.05, steps=1, restarts=1, surrogate=smooth.none())
    search(f, x[None], key=KEY(0))
    update()
    found = search(f, x[None], key=KEY(0))
    close(found.clean.logits[0], f(x), s.tolerance(1e-8), "clean logits")
    _fresh(s, found, f)


def hessian_penalty(s):
    """Central differences of the gradient along the probe; a model with kinks has no curvature, and a warning."""
    apply = lambda params, state, x: s.f(x)
    found = jax.jit(lambda x: defend.hessian()(apply, None, None, x, s.target, KEY(1)))(s.x)
    v, step = jax.random.rademacher(KEY(1), (1, *s.x.shape), s.x.dtype)[0], 1e-5 if s.sharp else 1e-3
    ahead, behind = s.gradients(jnp.stack([s.x + step * v, s.x - step * v]))
    expected = np.sum(((ahead - behind) / (2 * step)) ** 2)
    finite(found)
    wrong = f"{float(found):.4g}, not {expected:.4g}"
    assert abs(float(found) - expected) <= 2 * s.tolerance(1e-4) * expected + 1e-8, wrong
    return "no curvature, without a word" if s.kinked and not float(found) else None


def _inside(found, bounds, what):
    outside = (found < np.asarray(bounds.lower)) | (found > np.asarray(bounds.upper))
    assert not outside.any(), f"{outside.mean():.1%} of the sampled {what} outside"
    finite(bounds.lower, bounds.upper)


def output_bounds(s):
    """The outputs of 200 points of the box, none outside."""
    bounds = jax.jit(lambda x: certify.output_bounds(s.f, certify.ball(x, RADIUS)))(s.x)
    _inside(over_points(s.f)(s.around(RADIUS)), bounds, "outputs")


def gradient_bounds(s):
    """The gradients at 200 points of the box, none outside."""
    both = [jax.jit(lambda x, linear=linear: certify.gradient_bounds(s.f, certify.ball(x, RADIUS), s.target,
                                                                      linear=linear))(s.x) for linear in (False, True)]
    gradients = over_points(jax.grad(lambda x: s.f(x)[s.target])) if s.precision else s.gradients
    for bounds in both:
        _inside(gradients(s.around(RADIUS)), bounds, "gradients")


def hessian_bound(s):
    """Differences of gradients at four points of the box: no Hessian is longer."""
    bound = jax.jit(lambda x: certify.hessian_bound(s.f, x, s.target, box=certify.ball(x, RADIUS)))(s.x)
    _not_above(_curvatures(s), bound)


def hessian_bound_anywhere(s):
    """The same, without a box and not compiled: under jit what is not known is infinite, and cannot be refused."""
    bound = certify.hessian_bound(s.f, s.x, s.target)
    _not_above(_curvatures(s), bound)


def gradient_change_bound(s):
    """How far the gradient at four points of the box is from that at x: never further."""
    points = s.around(RADIUS, 4)
    bound = jax.jit(jax.vmap(lambda y: certify.gradient_change_bound(s.f, s.x, y, s.target)))(points)
    for moved, most in zip(s.gradients(points) - s.gradients(s.x[None]), bound, strict=True):
        _not_above([np.linalg.norm(moved)], most)


@functools.lru_cache(maxsize=1)
def _curvatures(s):
    return [np.linalg.norm(s.differences(s.gradients, x, 1e-5)) for x in s.around(RADIUS, 4)]


def _not_above(found, bound):
    finite(bound)
    assert max(found) <= float(bound) * (1 + 1e-6) + 1e-6, f"{max(found):.4g} above the bound {float(bound):.4g}"


FEATURES: dict[str, Callable[[Subject], str | None]] = {
    check.__name__: check for check in (
        gradient, gradient_x_input, integrated_gradients, smoothgrad, guided_backprop, lrp_0, lrp_dombrowski2019,
        patterns, grad_cam, softplus, manipulation, largest_change, weights_in_place, hessian_penalty, output_bounds,
        gradient_bounds, hessian_bound, hessian_bound_anywhere, gradient_change_bound)}
