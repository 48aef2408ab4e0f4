"""Random networks in random spellings: blocks (rng, shape) -> (shapes of weights, apply(weights, h), shape of result).

Vectors and images of a few numbers, so that thousands of networks can be compiled. Names lie, shapes broadcast, rules
are the user's own; some spellings are refused.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xmanip_jax import models, smooth

nn = jax.nn


class Spelling(NamedTuple):
    """What it is made of; the shape of its input; of its weights; apply(weights, x) -> logits Float[3]."""

    name: str
    shape: tuple[int, ...]
    weights: list[tuple[int, ...]]
    apply: Callable


def spelling(seed: int) -> Spelling:
    """The same for the same seed."""
    rng = np.random.default_rng(seed)
    shape = (4, 4, 2) if rng.random() < 0.45 else (6,)
    names, blocks, weights, now = [], [], [], shape
    add = lambda block: (names.append(block[0]), blocks.append((len(weights), block[2])), weights.extend(block[1]))
    for _ in range(rng.integers(1, 4)):
        kinds = IMAGE_BLOCKS if len(now) == 3 else VECTOR_BLOCKS
        name = rng.choice([*kinds])
        parts, apply, now = kinds[name](rng, now)
        add((name, parts, apply))
    if len(now) == 3:
        name = rng.choice([*HEADS])
        apply, now = HEADS[name](now)
        add((name, [], apply))
    parts, apply, _ = dense(rng, now, 3)
    add(("dense", parts, apply))

    def whole(w, x):
        for start, block in blocks:
            x = block(w[start:], x)
        return x

    return Spelling(" | ".join(f"{n}" for n in names), shape, weights, whole)


def draw(made: Spelling, key, count: int, dtype) -> list:
    """Gaussian weights of `count` networks, of variance 2 / fan-in."""
    keys = jax.random.split(key, len(made.weights) + 1)
    scale = lambda s: 0.3 if len(s) == 1 else (2 / np.prod(s[:-1] if len(s) == 4 else s[1:])) ** 0.5
    draws = zip(keys, made.weights, strict=False)
    return [jax.random.normal(k, (count, *s), dtype) * float(scale(s)) for k, s in draws]


# Activations, by what they are and how they are written.

def named(name, body):
    """A jitted function by another's name."""
    body.__name__ = body.__qualname__ = name
    return jax.jit(body)


def ruled(body, rule):
    """With a derivative rule of the user's, rule(z, g)."""
    function = jax.custom_vjp(body)
    function.defvjp(lambda z: (body(z), z), lambda z, g: (rule(z, g),))
    return function


def sloped(body, slope, name="relu"):
    """With a custom_jvp of the user's."""
    body.__name__ = body.__qualname__ = name
    function = jax.custom_jvp(body)
    function.defjvp(lambda z, t: (function(*z), slope(*z) * t[0]))
    return function


LIES = "tanh", "sigmoid", "softplus", "relu6", "relu", "softplus_beta", "gelu", "max_pool"


def activations(rng) -> dict:
    """Of every kind, with random parameters."""
    a, b = float(np.round(rng.uniform(0.05, 2), 2)), float(np.round(rng.uniform(0.5, 6), 2))
    lie = LIES[rng.integers(len(LIES))]
    known = {
        "relu": nn.relu, "relu6": nn.relu6, "tanh": jnp.tanh, "sigmoid": nn.sigmoid, "softplus": nn.softplus,
        "softplus_beta": lambda z: smooth.softplus_beta(z, b), "softplus_beta6": lambda z: smooth.softplus_beta6(z, b),
        "centred_softplus": lambda z: smooth.centred_softplus(z, b), "gelu": nn.gelu, "swish": nn.swish,
        "exact gelu": lambda z: nn.gelu(z, approximate=False), "mish": nn.mish, "elu": lambda z: nn.elu(z, a),
        "selu": nn.selu, "celu": lambda z: nn.celu(z, a), "leaky": lambda z: nn.leaky_relu(z, a),
        "hard_tanh": nn.hard_tanh, "hard_sigmoid": nn.hard_sigmoid, "hard_swish": nn.hard_swish,
        "squareplus": lambda z: nn.squareplus(z, b), "soft_sign": nn.soft_sign, "sparse_plus": nn.sparse_plus,
        "log_sigmoid": nn.log_sigmoid, "maximum": lambda z: jnp.maximum(z, -a), "clip": lambda z: jnp.clip(z, -a, b),
        "inline swish": lambda z: z * nn.sigmoid(b * z), "inline gelu": jax.jit(lambda z: 0.5 * z * (1 + lax.erf(z))),
        "power": lambda z: z**3 / 4, "square": lambda z: z * z, "abs": jnp.abs, "sine": lambda z: jnp.sin(b * z),
        "exp": lambda z: jnp.exp(-a * z * z), "log": lambda z: jnp.log(1 + z * z), "sqrt": lambda z: jnp.sqrt(z**2 + a),
        "where": jax.jit(lambda z: jnp.where(z > a, z, jnp.where(z < -a, a * z, 0))),
        "mask": jax.jit(lambda z: z * (z > 0) - a * z * (z < -1)), "arctan": lambda z: jnp.arctan(b * z),
        "steeper": named(lie, lambda z: jnp.tanh(b * z)), "falls": named(lie, lambda z: nn.sigmoid(-b * z)),
        "bent": named(lie, lambda z: jnp.maximum(z, a * z - 1)), "wave": named(lie, lambda z: z + jnp.cos(b * z)),
        "reversed": ruled(jnp.tanh, lambda z, g: -g), "scaled": ruled(nn.softplus, lambda z, g: a * g * (z > 0)),
        "leaky rule": ruled(lambda z: jnp.maximum(z, 0), lambda z, g: jnp.where(z > 0, g, a * g)),
        "steep rule": sloped(jnp.tanh, lambda z: b * nn.sigmoid(z), lie),
        "straight": jax.jit(lambda z: sloped(jnp.sign, lambda z: 1.0 * (jnp.abs(z) < a), lie)(jnp.tanh(z))),
    }
    rare = {"clipped rule": ruled(jnp.tanh, lambda z, g: jnp.clip(g, -a, a)), "lgamma": lambda z: lax.lgamma(2 + z * z)}
    return known | (rare if rng.random() < 0.3 else {})


