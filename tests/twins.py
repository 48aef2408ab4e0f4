"""Random networks, each written in two ways: what is explained must not depend on how a model is spelled.

A part is drawn as numbers (its weights) and a list of ways to write it; each twin takes one of them.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xmanip_jax import explain, rewrite, smooth

nn, scale = jax.nn, np.sqrt
TOP = "top"  # the name of the last layer of images and tokens, below the head


class Twins(NamedTuple):
    """What they are made of, and which ways; an input; both models; the axis of channels of the layer "top" of each."""

    name: str
    x: np.ndarray
    models: tuple[Callable, Callable]
    channels: tuple[int | None, int | None]


def twins(seed: int) -> Twins:
    """Two spellings of one network in float64; the same for the same seed."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["vector", "tokens", "image"])
    shape = {"vector": (6,), "tokens": (4, 5), "image": (4, 4, 3)}[kind]  # few shapes: what is compiled serves many
    names, parts, now = [], [], shape
    for _ in range(rng.integers(1, 4)):
        name = rng.choice([*PARTS[kind]])
        ways, now = PARTS[kind][name](rng, now)
        pair = _pair(rng, ways)
        names.append(f"{name} {ways.index(pair[0])}-{ways.index(pair[1])}")
        parts.append(pair)
    tops = _pair(rng, TOPS[kind])
    ways, now = HEADS[kind](rng, now)
    parts += [tuple(way for way, _ in tops), _pair(rng, ways), _pair(rng, dense(rng, now, 3)[0])]
    wholes = _pair(rng, [lambda f: f, jax.jit, jax.checkpoint, lambda f: lambda x: jax.jit(f)(x + 0.0)])
    models = tuple(whole(partial(_chain, [pair[i] for pair in parts])) for i, whole in enumerate(wholes))
    return Twins(" | ".join([kind, *names]), rng.normal(size=shape), models, tuple(where for _, where in tops))


def _pair(rng, ways):
    """Two of them, different where there are two."""
    first, second = rng.choice(len(ways), 2, replace=False) if len(ways) > 1 else (0, 0)
    return ways[first], ways[second]


def _chain(parts, x):
    for part in parts:
        x = part(x)
    return x


def draw(rng, *shape):
    """Weights of variance 2 / fan-in."""
    return rng.normal(size=shape) * scale(2 / np.prod(shape[:-1]))


# --- activations: each in several spellings

def activation(rng):
    return ACTIVATIONS[rng.choice([*ACTIVATIONS])]


def _branch(z):
    return lax.select(z > 0, z, jnp.zeros_like(z))


ACTIVATIONS = {
    "relu": [nn.relu, lambda z: jnp.maximum(z, 0), lambda z: jnp.where(z > 0, z, 0), lambda z: z * (z > 0),
             lambda z: jnp.clip(z, 0), lambda z: jax.jit(nn.relu)(z), _branch, lambda z: -jnp.minimum(-z, 0)],
    "relu6": [nn.relu6, lambda z: jnp.minimum(jnp.maximum(z, 0), 6), lambda z: jnp.clip(z, 0, 6)],
    "leaky": [lambda z: nn.leaky_relu(z, 0.1), lambda z: jnp.where(z >= 0, z, 0.1 * z),
              lambda z: jnp.maximum(z, 0.1 * z)],
    "swish": [nn.swish, lambda z: z * nn.sigmoid(z), lambda z: z / (1 + jnp.exp(-z)), jax.jit(lambda z: nn.silu(z))],
    "gelu": [lambda z: nn.gelu(z, approximate=False), lambda z: 0.5 * z * (1 + lax.erf(z / np.sqrt(2))),
             lambda z: z * 0.5 * lax.erfc(-z / np.sqrt(2))],
    "tanh gelu": [nn.gelu, lambda z: 0.5 * z * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))],
    "softplus": [nn.softplus, lambda z: jnp.logaddexp(z, 0), lambda z: jnp.log1p(jnp.exp(z))],
    "elu": [nn.elu, lambda z: jnp.where(z > 0, z, jnp.expm1(jnp.where(z > 0, 0, z)))],
    "tanh": [jnp.tanh, lambda z: nn.tanh(z), jax.jit(lambda z: lax.tanh(z))],
    "sigmoid": [nn.sigmoid, lambda z: 1 / (1 + jnp.exp(-z)), lax.logistic],
    "hard tanh": [nn.hard_tanh, lambda z: jnp.clip(z, -1, 1), lambda z: jnp.maximum(jnp.minimum(z, 1), -1)],
    "mish": [nn.mish, lambda z: z * jnp.tanh(nn.softplus(z))],
    "hard swish": [nn.hard_swish, lambda z: z * nn.relu6(z + 3) / 6, lambda z: z * jnp.clip(z + 3, 0, 6) * (1 / 6)],
    "own": [lambda z: z * jnp.exp(-z * z), jax.jit(lambda z: jnp.exp(-(z**2)) * z)],
}


