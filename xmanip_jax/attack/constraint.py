"""Where an attack may go: projections `(pixels, clean) -> pixels`, all inside the pixel box [0, 1].

Budgets are in [0, 1] pixels. The clean image must lie in the box, so every set is non-empty. Inputs have any number of
axes. What has other units, a row of a table for example, is scaled to [0, 1] by the caller and back by the attack's
`preprocess`: `lambda pixels: low + (high - low) * pixels`.
"""

import jax
import jax.numpy as jnp

from ..arguments import check_positive
from ..metrics.places import along_channels, over_channels
from ..types import Channels, Constraint

__all__ = ["box", "l0", "l2", "linf"]


def box() -> Constraint:
    """Any image: pixels in [0, 1] (Dombrowski et al. 2019 set no other budget).

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import attack
    >>> attack.box()(jnp.array([-1.0, 2.0]), jnp.zeros(2))
    Array([0., 1.], dtype=float32)
    """
    return lambda pixels, clean: jnp.clip(pixels, 0, 1)


def linf(epsilon: float) -> Constraint:
    """No channel of a pixel moves by more than epsilon. Raises ValueError unless it is positive.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import attack
    >>> attack.linf(0.25)(jnp.array([1.0, -1.0]), jnp.array([0.5, 0.125]))
    Array([0.75, 0.  ], dtype=float32)
    """
    check_positive(epsilon=epsilon)
    return lambda pixels, clean: jnp.clip(jnp.clip(pixels, clean - epsilon, clean + epsilon), 0, 1)


def l2(epsilon: float) -> Constraint:
    """The image moves by at most epsilon in the Euclidean norm over all pixels and channels.

    The ball first, then the box: clipping towards a clean image inside the box shortens the move. Raises
    ValueError unless epsilon is positive.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import attack
    >>> attack.l2(0.5)(jnp.array([1.0, 0.5]), jnp.array([0.0, 0.5]))
    Array([0.5, 0.5], dtype=float32)
    """
    check_positive(epsilon=epsilon)

    def project(pixels, clean):
        move = pixels - clean
        norm = jnp.sqrt(jnp.maximum(jnp.sum(move**2), 1e-30))
        return jnp.clip(clean + move * jnp.minimum(1, epsilon / norm), 0, 1)

    return project


def l0(pixels: int, *, channels: Channels = "auto") -> Constraint:
    """At most `pixels` pixels change, in any of their channels (PGD_0 of Croce and Hein 2019).

    Exact: kept are those whose move, once clipped to the box, takes back the most squared distance. Raises
    ValueError unless `pixels` is positive.

    channels: the axis of the pixels that a pixel extends along; None: every entry is a pixel; see `explain.heatmap`.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import attack
    >>> attack.l0(1)(jnp.array([1.0, 0.75]), jnp.array([0.5, 0.5]))
    Array([1. , 0.5], dtype=float32)
    """
    check_positive(pixels=pixels)
    budget = int(pixels)

    def project(moved, clean):
        boxed = jnp.clip(moved, 0, 1)
        gain = over_channels((moved - clean) ** 2 - (moved - boxed) ** 2, channels)
        kept = jax.lax.top_k(gain.ravel(), min(budget, gain.size))[1]
        mask = jnp.zeros(gain.size, bool).at[kept].set(True).reshape(gain.shape)
        return jnp.where(along_channels(mask, moved.ndim, channels), boxed, clean)

    return project
