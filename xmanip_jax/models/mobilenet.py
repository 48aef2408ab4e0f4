"""MobileNetV3 (Howard et al. 2019), in the layout of torchvision's MobileNetV3."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .blocks import Act

__all__ = ["Inverted", "MobileNetV3"]


class Inverted(NamedTuple):
    """A block: side of its kernel, expanded channels, output channels, whether it is gated, name in jax.nn, stride."""

    kernel: int
    wide: int
    out: int
    gated: bool
    act: str
    stride: int


_R, _H = "relu", "hard_swish"
_BLOCKS = {
    "large": ((3, 16, 16, 0, _R, 1), (3, 64, 24, 0, _R, 2), (3, 72, 24, 0, _R, 1), (5, 72, 40, 1, _R, 2),
              (5, 120, 40, 1, _R, 1), (5, 120, 40, 1, _R, 1), (3, 240, 80, 0, _H, 2), (3, 200, 80, 0, _H, 1),
              (3, 184, 80, 0, _H, 1), (3, 184, 80, 0, _H, 1), (3, 480, 112, 1, _H, 1), (3, 672, 112, 1, _H, 1),
              (5, 672, 160, 1, _H, 2), (5, 960, 160, 1, _H, 1), (5, 960, 160, 1, _H, 1)),
    "small": ((3, 16, 16, 1, _R, 2), (3, 72, 24, 0, _R, 2), (3, 88, 24, 0, _R, 1), (5, 96, 40, 1, _H, 2),
              (5, 240, 40, 1, _H, 1), (5, 240, 40, 1, _H, 1), (5, 120, 48, 1, _H, 1), (5, 144, 48, 1, _H, 1),
              (5, 288, 96, 1, _H, 2), (5, 576, 96, 1, _H, 1), (5, 576, 96, 1, _H, 1))}
_LAST = {"large": 1280, "small": 1024}


class MobileNetV3(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    Training drops out a fifth of the last hidden layer. Layers named for taps: block1, block2, ... (the output of an
    inverted residual) and features (the activations of the last convolution).

    Args:
      blocks: "large", "small", or the inverted residuals themselves;  last: width of the last hidden layer, by default
        that of the paper's;  act: in the place of relu and hard_swish; gates keep their hard sigmoid.

    Raises ValueError for another name.
    """

    def __init__(self, *, blocks: str | Sequence[Inverted] = "large", last: int | None = None,
                 num_classes: int = 1000, act: Act | None = None, rngs: nnx.Rngs) -> None:
        if isinstance(blocks, str) and blocks not in _BLOCKS:
            raise ValueError(f"blocks is one of {', '.join(_BLOCKS)}, or the inverted residuals, got {blocks!r}")
        last = last or (_LAST[blocks] if isinstance(blocks, str) else 1280)
        known: Any = _BLOCKS[blocks] if isinstance(blocks, str) else blocks
        rows = [Inverted(*row) for row in known]
        self.act = act or jax.nn.hard_swish
        layers: dict[str, nnx.Module] = {"0": _layer(3, 16, 3, 2, rngs)}
        channels = 16
        for i, row in enumerate(rows, 1):
            layers[str(i)] = InvertedResidual(channels, row, act=act, rngs=rngs)
            channels = row.out
        layers[str(len(rows) + 1)] = _layer(channels, 6 * channels, 1, 1, rngs)
        self.features = nnx.Dict(layers)
        self.dropout = nnx.Dropout(0.2, deterministic=True)
        self.classifier = nnx.Dict({"0": nnx.Linear(6 * channels, last, rngs=rngs),
                                    "3": nnx.Linear(last, num_classes, rngs=rngs)})

    def __call__(self, x: Array) -> Array:
        first, *blocks, end = self.features.values()
        x = self.act(_applied(first, x))
        for i, block in enumerate(blocks, 1):
            x = checkpoint_name(block(x), f"block{i}")
        x = checkpoint_name(self.act(_applied(end, x)), "features")
        head: Any = self.classifier
        return head["3"](self.dropout(self.act(head["0"](global_avg_pool(x)))))


class InvertedResidual(nnx.Module):
    """Widen by a 1 x 1 convolution, filter each channel, gate the channels, project back; skip where shapes agree."""

    def __init__(self, channels: int, row: Inverted, *, act: Act | None, rngs: nnx.Rngs) -> None:
        self.act = act or getattr(jax.nn, row.act)
        self.skips = row.stride == 1 and channels == row.out
        layers = [_layer(channels, row.wide, 1, 1, rngs)] if row.wide != channels else []
        layers.append(_layer(row.wide, row.wide, row.kernel, row.stride, rngs, groups=row.wide))
        if row.gated:
            layers.append(SqueezeExcitation(row.wide, act=act or jax.nn.relu, rngs=rngs))
        layers.append(_layer(row.wide, row.out, 1, 1, rngs))
        self.block = nnx.List(layers)

    def __call__(self, x: Array) -> Array:
        y, last = x, self.block[-1]
        for layer in self.block:
            gate = isinstance(layer, SqueezeExcitation)
            y = layer(y) if gate else _applied(layer, y) if layer is last else self.act(_applied(layer, y))
        return x + y if self.skips else y


class SqueezeExcitation(nnx.Module):
    """Each channel times a gate in [0, 1] that all channels' averages decide."""

    def __init__(self, channels: int, *, act: Act, rngs: nnx.Rngs) -> None:
        self.act, narrow = act, _by_eight(channels // 4)
        self.fc1, self.fc2 = (nnx.Conv(a, b, (1, 1), rngs=rngs) for a, b in ((channels, narrow), (narrow, channels)))

    def __call__(self, x: Array) -> Array:
        return x * jax.nn.hard_sigmoid(self.fc2(self.act(self.fc1(x.mean((-3, -2), keepdims=True)))))


def _layer(channels, out, size, stride, rngs, groups=1):
    conv = nnx.Conv(channels, out, (size, size), stride, padding=size // 2, feature_group_count=groups, use_bias=False,
                    rngs=rngs)
    return nnx.Dict({"0": conv, "1": nnx.BatchNorm(out, use_running_average=True, epsilon=1e-3, rngs=rngs)})


def _applied(layer, x):
    return layer["1"](layer["0"](x))


def _by_eight(channels):
    """The nearest multiple of 8, that above where the nearest is less than nine tenths."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