def some(rng):
    """(name, activation)."""
    known = activations(rng)
    name = rng.choice([*known])
    return name, known[name]


# Blocks of vectors.

def dense(rng, shape, out=None):
    n, m = shape[0], out or int(rng.integers(3, 7))
    how = rng.integers(4)
    if how == 0:
        return [(m, n), (m,)], lambda w, x: w[0] @ x + w[1], (m,)
    if how == 1:
        return [(m, n), (m,)], lambda w, x: (x[None] @ w[0].T)[0] + w[1], (m,)
    if how == 2:
        return [(m, n), (m,)], lambda w, x: jax.vmap(lambda row, b: row @ x + b)(w[0], w[1]), (m,)
    return [(m, n), (m,), (m,)], lambda w, x: w[2] * jnp.einsum("ij,j->i", w[0], x) + w[1], (m,)


def layer(rng, shape):
    """A dense layer and an activation."""
    parts, linear, out = dense(rng, shape)
    act = some(rng)[1]
    return parts, lambda w, x: act(linear(w, x)), out


def residual(rng, shape):
    act, a = some(rng)[1], float(rng.uniform(-1, 1))
    n, = shape
    return [(n, n), (n, n)], lambda w, x: a * x + w[1] @ act(w[0] @ x), shape


def gated(rng, shape):
    act, n = some(rng)[1], shape[0]
    return [(n, n), (n, n)], lambda w, x: (w[0] @ x) * act(w[1] @ x), shape


def glu(rng, shape):
    return [(8, shape[0])], lambda w, x: nn.glu(w[0] @ x), (4,)


def highway(rng, shape):
    act, n = some(rng)[1], shape[0]

    def apply(w, x):
        gate = nn.sigmoid(w[0] @ x)
        return gate * act(w[1] @ x) + (1 - gate) * x

    return [(n, n), (n, n)], apply, shape


def normalised(rng, shape):
    """Layer, root-mean-square and unit-length normalisation, fast variance or slow, in several spellings."""
    how, eps = rng.integers(4), float(rng.uniform(0.01, 0.5))

    def apply(w, x):
        if how == 0:
            x = x - x.mean(keepdims=True)
            x = x * lax.rsqrt(jnp.square(x).mean(keepdims=True) + eps)
        elif how == 1:
            x = (x - x.mean()) / jnp.sqrt(x.var() + eps)
        elif how == 2:
            x = x / jnp.sqrt((x * x).sum() + eps)
        else:
            mean = x.mean()
            x = (x - mean) * lax.rsqrt(jnp.maximum((x**2).mean() - mean**2, 0) + eps)
        return x * w[0] + w[1]

    return [shape, shape], apply, shape


def broadcast(rng, shape):
    a, how = float(rng.uniform(-1, 1)), rng.integers(4)

    def apply(w, x):
        table = x.reshape(-1, 1) if how % 2 else x.reshape(1, -1)
        mean = x.reshape(-1, 1).mean(0, keepdims=True)
        found = (table + mean, table * w[0].reshape(table.shape) - mean, mean - a * table, mean / (2 + w[0] ** 2))[how]
        return jnp.resize(found.ravel(), shape) if found.size != x.size else found.reshape(shape)

    return [shape], apply, shape


