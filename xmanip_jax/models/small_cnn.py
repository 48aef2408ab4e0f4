"""The Small network of Boopathy et al. 2020, in the layout of their released weights."""

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .pooling import global_avg_pool

__all__ = ["SmallCNN"]


class SmallCNN(nnx.Module):
    """x: Float[h, w, channels] in [0, 1], with or without a batch axis -> logits Float[..., classes].

    The activation comes before every convolution but the first. The last feature map is therefore signed, its mean
    goes through a linear layer without bias, and class activation maps are complete: their mean is the logit.
    Layers named for taps: stage1, stage2, features (the outputs of the convolutions).
    """

    def __init__(self, *, channels: int = 1, num_classes: int = 10, act=jax.nn.relu, rngs: nnx.Rngs):
        self.act = act
        self.conv1 = nnx.Conv(channels, 16, (4, 4), 2, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (4, 4), 2, rngs=rngs)
        self.conv3 = nnx.Conv(32, 100, (7, 7), 1, rngs=rngs)
        self.linear = nnx.Linear(100, num_classes, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = checkpoint_name(self.conv1(x), "stage1")
        x = checkpoint_name(self.conv2(self.act(x)), "stage2")
        x = checkpoint_name(self.conv3(self.act(x)), "features")
        return self.linear(global_avg_pool(x))
