"""ResNets for ImageNet (He et al. 2016), in the layout of torchvision's resnet18 and resnet50."""

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool, max_pool
from .blocks import Act, conv, norm

__all__ = ["ResNet"]


class ResNet(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    depth 18 has basic blocks, depth 50 bottlenecks that subsample in their 3x3 convolution, as torchvision's do and
    the paper's do not. Layers named for taps: stage1 ... stage4 and features (another name for the end of stage4).

    Raises ValueError for another depth.
    """

    def __init__(self, *, depth: int = 50, num_classes: int = 1000, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        if depth not in _DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _DEPTHS))}, got {depth}")
        block, counts = _DEPTHS[depth]
        wide = block.expansion  # type: ignore[attr-defined]
        self.act = act
        self.conv1, self.bn1 = conv(3, 64, 7, 2, rngs), norm(64, rngs)
        self.layer1 = _stage(block, counts[0], 64, 64, 1, act, rngs)
        self.layer2 = _stage(block, counts[1], 64 * wide, 128, 2, act, rngs)
        self.layer3 = _stage(block, counts[2], 128 * wide, 256, 2, act, rngs)
        self.layer4 = _stage(block, counts[3], 256 * wide, 512, 2, act, rngs)
        self.fc = nnx.Linear(512 * wide, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = max_pool(self.act(self.bn1(self.conv1(x))), 3, 2, padding=1)
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            for block in stage:
                x = block(x)
            x = checkpoint_name(x, f"stage{number}")
        return self.fc(global_avg_pool(checkpoint_name(x, "features")))


class BasicBlock(nnx.Module):
    """act(x' + F(x)) with two 3x3 convolutions in F: [..., h, w, channels] -> [..., h', w', width]."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act = act
        self.conv1, self.bn1 = conv(channels, width, 3, stride, rngs), norm(width, rngs)
        self.conv2, self.bn2 = conv(width, width, 3, 1, rngs), norm(width, rngs)
        self.downsample = _downsample(channels, width, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act(y + _in_turn(self.downsample, x))


class Bottleneck(nnx.Module):
    """act(x' + F(x)) with F narrowing, filtering and widening: [..., h, w, channels] -> [..., h', w', 4 width]."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act, out = act, self.expansion * width
        self.conv1, self.bn1 = conv(channels, width, 1, 1, rngs), norm(width, rngs)
        self.conv2, self.bn2 = conv(width, width, 3, stride, rngs), norm(width, rngs)
        self.conv3, self.bn3 = conv(width, out, 1, 1, rngs), norm(out, rngs)
        self.downsample = _downsample(channels, out, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.act(y + _in_turn(self.downsample, x))


# depth: (block, how many in each stage)
_DEPTHS = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}


def _stage(block, count, channels, width, stride, act, rngs):
    first = block(channels, width, stride, act=act, rngs=rngs)
    rest = [block(block.expansion * width, width, 1, act=act, rngs=rngs) for _ in range(count - 1)]
    return nnx.List([first, *rest])


def _downsample(channels, out, stride, rngs):
    """The layers from x to x', the shortcut: none where the shapes agree."""
    agree = stride == 1 and channels == out
    return nnx.List([] if agree else [conv(channels, out, 1, stride, rngs), norm(out, rngs)])


def _in_turn(layers, x):
    for layer in layers:
        x = layer(x)
    return x