def then(linear, acts):
    """Every way to write the layer, the ways to write its activation going round."""
    return [lambda x, a=a, act=act: act(a(x)) for a, act in zip(linear, itertools.cycle(acts), strict=False)]


# --- layers of vectors and of tokens

def dense(rng, shape, out=None):
    n, m = shape[0], out or 6
    w, b, s = draw(rng, n, m), rng.normal(size=m) / 3, rng.uniform(0.5, 2, size=m)
    k = b.reshape(1, m)
    return [
        lambda x: x @ w + b, lambda x: w.T @ x + b, lambda x: jax.vmap(lambda r, c: r @ x + c)(w.T, b),
        lambda x: jnp.einsum("i,io->o", x, w) + b, lambda x: (x[None] @ w)[0] - -b, lambda x: (x[None] @ w + k)[0],
        lambda x: jax.jit(jnp.dot)(x, w) + b, lambda x: jax.checkpoint(lambda v: b + v @ w)(x),
        lambda x: (x @ (w / s)) * s + b, lambda x: (x @ w - (1 - b)) / s * s + 1.0,
        lambda x: checkpoint_name(jnp.dot(x, w).astype(jnp.float64), "h") + b,
    ], (m,)


def layer(rng, shape):
    ways, out = dense(rng, shape)
    return then(ways, activation(rng)), out


def tokens(rng, shape):
    (t, n), m = shape, 5
    w, b, s = draw(rng, n, m), rng.normal(size=m) / 3, rng.uniform(0.5, 2, size=m)
    ways = [
        lambda x: x @ w + b, jax.vmap(lambda r: w.T @ r + b), lambda x: jax.vmap(lambda r: w.T @ r)(x) + b,
        lambda x: (w.T @ x.T + b[:, None]).T, lambda x: jnp.einsum("ti,io->ot", x, w).T + b,
        lambda x: (x @ w).reshape(t, 1, m)[:, 0] + b, lambda x: (x[None] @ w + b)[0], lambda x: (x @ (w / s)) * s + b,
        lambda x: (x @ w - (1 - b)) * (1 / s) * s + 1.0, jax.jit(lambda x: jax.jit(jnp.dot)(x, w) + b),
        lambda x: lax.map(lambda r: r @ w + b, x)]
    return then(ways, activation(rng)), (t, m)


def repeated(rng, shape):
    """The same layer several times: a scan over stacked weights, or a loop of Python."""
    n, acts = shape[-1], activation(rng)
    w, b = np.stack([draw(rng, n, n) for _ in range(3)]), rng.normal(size=(3, n)) / 3

    def scanned(x):
        return lax.scan(lambda h, p: (acts[0](h @ p[0] + p[1]), None), x, (w, b))[0]

    def looped(x):
        for k in range(3):
            x = acts[-1](x @ w[k] + b[k])
        return x

    return [scanned, looped, rewrite.unroll(scanned)], shape


def residual(rng, shape):
    n, acts = shape[-1], activation(rng)
    v, u = draw(rng, n, n), draw(rng, n, n) / 2
    ways = [lambda x: x + acts[0](x @ v) @ u, lambda x: acts[-1](x @ v) @ u + x,
            jax.jit(lambda x: jnp.add(x, jnp.einsum("...i,io->...o", acts[0](x @ v), u)))]
    return ways, shape


def gated(rng, shape):
    n = shape[-1]
    v, u = draw(rng, n, n), draw(rng, n, n)
    ways = [lambda x: (x @ v) * nn.sigmoid(x @ u), lambda x: lax.logistic(x @ u) * (x @ v),
            lambda x: nn.glu(jnp.concatenate([x @ v, x @ u], -1)),
            lambda x: (x @ v) * (1 / (1 + jnp.exp(-(x @ u))))]
    return ways, shape


