"""ConvNeXt (Liu et al. 2022), in the layout of torchvision's ConvNeXt."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .attention import gelu
from .blocks import Act, layer_norm

__all__ = ["ConvNeXt"]


class ConvNeXt(nnx.Module):
    """x: Float[h, w, channels] or Float[b, h, w, channels] -> logits Float[classes] or Float[b, classes].

    The defaults are torchvision's convnext_tiny. Layers named for taps: stage1, stage2, ... and features (the end of
    the last stage).

    Args:
      depths, widths: the blocks and channels of each stage;  layer_scale: what each block's result is multiplied with
        at first, a number for each channel.

    Raises ValueError unless each stage has both.
    """

    def __init__(self, *, depths: tuple[int, ...] = (3, 3, 9, 3), widths: tuple[int, ...] = (96, 192, 384, 768),
                 layer_scale: float = 1e-6, num_classes: int = 1000, channels: int = 3, act: Act = gelu,
                 rngs: nnx.Rngs) -> None:
        if len(depths) != len(widths) or not depths:
            raise ValueError(f"each stage has a depth and a width, got {len(depths)} depths and {len(widths)} widths")
        patches = nnx.Conv(channels, widths[0], (4, 4), 4, padding="VALID", rngs=rngs)
        layers: list[nnx.Module] = [nnx.Dict({"0": patches, "1": layer_norm(widths[0], 1e-6, rngs)})]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                halved = nnx.Conv(widths[stage - 1], width, (2, 2), 2, padding="VALID", rngs=rngs)
                layers.append(nnx.Dict({"0": layer_norm(widths[stage - 1], 1e-6, rngs), "1": halved}))
            layers.append(nnx.List([Block(width, layer_scale, act=act, rngs=rngs) for _ in range(depth)]))
        self.features = nnx.List(layers)
        self.classifier = nnx.Dict({"0": layer_norm(widths[-1], 1e-6, rngs),
                                    "2": nnx.Linear(widths[-1], num_classes, rngs=rngs)})

    def __call__(self, x: Array) -> Array:
        head: Any = self.classifier
        features: Any = self.features
        stages = len(features) // 2
        for i, layers in enumerate(features):
            if i % 2:
                for block in layers:
                    x = block(x)
                stage = i // 2 + 1
                x = checkpoint_name(x, "features" if stage == stages else f"stage{stage}")
            else:
                x = layers["1"](layers["0"](x))
        return head["2"](head["0"](global_avg_pool(x)))


class Block(nnx.Module):
    """x + scale F(x), F a depthwise 7 x 7 convolution, LayerNorm and two layers at each place: shapes stay."""

    def __init__(self, width: int, scale: float, *, act: Act, rngs: nnx.Rngs) -> None:
        self.act = act
        depthwise = nnx.Conv(width, width, (7, 7), padding=3, feature_group_count=width, rngs=rngs)
        self.block = nnx.Dict({"0": depthwise, "2": layer_norm(width, 1e-6, rngs),
                               "3": nnx.Linear(width, 4 * width, rngs=rngs),
                               "5": nnx.Linear(4 * width, width, rngs=rngs)})
        self.layer_scale = nnx.Param(jnp.full((width, 1, 1), scale))

    def __call__(self, x: Array) -> Array:
        layers: Any = self.block
        y = layers["5"](self.act(layers["3"](layers["2"](layers["0"](x)))))
        return x + self.layer_scale[:, 0, 0] * y
