"""SqueezeNet 1.1 (Iandola et al. 2016), in the layout of torchvision's squeezenet1_1."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool, max_pool
from .blocks import Act

__all__ = ["SqueezeNet"]

# index in torchvision's `features`: (input channels, squeeze channels, channels of each expansion)
_FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128),
          9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
_POOL_BEFORE = (3, 6, 9)


class SqueezeNet(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    Max-poolings round their sizes up, and the last convolution pads by 1 as in the Caffe weights. Layers named for
    taps: fire2 ... fire9 (the last fire module) and features (the rectified class maps that are averaged).
    """

    def __init__(self, *, num_classes: int = 1000, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act = act
        self.features = nnx.Dict({"0": nnx.Conv(3, 64, (3, 3), 2, padding="VALID", rngs=rngs)}
                                 | {str(i): Fire(*widths, act=act, rngs=rngs) for i, widths in _FIRES.items()})
        self.classifier = nnx.Dict({"1": nnx.Conv(512, num_classes, (1, 1), padding=1, rngs=rngs)})

    def __call__(self, x: Array) -> Array:
        x = self.act(self.features["0"](x))
        for name, index in enumerate(_FIRES, 2):
            x = max_pool(x, 3, 2, ceil=True) if index in _POOL_BEFORE else x
            x = checkpoint_name(self.features[str(index)](x), f"fire{name}")
        x = checkpoint_name(self.act(self.classifier["1"](x)), "features")
        return global_avg_pool(x)


class Fire(nnx.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones in parallel: [..., h, w, c] -> [..., h, w, 2 expand]."""

    def __init__(self, channels: int, squeeze: int, expand: int, *, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        self.act = act
        self.squeeze = nnx.Conv(channels, squeeze, (1, 1), rngs=rngs)
        self.expand1x1 = nnx.Conv(squeeze, expand, (1, 1), rngs=rngs)
        self.expand3x3 = nnx.Conv(squeeze, expand, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.act(self.squeeze(x))
        return jnp.concatenate([self.act(self.expand1x1(x)), self.act(self.expand3x3(x))], axis=-1)