def normalised(rng, shape):
    g, b, n = rng.uniform(0.5, 2, size=shape[-1]), rng.normal(size=shape[-1]) / 3, shape[-1]
    mean, eps = partial(jnp.mean, axis=-1, keepdims=True), 0.1

    def first(x):
        return (x - mean(x)) / jnp.sqrt(x.var(-1, keepdims=True) + eps) * g + b

    def second(x):
        x = x - x.sum(-1, keepdims=True) / n
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * g + b

    def third(x):
        m = mean(x)
        return (x - m) * (lax.rsqrt(mean(x * x) - m**2 + eps) * g) + b

    return [first, second, third], shape


# --- layers of images

def convolve(x, w, names=("NHWC", "HWIO", "NHWC")):
    return lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=names)[0]


def conv(rng, shape):
    c, o = shape[-1], 3
    w, s, mean, shift = draw(rng, 3, 3, c, o), rng.uniform(0.5, 2, o), rng.normal(size=o) / 3, rng.normal(size=o) / 3
    var, b = (1 / s) ** 2, shift - mean * s  # of the batch normalisation of the convolution, fused or not
    first = lambda x: jnp.moveaxis(x, -1, 0)
    last = lambda x: jnp.moveaxis(x, 0, -1)
    chw = lambda x: convolve(first(x), w, ("NCHW", "HWIO", "NCHW"))
    column = lambda v: v[:, None, None]
    ways = [
        lambda x: convolve(x, w * s) + b, lambda x: (convolve(x, w) - mean) / jnp.sqrt(var) * 1.0 + shift,
        lambda x: (convolve(x, w) - mean) * lax.rsqrt(jnp.asarray(var)) + shift, lambda x: convolve(x, w) * s + b,
        lambda x: last(chw(x) * column(s) + column(b)), lambda x: last((chw(x) - column(mean)) * column(s)) + shift,
        lambda x: jnp.transpose(convolve(x, w * s), (2, 0, 1)).transpose(1, 2, 0) + b,
        jax.jit(lambda x: jax.vmap(lambda x: convolve(x, w * s) + b)(x[None])[0]),
        lambda x: convolve(jnp.swapaxes(x, 0, 1), jnp.swapaxes(w, 0, 1) * s).swapaxes(0, 1) + b,
    ]
    return then(ways, activation(rng)), (*shape[:2], o)


