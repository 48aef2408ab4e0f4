"""The layers that networks of torch's share, with its padding, its momentum, and variances that do not cancel."""

from collections.abc import Callable

from flax import nnx

from ..types import Array

__all__ = ["Act", "conv", "layer_norm", "norm", "tokens"]

Act = Callable[[Array], Array]


def conv(channels: int, out: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A size x size convolution without bias, padded by size // 2 on each side."""
    return nnx.Conv(channels, out, (size, size), stride, padding=size // 2, use_bias=False, rngs=rngs)


def norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm that keeps nine tenths of its running statistics at a training step: torch's momentum of 0.1."""
    return nnx.BatchNorm(channels, use_running_average=True, momentum=0.9, rngs=rngs)


def layer_norm(channels: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis; its variance, the mean of (x - mean)^2, stays exact where the mean is large."""
    return nnx.LayerNorm(channels, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def tokens(x: Array) -> Array:
    """[..., h, w, c] -> [..., h w, c], row by row."""
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])