def maxima(rng, shape):
    n, how = shape[0], rng.integers(4)

    def apply(w, x):
        a, b = w[0] @ x, w[1] @ x
        if how == 0:
            return jnp.maximum(a, b)
        if how == 1:
            return jnp.minimum(jnp.maximum(a, b).max(), a)
        if how == 2:
            return jnp.maximum(a, b.max(keepdims=True))
        return jnp.stack([a.max(), b.min(), jnp.max(jnp.maximum(a, b))])

    return [(n, n), (n, n)], apply, (3,) if how == 3 else shape


def routed(rng, shape):
    """Slices, empty ones among them, concatenations, flips, casts, names and remats around an activation."""
    act, k = some(rng)[1], int(rng.integers(0, 3))

    def apply(w, x):
        x = jnp.concatenate([x[:k], act(jnp.flip(x)), -2 * x[k:]])
        return jax.checkpoint(lambda v: jnp.stack([v, v])[1][::-1])(x)

    return [], apply, (2 * shape[0],)


def quotient(rng, shape):
    n = shape[0]
    return [(n, n), (n, n)], lambda w, x: (w[0] @ x) / (1 + jnp.exp(w[1] @ x)), shape


def refused(rng, shape):
    """What has no bound, seldom."""
    if rng.random() < 0.7:
        return [], lambda w, x: x[::-1], shape
    choices = lambda w, x: nn.softmax(x), lambda w, x: jnp.cumprod(x), lambda w, x: jnp.sort(x)
    return [], choices[rng.integers(3)], shape


def alone(rng, shape):
    act = some(rng)[1]
    return [], lambda w, x: act(x), shape


VECTOR_BLOCKS = {"layer": layer, "refused": refused, "layer 2": layer, "layer 3": layer, "residual": residual,
                 "gate": gated, "glu": glu,
                 "highway": highway, "norm": normalised, "broadcast": broadcast, "maxima": maxima, "routes": routed,
                 "quotient": quotient, "alone": alone, "layer 4": layer, "residual 2": residual}


# Blocks of images.

def conv(x, w, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x[None], w, (stride, stride), padding,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def convolved(rng, shape):
    act, c, how = some(rng)[1], int(rng.integers(2, 4)), rng.integers(3)

    def apply(w, x):
        z = conv(x, w[0])
        if how == 0:
            return act(z + w[1])
        if how == 1:
            return act((z - w[1]) * (1 + 0.3 * w[2]) / 1.5)
        return act(jnp.moveaxis(jnp.moveaxis(z, -1, 0) + w[1][:, None, None], 0, -1))

    return [(3, 3, shape[-1], c), (c,), (c,)], apply, (*shape[:2], c)


def image_residual(rng, shape):
    act, c = some(rng)[1], shape[-1]
    return [(3, 3, c, c), (3, 3, c, c)], lambda w, x: x + conv(act(conv(x, w[0])), w[1]), shape


def pooled(rng, shape):
    how = rng.integers(4)
    if shape[0] < 4:
        return [], lambda w, x: x, shape

    def apply(w, x):
        if how == 0:
            return models.max_pool(x, 2, 2)
        if how == 1:
            return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
        if how == 2:
            return lax.reduce_window(x, 0.0, lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4
        return models.max_pool(x, 3, 2, True)[:2, :2]

    return [], apply, (2, 2, shape[-1])


def excited(rng, shape):
    """Squeeze and excitation."""
    act, c = some(rng)[1], shape[-1]
    return [(c, c)], lambda w, x: x * nn.sigmoid(act(x.mean((0, 1)) @ w[0])), shape


def image_norm(rng, shape):
    axes, eps = ((0, 1), (-1,), (0, 1, 2))[rng.integers(3)], float(rng.uniform(0.01, 0.5))

    def apply(w, x):
        x = x - x.mean(axes, keepdims=True)
        return w[0] * x / jnp.sqrt(jnp.mean(x**2, axes, keepdims=True) + eps)

    return [(shape[-1],)], apply, shape


def image_broadcast(rng, shape):
    axes, a = ((0, 1), (0,), (-1,), (0, 1, 2))[rng.integers(4)], float(rng.uniform(-1, 1))
    how = rng.integers(3)

    def apply(w, x):
        m = x.mean(axes, keepdims=True)
        return (a * x + m, m * w[0] - x, x - m + jnp.zeros(shape))[how].astype(x.dtype)

    return [(shape[-1],)], apply, shape


def image_alone(rng, shape):
    act = some(rng)[1]
    return [], lambda w, x: act(x), shape


IMAGE_BLOCKS = {"conv": convolved, "conv 2": convolved, "conv 3": convolved, "image residual": image_residual,
                "pool": pooled, "excitation": excited, "image norm": image_norm, "image broadcast": image_broadcast,
                "image alone": image_alone}
HEADS = {"mean": lambda s: (lambda w, x: x.mean((0, 1)), s[-1:]), "max": lambda s: (lambda w, x: x.max((0, 1)), s[-1:]),
         "flat": lambda s: (lambda w, x: x.ravel(), (int(np.prod(s)),))}
