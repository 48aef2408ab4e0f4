"""What a driver is given, checked before any computation: each error names the value and what was expected."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .. import explain

__all__ = ["checked_goal", "checked_labels", "checked_pixels", "predictions", "shapes"]


def checked_pixels(pixels):
    """Float[b, h, w, c] in [0, 1]."""
    host = np.asarray(pixels)
    if host.ndim != 4 or not len(host):
        raise ValueError(f"pixels are Float[b, h, w, c] with b >= 1, got shape {host.shape}")
    if not np.isfinite(host).all():
        raise ValueError("pixels contain NaN or infinite values")
    if host.min() < 0 or host.max() > 1:
        raise ValueError(f"pixels lie in [0, 1], got [{host.min():g}, {host.max():g}]")
    return jnp.asarray(pixels)


def shapes(model, explanation, preprocess, pixels):
    """(number of classes, shape of the heat map), by abstract evaluation: nothing is computed."""
    key = jax.random.key(0)
    one = lambda p: explain.with_logits(explanation)(model, preprocess(p), 0, key=key)
    map, logits = jax.eval_shape(one, pixels[0])
    return logits.shape[0], map.shape[:2]


def checked_goal(goal, batch, map_shape):
    """Heat maps that sum to 1, or None."""
    if goal is None:
        return None
    host = np.asarray(goal)
    if host.shape != (batch, *map_shape):
        raise ValueError(f"the target maps have shape {host.shape}, expected {(batch, *map_shape)}")
    sums = host.reshape(batch, -1).sum(1)
    if not np.isfinite(host).all() or host.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
        raise ValueError("a target map is non-negative, finite and sums to 1, "
                         f"got sums {sums} and minimum {host.min():g}")
    return jnp.asarray(goal)


def checked_labels(labels, batch, classes):
    """Int[b], each a class."""
    host = np.asarray(labels)
    if host.shape != (batch,) or not np.issubdtype(host.dtype, np.integer):
        raise ValueError(f"labels are Int[{batch}], got {host.dtype}{list(host.shape)}")
    if host.min() < 0 or host.max() >= classes:
        raise ValueError(f"a class lies in 0..{classes - 1}, got {host.min()} to {host.max()}")
    return jnp.asarray(labels)


@partial(jax.jit, static_argnames="preprocess")
def predictions(model, preprocess, pixels):
    """Int[b], the classes of the images."""
    return jax.vmap(lambda p: model(preprocess(p)).argmax())(pixels)
