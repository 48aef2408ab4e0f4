"""ResNets for 32x32 images (He et al. 2016, section 4.2), in the layout of akamaster/pytorch_resnet_cifar10."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .blocks import Act, conv, norm

__all__ = ["CifarResNet"]


class CifarResNet(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    depth = 6 n + 2: three stages of n blocks with 16, 32 and 64 channels. Layers named for taps: stage1, stage2,
    last_block (the input of the last block) and features (the end of the third stage).

    Raises ValueError for another depth.
    """

    def __init__(self, *, depth: int = 20, num_classes: int = 10, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1, got {depth}")
        self.act = act
        self.conv1, self.bn1 = conv(3, 16, 3, 1, rngs), norm(16, rngs)
        self.layer1 = _stage(blocks, 16, 16, 1, act, rngs)
        self.layer2 = _stage(blocks, 16, 32, 2, act, rngs)
        self.layer3 = _stage(blocks, 32, 64, 2, act, rngs)
        self.linear = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.act(self.bn1(self.conv1(x)))
        for name, stage in zip(("stage1", "stage2", "features"), (self.layer1, self.layer2, self.layer3), strict=True):
            for block in stage:
                x = block(checkpoint_name(x, "last_block") if block is self.layer3[-1] else x)
            x = checkpoint_name(x, name)
        return self.linear(global_avg_pool(x))


class BasicBlock(nnx.Module):
    """act(x' + F(x)), where x' is x subsampled and padded with zero channels on both sides (option A)."""

    def __init__(self, channels: int, out: int, stride: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act, self.stride, self.extra = act, stride, out - channels
        self.conv1, self.bn1 = conv(channels, out, 3, stride, rngs), norm(out, rngs)
        self.conv2, self.bn2 = conv(out, out, 3, 1, rngs), norm(out, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(y + self._shortcut(x))

    def _shortcut(self, x):
        if not self.extra:
            return x
        x = x[..., :: self.stride, :: self.stride, :]
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(self.extra // 2, self.extra // 2)])


def _stage(blocks, channels, out, stride, act, rngs):
    first = BasicBlock(channels, out, stride, act=act, rngs=rngs)
    return nnx.List([first] + [BasicBlock(out, out, 1, act=act, rngs=rngs) for _ in range(blocks - 1)])
