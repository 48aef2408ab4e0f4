"""VGG16 and VGG19 (Simonyan and Zisserman 2015), in the layout of torchvision's vgg16 and vgg19."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool, max_pool
from .blocks import Act

__all__ = ["VGG", "VGG16", "VGG19"]

_CHANNELS = (64, 128, 256, 512, 512)  # of each stage's convolutions; a stage ends in a 2/2 max-pooling


class VGG(nnx.Module):
    """x: Float[h, w, 3] or Float[b, h, w, 3] -> logits Float[classes] or Float[b, classes].

    classifier="torchvision": three dense layers on 512 maps of (input_size / 32)^2, with dropout 0.5 in training;
    "linear": one dense layer on their mean, for any input size. Layers named for taps: stage1 ... stage5 (before
    each pooling) and features (after the last one).

    Raises ValueError for another classifier or an input size that is not a multiple of 32.
    """

    counts: tuple[int, ...]  # convolutions in each stage

    def __init__(self, *, num_classes: int = 1000, input_size: int = 224, classifier: str = "torchvision",
                 act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
        if classifier not in ("torchvision", "linear"):
            raise ValueError(f'classifier must be "torchvision" or "linear", got {classifier!r}')
        if input_size % 32 or input_size < 32:
            raise ValueError(f"input_size must be a multiple of 32, got {input_size}")
        self.act, self.flat = act, classifier == "torchvision"
        convs, channels = {}, 3
        for index, out in _convolutions(self.counts):
            convs[str(index)] = nnx.Conv(channels, out, (3, 3), padding=1, rngs=rngs)
            channels = out
        self.features = nnx.Dict(convs)
        widths = {"0": (512 * (input_size // 32) ** 2, 4096), "3": (4096, 4096), "6": (4096, num_classes)}
        widths = widths if self.flat else {"0": (512, num_classes)}
        self.classifier = nnx.Dict({name: nnx.Linear(*pair, rngs=rngs) for name, pair in widths.items()})
        self.dropout = nnx.Dropout(0.5, deterministic=True)

    def __call__(self, x: Array) -> Array:
        convolutions = iter(_convolutions(self.counts))
        for stage, count in enumerate(self.counts, 1):
            for _ in range(count):
                x = self.act(self.features[str(next(convolutions)[0])](x))
            x = max_pool(checkpoint_name(x, f"stage{stage}"), 2, 2)
        x = checkpoint_name(x, "features")
        if not self.flat:
            return self.classifier["0"](global_avg_pool(x))
        # torch flattens channels first, and the first dense layer's rows follow that order.
        x = jnp.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)
        x = self.dropout(self.act(self.classifier["0"](x)))
        x = self.dropout(self.act(self.classifier["3"](x)))
        return self.classifier["6"](x)


class VGG16(VGG):
    """13 convolutions and 3 dense layers; input, options and named layers are those of `vgg.VGG`."""

    counts = (2, 2, 3, 3, 3)


class VGG19(VGG):
    """16 convolutions and 3 dense layers; input, options and named layers are those of `vgg.VGG`."""

    counts = (2, 2, 4, 4, 4)


def _convolutions(counts):
    """(index in torchvision's `features`, output channels): activations and poolings take indices too."""
    index, found = 0, []
    for count, out in zip(counts, _CHANNELS, strict=True):
        for _ in range(count):
            found.append((index, out))
            index += 2
        index += 1
    return found
