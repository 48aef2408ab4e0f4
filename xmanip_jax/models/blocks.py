"""The layers that torch's BatchNorm networks share, with torch's padding and momentum."""

from collections.abc import Callable

from flax import nnx

from ..types import Array

__all__ = ["Act", "conv", "norm"]

Act = Callable[[Array], Array]


def conv(channels: int, out: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A size x size convolution without bias, padded by size // 2 on each side."""
    return nnx.Conv(channels, out, (size, size), stride, padding=size // 2, use_bias=False, rngs=rngs)


def norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm that keeps nine tenths of its running statistics at a training step: torch's momentum of 0.1."""
    return nnx.BatchNorm(channels, use_running_average=True, momentum=0.9, rngs=rngs)
