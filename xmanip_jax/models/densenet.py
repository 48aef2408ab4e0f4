"""DenseNet-121 (Huang et al. 2017), in the layout of torchvision's densenet121."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import avg_pool, global_avg_pool, max_pool
from .blocks import Act, conv, norm

__all__ = ["DenseNet121"]

_LAYERS = (6, 12, 24, 16)  # of each dense block
_STEM, _GROWTH, _NARROW = 64, 32, 4 * 32  # channels: after the stem, added by each layer, between its convolutions


class DenseNet121(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    Activations come before the convolutions. Layers named for taps: denseblock1 ... denseblock4 (all channels at the
    end of a block, not rectified) and features (after the last norm and activation). The names of weights are those
    of the module's state_dict; torchvision's published file has older ones (`norm.1`), which it renames on loading.
    """

    def __init__(self, *, num_classes: int = 1000, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act, channels = act, _STEM
        features = {"conv0": conv(3, _STEM, 7, 2, rngs), "norm0": norm(_STEM, rngs)}
        for block, count in enumerate(_LAYERS, 1):
            if block > 1:
                features[f"transition{block - 1}"] = Transition(channels, act=act, rngs=rngs)
                channels //= 2
            features[f"denseblock{block}"] = nnx.Dict(
                {f"denselayer{i + 1}": DenseLayer(channels + i * _GROWTH, act=act, rngs=rngs) for i in range(count)})
            channels += count * _GROWTH
        self.features = nnx.Dict(features | {"norm5": norm(channels, rngs)})
        self.classifier = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        features: Any = self.features
        x = max_pool(self.act(features["norm0"](features["conv0"](x))), 3, 2, padding=1)
        for block, count in enumerate(_LAYERS, 1):
            x = features[f"transition{block - 1}"](x) if block > 1 else x
            for i in range(count):
                x = features[f"denseblock{block}"][f"denselayer{i + 1}"](x)
            x = checkpoint_name(x, f"denseblock{block}")
        x = checkpoint_name(self.act(features["norm5"](x)), "features")
        return self.classifier(global_avg_pool(x))


class DenseLayer(nnx.Module):
    """Appends 32 channels computed from all that came before: [..., h, w, c] -> [..., h, w, c + 32]."""

    def __init__(self, channels: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act = act
        self.norm1, self.conv1 = norm(channels, rngs), conv(channels, _NARROW, 1, 1, rngs)
        self.norm2, self.conv2 = norm(_NARROW, rngs), conv(_NARROW, _GROWTH, 3, 1, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.conv1(self.act(self.norm1(x)))
        y = self.conv2(self.act(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """Halves the channels by a 1x1 convolution and the sides by averaging: [..., h, w, c] -> [..., h/2, w/2, c/2]."""

    def __init__(self, channels: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act = act
        self.norm, self.conv = norm(channels, rngs), conv(channels, channels // 2, 1, 1, rngs)

    def __call__(self, x: Array) -> Array:
        return avg_pool(self.conv(self.act(self.norm(x))), 2, 2)