def pooled(rng, shape):
    if shape[0] < 4 or shape[0] % 2:
        return [lambda x: x], shape
    h, w, c = shape
    halves = lambda x: x.reshape(h // 2, 2, w // 2, 2, c)
    window = lambda x, start, by: lax.reduce_window(x, start, by, (2, 2, 1), (2, 2, 1), "VALID")
    average = [lambda x: window(x, 0.0, lax.add) / 4, lambda x: halves(x).mean((1, 3)),
               lambda x: halves(x).sum((1, 3)) * 0.25, lambda x: window(0.25 * x, 0.0, lax.add)]
    largest = [lambda x: window(x, -jnp.inf, lax.max), jax.jit(lambda x: window(x, -jnp.inf, lax.max))]
    return (average, largest)[rng.integers(2)], (h // 2, w // 2, c)


def image_residual(rng, shape):
    c, acts = shape[-1], activation(rng)
    v, u = draw(rng, 3, 3, c, c), draw(rng, 3, 3, c, c) / 2
    ways = [lambda x: x + convolve(acts[0](convolve(x, v)), u), lambda x: convolve(acts[-1](convolve(x, v)), u) + x]
    return ways, shape


def excited(rng, shape):
    v = draw(rng, shape[-1], shape[-1])
    ways = [lambda x: x * nn.sigmoid(x.mean((0, 1)) @ v), lambda x: lax.logistic(v.T @ x.mean((0, 1)))[None, None] * x,
            lambda x: x * nn.sigmoid(x.mean((0, 1), keepdims=True) @ v)]
    return ways, shape


PARTS = {
    "vector": {"layer": layer, "layer 2": layer, "repeated": repeated, "residual": residual, "gate": gated,
               "norm": normalised},
    "tokens": {"layer": tokens, "layer 2": tokens, "repeated": repeated, "residual": residual, "gate": gated,
               "norm": normalised},
    "image": {"conv": conv, "conv 2": conv, "pool": pooled, "residual": image_residual, "excitation": excited},
}


def _named(x):
    return checkpoint_name(x, TOP)


TOPS = {"vector": [(lambda x: x, None)], "tokens": [(_named, -1), (lambda x: _named(x.T).T, 0)],
        "image": [(_named, -1), (lambda x: jnp.moveaxis(_named(jnp.moveaxis(x, -1, 0)), 0, -1), 0),
                  (lambda x: _named(x[None])[0], -1)]}
HEADS = {
    "vector": lambda rng, s: ([lambda x: x], s),
    "tokens": lambda rng, s: ([lambda x: x.mean(0), lambda x: x.sum(0) / s[0], lambda x: (x / s[0]).sum(0),
                               lambda x: x.T.mean(1)], s[-1:]),
    "image": lambda rng, s: ([lambda x: x.mean((0, 1)), lambda x: x.reshape(-1, s[-1]).mean(0),
                              lambda x: x.sum((0, 1), keepdims=True)[0, 0] * (1 / (s[0] * s[1]))], s[-1:]),
}


# --- what is compared

zero = explain.epsilon(0.0)
GRADIENTS = {
    "gradient": explain.gradient(), "gradient_x_input": explain.gradient_x_input(),
    "integrated_gradients": explain.integrated_gradients(steps=3),
    "smoothgrad": explain.smoothgrad(explain.gradient(), sigma=0.1, samples=2),
    "uniform_gradient": explain.uniform_gradient(explain.gradient(), radius=0.1, samples=2),
}
RULES = {
    "guided_backprop": explain.guided_backprop(), "deconvnet": explain.deconvnet(), "lrp": explain.lrp(),
    "lrp_0": explain.lrp(conv=zero, dense=zero, sums=zero), "lrp_gamma": explain.lrp(dense=explain.gamma()),
    "lrp_alpha_beta": explain.lrp(conv=explain.alpha_beta(), dense=explain.alpha_beta()),
    "lrp_z_box": explain.lrp(first=explain.z_box(-3.0, 3.0)),
    "lrp_dombrowski2019": explain.lrp_dombrowski2019(-3.0, 3.0),
    "lrp_flat": explain.lrp(first=explain.flat()), "lrp_w_square": explain.lrp(first=explain.w_square()),
}
CAMS = {"grad_cam": explain.grad_cam, "grad_cam_pp": explain.grad_cam_pp, "cam": explain.cam}
KEY = jax.random.key(0)


def maps(pair: Twins, patterns: bool = True) -> dict[str, list]:
    """{explanation: [the map of the first, of the second]}; where one is refused, the words of the refusal.

    patterns: pattern attribution as well, which is dear, its patterns being estimated from each twin.
    """
    models = [_maps(f, pair.x, channels, patterns) for f, channels in zip(pair.models, pair.channels, strict=True)]
    return {name: [found[name] for found in models] for name in models[0]}


def _maps(f, x, channels, patterns):
    surrogate = lambda f: smooth.softplus(f, 4.0, max_pool=True)
    found = {f"softplus, {name}": explained(e, f, x, surrogate) for name, e in (
        ("gradient", GRADIENTS["gradient"]), ("lrp", RULES["lrp"]))}
    found |= jax.jit(lambda x: {name: e(f, x, 1, key=KEY) for name, e in GRADIENTS.items()})(x)
    found |= {name: explained(e, f, x) for name, e in RULES.items()}
    if channels is not None:
        found |= {name: explained(cam(TOP, channels=channels), f, x) for name, cam in CAMS.items()}
    if patterns:
        data = x + np.random.default_rng(0).normal(size=(12, *x.shape)) / 2
        fitted = lambda f, x, target, *, key: explain.pattern_attribution(explain.fit_patterns(f, [data]))(f, x, target)
        found["pattern_attribution"] = explained(fitted, f, x, unrolls=False)
    return found


def explained(e, f, x, surrogate=lambda f: f, unrolls=True):
    """The map, of the model with its loops unrolled where that is asked for; or the words of the refusal."""
    for model in (f, rewrite.unroll(f)) if unrolls else (f,):
        try:
            return np.asarray(e(surrogate(model), x, 1, key=KEY))
        except ValueError as error:
            words = str(error)
            if "unroll" not in words:
                break
    return words


def difference(a, b) -> float:
    """The largest, relative to the largest value; 0 for two refusals, infinite for one."""
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if isinstance(a, str) and isinstance(b, str) else np.inf
    size = np.abs(b).max()
    return float(np.abs(a - b).max() / size) if size else float(np.abs(a).max())
