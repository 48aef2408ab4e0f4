"""ATEX: training on explanations without second derivatives (Tang et al. 2022)."""

from functools import partial

import jax
import jax.numpy as jnp

from .. import explain
from ..arguments import check_positive
from ..metrics import kl_divergence
from ..train.loss import of_x, penalty
from ..types import Model, Penalty

__all__ = ["atex"]


def atex(teacher: Model, *, radius: float, shifts: int = 2, neighbours: int = 8, samples: int = 10,
         temperature: float = 4.0) -> Penalty:
    """Along its own explanation the network follows a teacher, across it the prediction stays. Needs a key.

    s = SmoothGrad of the logit of y with noise N(0, radius^2), no derivative flowing through it; d = s scaled to a
    largest entry of 4 radius. For each of `shifts` points x_t = x + (t - shifts / 2) / (shifts - 1) d, the mean over
    `neighbours` of KL(softmax(teacher(x_t) / temperature) || softmax(f(x_t + u))), u uniform within 4 radius of 0 in
    each coordinate and projected to be orthogonal to s. The value is the mean over the points. Train with
    label_weight=0.

    Where this differs from the released code: one direction of projection for the image, not one for each channel, and
    none where s vanishes, in place of a division by zero; all points of an image in one step, not one step each; the
    mean over classes is a sum, the usual divergence. The smooth gradient is not clipped.

    Args:
      teacher: the trained network, fixed;  radius: in the unit of x (the paper: 0.08 on MNIST, 2 shifts; 0.02 on
        Fashion-MNIST, 11 shifts);  shifts: at least 2;  neighbours, samples: of SmoothGrad, at least 1.

    Raises ValueError for counts and radii out of range.

    >>> linear = lambda params, state, x: params * x
    >>> p = atex(lambda x: 4 * x, radius=0.1, temperature=4.0)
    >>> agreeing, other = (p(linear, w, None, jnp.ones(2), 0, jax.random.key(0)) for w in (1.0, -1.0))
    >>> bool(0 <= agreeing < other)
    True
    """
    check_positive(radius=radius)
    if shifts < 2 or min(neighbours, samples) < 1:
        raise ValueError(f"shifts are at least 2, neighbours and samples 1, got {shifts}, {neighbours}, {samples}")
    smooth = explain.smoothgrad(explain.gradient(), sigma=radius, samples=samples)
    reach = 4 * radius

    def core(f, x, y, key):
        of_noise, of_neighbours = jax.random.split(key)
        s, logits = jax.lax.stop_gradient(explain.with_logits(smooth)(f, x, y, key=of_noise))
        largest = jnp.abs(s).max()
        d = reach * s / jnp.where(largest > 0, largest, 1)
        unit = s / jnp.where(largest > 0, jnp.linalg.norm(s.ravel()), 1)

        def apart(offset, keys):
            at = x + offset * d
            target = jax.lax.stop_gradient(teacher(at)) / temperature

            def one(k):
                u = jax.random.uniform(k, x.shape, x.dtype, -reach, reach)
                return kl_divergence(target, f(at + u - jnp.sum(u * unit) * unit))

            return jax.vmap(one)(keys).mean()

        offsets = (jnp.arange(shifts, dtype=x.dtype) - shifts / 2) / (shifts - 1)
        keys = jax.vmap(partial(jax.random.split, num=neighbours))(jax.random.split(of_neighbours, shifts))
        return jax.vmap(apart)(offsets, keys).mean(), logits

    return penalty(core, unit=of_x)
