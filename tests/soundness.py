"""Soundness: of one random spelling, what is sampled in boxes against everything that is certified of them."""

from functools import partial

import jax
import jax.numpy as jnp
from spellings import Spelling, draw, spelling

from xmanip_jax import explain, geometry, rewrite

CLASS = 1
CERTIFIED = ("outputs", "outputs linear", "gradients", "gradients linear", "heat maps", "their change", "top k",
             "signs", "hessian", "hessian spectral", "hessian anywhere", "gradient change", "normal change")
FEW = 3  # points at which Hessians are taken


def check(seed: int, networks: int, points: int, *, linear: bool = True) -> dict:
    """What became of `networks` networks of one spelling: a record for JSON.

    violations: by certificate, how many networks have a point that breaks it;  refused: the reason, if any;  curvature:
    the reason why there is no bound of the curvature;  unnumbered: networks with points whose gradient is no number.
    """
    made = spelling(seed)
    dtype = (jnp.float32, jnp.float64)[seed % 2]
    record = {"seed": seed, "spelling": made.name, "dtype": dtype.__name__, "networks": networks, "points": points}
    curvature = _refusal(lambda x, w: geometry.gradient_change_bound(partial(made.apply, w), x, x, CLASS), made, dtype)
    refused = _refusal(lambda x, w: geometry.gradient_bounds(partial(made.apply, w), geometry.ball(x, 0.1), CLASS),
                       made, dtype)
    if refused:
        return record | {"refused": refused}
    anywhere = _refusal(lambda x, w: geometry.hessian_bound(partial(made.apply, w), x, CLASS), made, dtype)
    key = jax.random.key(seed)
    one = partial(_violations, made, points, linear, not curvature, not anywhere)
    broken, unnumbered = jax.jit(jax.vmap(one))(draw(made, key, networks, dtype), jax.random.split(key, networks))
    return record | {"violations": {n: int(v.sum()) for n, v in broken.items() if v.any()},
                     "unnumbered": int(unnumbered.sum()), "curvature": curvature, "anywhere": anywhere}


def _refusal(bound, made, dtype):
    w = [jnp.ones(s, dtype) for s in made.weights]
    try:
        jax.eval_shape(bound, jnp.ones(made.shape, dtype), w)
    except rewrite.UnsupportedPrimitiveError as error:
        return str(error)
    return None


def _violations(made: Spelling, points: int, linear: bool, curvature: bool, anywhere: bool, w, key):
    """({certificate: Bool[]}, whether some gradient is no number) of one network and a box of a random size."""
    f = partial(made.apply, w)
    at, size, *rest = jax.random.split(key, 5)
    x = jax.random.normal(at, made.shape, w[-1].dtype)
    box = geometry.ball(x, (10.0 ** jax.random.uniform(size, minval=-6, maxval=0.3)).astype(x.dtype))
    tried = _points(x, box, points, rest)
    g = jax.grad(lambda z: f(z)[CLASS])
    found, values = jax.vmap(g)(tried), jax.vmap(f)(tried)
    numbers = jnp.isfinite(found).all() & jnp.isfinite(values).all()
    leaves = lambda v, b: ((v < b.lower) | (v > b.upper)).any()
    broken = {}
    for how in (False, True)[:1 + linear]:
        bounds, name = geometry.gradient_bounds(f, box, CLASS, linear=how), " linear" * how
        broken["outputs" + name] = leaves(values, geometry.output_bounds(f, box, linear=how))
        broken["gradients" + name] = leaves(found, bounds)
    broken |= _maps(found, bounds)
    if curvature:
        broken |= _curvatures(f, g, x, tried[:FEW], box, anywhere)
    return broken, ~numbers


def _points(x, box, count, keys):
    """The centre, corners, points on faces, and points inside."""
    n = count // 3
    inside = jax.random.uniform(keys[0], (count - 1, *x.shape), x.dtype)
    corner = jax.random.bernoulli(keys[1], shape=inside.shape).astype(x.dtype)
    face = jax.random.bernoulli(keys[2], 0.5, inside.shape)
    share = jnp.where(jnp.arange(count - 1).reshape(-1, *[1] * x.ndim) < n, corner, jnp.where(face, corner, inside))
    share = share.at[2 * n:].set(inside[2 * n:])
    return jnp.concatenate([x[None], jnp.clip(box.lower + share * (box.upper - box.lower), *box)])


def _maps(found, bounds):
    """Heat maps of the gradients, as images of one row where they are vectors."""
    shape = found.shape[1:] if found.ndim == 4 else (1, found.shape[1])
    found, bounds = found.reshape(-1, *shape), geometry.Box(*(b.reshape(shape) for b in bounds))
    of = lambda m: explain.heatmap(m if m.ndim == 3 else m[..., None])
    maps, k = jax.vmap(of)(found), 3
    heat = geometry.heatmap_bounds(bounds)
    alive = maps.sum((1, 2)) > 0.5  # a map of zeros has no shares
    top = lambda m: jax.lax.top_k(m.ravel(), k)[1]
    saliency = jax.vmap(lambda m: geometry.saliency_bounds(geometry.Box(m, m)).upper)(found)
    kept = jax.vmap(lambda m: jnp.isin(top(m), top(saliency[0])).sum())(saliency)
    change = jnp.abs(maps - maps[0]).sum((1, 2))
    outside = (maps < heat.lower) | (maps > heat.upper)
    signs = geometry.certified_signs(bounds) & (jnp.sign(found) != jnp.sign(found[0]))
    return {"heat maps": (outside.any((1, 2)) & alive).any(),
            "their change": ((change > geometry.heatmap_change_bound(found[0], bounds)) & alive & alive[0]).any(),
            "top k": (kept < geometry.certified_top_k(found[0], bounds, k)).any(), "signs": signs.any()}


def _curvatures(f, g, x, tried, box, anywhere):
    h = jax.vmap(jax.jacrev(g))(tried).reshape(len(tried), x.size, x.size)
    frobenius, spectral = jnp.linalg.norm(h, axis=(1, 2)).max(), jnp.linalg.norm(h, 2, axis=(1, 2)).max()
    broken = {"hessian": frobenius > geometry.hessian_bound(f, x, CLASS, box=box),
              "hessian spectral": spectral > geometry.hessian_bound(f, x, CLASS, box=box, spectral=True)}
    if anywhere:
        broken["hessian anywhere"] = frobenius > geometry.hessian_bound(f, x, CLASS)
    y = tried[-1]
    gx, gy = g(x), g(y)
    length = lambda v: jnp.linalg.norm(v.ravel())
    normals = length(gx / length(gx) - gy / length(gy))
    broken["gradient change"] = length(gx - gy) > geometry.gradient_change_bound(f, x, y, CLASS)
    broken["normal change"] = (normals > geometry.normal_change_bound(f, x, y, CLASS)) & (length(gx) * length(gy) > 0)
    return broken
