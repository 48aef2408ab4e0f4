"""Soundness: of one random spelling, what is sampled in boxes against everything that is certified of them."""

from functools import partial

import jax
import jax.numpy as jnp

from random_spellings import Spelling, draw, spelling
from xmanip_jax import certify, explain, rewrite
from xmanip_jax.certify import Box
from xmanip_jax.certify.hessian_bound import changes, check_smooth, hessian_over
from xmanip_jax.certify.intervals import forward, gradient_over
from xmanip_jax.certify.network import read

CLASS, TOP = 1, 3
FEW = 3  # points at which Hessians are taken


def check(seed: int, networks: int, points: int) -> dict:
    """What became of `networks` networks of one spelling and a box of each, float32 or float64: a record for JSON.

    broken: by certificate, in how many networks a point breaks it;  held: in how many none does;  refused: why there
    are no bounds of the gradient;  curvature, anywhere: why there are none of its change, over a box or at all inputs;
    unnumbered: networks with a sampled gradient that is no number, as jax's own of a maximum may be.
    """
    made, dtype = spelling(seed), (jnp.float32, jnp.float64)[seed % 2]
    record = {"seed": seed, "spelling": made.name, "dtype": dtype.__name__, "networks": networks, "points": points}
    of = lambda bound: _refusal(bound, made, dtype)
    record["refused"] = of(read)
    if record["refused"]:
        return record
    record["curvature"] = of(lambda f, x: check_smooth(read(f, x)))
    record["anywhere"] = of(lambda f, x: check_smooth(read(f, x), anywhere=True))
    weights = draw(made, jax.random.key(seed), networks, dtype)
    boxes = _boxes(jax.random.split(jax.random.key(seed + 1), networks), made.shape, dtype, points)
    sample = partial(_sampled, made, not record["curvature"], not record["anywhere"])
    broken, gradients, bounds = jax.jit(jax.vmap(sample))(weights, *boxes)
    broken |= _maps(gradients, bounds)
    record["unnumbered"] = int(broken.pop("unnumbered").sum())
    count = {name: int(v.sum()) for name, v in broken.items()}
    broken = {n: v for n, v in count.items() if v}
    return record | {"broken": broken, "held": {n: networks - v for n, v in count.items()}}


def _refusal(bound, made: Spelling, dtype):
    w = [jnp.ones(s, dtype) for s in made.weights]
    try:
        bound(partial(made.apply, w), jnp.ones(made.shape, dtype))
    except rewrite.UnsupportedPrimitiveError as error:
        return str(error)
    return None


@partial(jax.jit, static_argnums=(1, 2, 3))
@partial(jax.vmap, in_axes=(0, None, None, None))
def _boxes(key, shape, dtype, count):
    """A centre, a box of a random size, and points: the centre, corners, some on faces, some inside."""
    at, size, within, corners, faces = jax.random.split(key, 5)
    x = jax.random.normal(at, shape, dtype)
    box = certify.ball(x, (10.0 ** jax.random.uniform(size, minval=-6, maxval=0.3)).astype(dtype))
    inside = jax.random.uniform(within, (count - 1, *shape), dtype)
    corner = jax.random.bernoulli(corners, shape=inside.shape).astype(dtype)
    face = jnp.where(jax.random.bernoulli(faces, 0.5, inside.shape), corner, inside)
    third = (jnp.arange(count - 1) * 3 // count).reshape(-1, *[1] * len(shape))
    share = jnp.where(third == 0, corner, jnp.where(third == 1, face, inside))
    return x, box, jnp.concatenate([x[None], jnp.clip(box.lower + share * (box.upper - box.lower), *box)])


def _leaves(values, box):
    """Whether some are outside; what is no number says nothing."""
    return ((values < box.lower) | (values > box.upper)).any()


def _sampled(made, curvature, anywhere, w, x, box, tried):
    """({certificate: Bool[]}, the gradients, their bounds) of one network."""
    f = partial(made.apply, w)
    g = jax.grad(lambda z: f(z)[CLASS])
    gradients, values = jax.vmap(g)(tried), jax.vmap(f)(tried)
    numbers = jnp.isfinite(gradients)
    gradients = jnp.where(numbers.all(tuple(range(1, numbers.ndim)), keepdims=True), gradients, jnp.nan)
    broken = {"unnumbered": ~numbers.all()}
    linear = forward(f, box, linear=True, weights=0.0)
    for name, trace in (("", linear.plain), (" linear", linear)):
        bounds = gradient_over(trace, CLASS)
        broken["outputs" + name] = _leaves(values, trace.boxes[trace.network.result])
        broken["gradients" + name] = _leaves(gradients, bounds)
    if curvature:
        broken |= _curvatures(f, g, x, tried[-FEW:], linear.plain)
    if anywhere:
        broken["hessian anywhere"] = _norms(g, tried[-FEW:])[0] > certify.hessian_bound(f, x, CLASS)
    return broken, gradients, bounds


def _norms(g, tried):
    """The largest Frobenius and the largest spectral norm of the Hessians at some points."""
    h = jax.vmap(jax.jacrev(g))(tried).reshape(len(tried), tried[0].size, tried[0].size)
    return jnp.linalg.norm(h, axis=(1, 2)).max(), jnp.linalg.norm(h, 2, axis=(1, 2)).max()


def _curvatures(f, g, x, tried, trace):
    length = lambda v: jnp.linalg.norm(v.ravel())
    frobenius, spectral = _norms(g, tried)
    y = tried[-1]
    gx, gy = g(x), g(y)
    normals = length(gx / length(gx) - gy / length(gy))
    bound = changes(f, x, y, CLASS, False)
    return {"hessian": frobenius > hessian_over(trace, CLASS, False),
            "hessian spectral": spectral > hessian_over(trace, CLASS, True),
            "gradient change": length(gx - gy) > bound.gradient, "normal change": normals > bound.normal}


@jax.jit
@jax.vmap
def _maps(gradients, bounds):
    """Heat maps of gradients, as images of one row where they are vectors, and the order and signs of their pixels."""
    shape = gradients.shape[1:] if gradients.ndim == 4 else (1, gradients.shape[1], 1)
    found, bounds = gradients.reshape(-1, *shape), Box(*(b.reshape(shape) for b in bounds))
    maps, heat = jax.vmap(explain.heatmap)(found), certify.heatmap_bounds(bounds)
    alive = maps.sum((1, 2)) > 0.5  # a map of zeros has no shares
    saliency = jax.vmap(lambda m: certify.saliency_bounds(Box(m, m)).upper)(found)
    top = jax.vmap(lambda m: jax.lax.top_k(m.ravel(), TOP)[1])(saliency)
    kept = jax.vmap(lambda t: jnp.isin(t, top[0]).sum())(top)
    # Shares sum to 1 up to rounding, so that maps without a pixel in common differ by 2 up to rounding.
    change = jnp.abs(maps - maps[0]).sum((1, 2)) * (1 - maps[0].size * jnp.finfo(maps.dtype).eps)
    numbers = jnp.isfinite(found).all((1, 2, 3))
    signs = certify.certified_signs(bounds) & (jnp.sign(found) != jnp.sign(found[0])) & numbers[:, None, None, None]
    return {"heat maps": (((maps < heat.lower) | (maps > heat.upper)).any((1, 2)) & alive).any(),
            "heat map change": ((change > certify.heatmap_change_bound(found[0], bounds)) & alive & alive[0]).any(),
            "top k": ((kept < certify.certified_top_k(found[0], bounds, TOP)) & numbers & numbers[0]).any(),
            "signs": (signs & numbers[0]).any()}
