"""The Small network of Boopathy et al. 2020, in the layout of their released weights, and one of low curvature."""

from collections.abc import Callable

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .blocks import Act
from .lipschitz import CentredSoftplus, LipschitzNorm, UnitNorm

__all__ = ["SmallCNN", "SmallLCNN"]


class SmallCNN(nnx.Module):
    """x: Float[h, w, channels] in [0, 1], with or without a batch axis -> logits Float[..., classes].

    The activation comes before every convolution but the first. The last feature map is therefore signed, its mean
    goes through a linear layer without bias, and class activation maps are complete: their mean is the logit.
    Layers named for taps: stage1, stage2, features (the outputs of the convolutions).
    """

    def __init__(self, *, channels: int = 1, num_classes: int = 10, act: Act = jax.nn.relu, rngs: nnx.Rngs) -> None:
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


class SmallLCNN(nnx.Module):
    """`SmallCNN` as an LCNN (Srinivas et al. 2022): every layer of norm 1, BatchNorms of slope gamma at most.

    Each convolution without bias is followed by its own LipschitzNorm and, the last excepted, by its own activation;
    class activation maps stay complete. Train it with `defend.lcnn`, which lowers beta and draws gamma to 1.

    Args:
      size: sides of the image, by which the convolutions' norms go;  act() -> an activation, one for each place.
    """

    def __init__(self, *, channels: int = 1, num_classes: int = 10, size: int = 28,
                 act: Callable[[], Callable] = CentredSoftplus, gamma: float = 10.0, rngs: nnx.Rngs) -> None:
        def unit(size, channels, out, window, stride):
            layer = nnx.Conv(channels, out, (window, window), stride, use_bias=False, rngs=rngs)
            return UnitNorm(layer, (size, size, channels), rngs=rngs)

        half = -(-size // 2)
        self.conv1 = unit(size, channels, 16, 4, 2)
        self.conv2 = unit(half, 16, 32, 4, 2)
        self.conv3 = unit(-(-half // 2), 32, 100, 7, 1)
        self.norm1, self.norm2, self.norm3 = (LipschitzNorm(n, gamma=gamma, rngs=rngs) for n in (16, 32, 100))
        self.act1, self.act2 = act(), act()
        self.linear = UnitNorm(nnx.Linear(100, num_classes, use_bias=False, rngs=rngs), (100,), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = checkpoint_name(self.norm1(self.conv1(x)), "stage1")
        x = checkpoint_name(self.norm2(self.conv2(self.act1(x))), "stage2")
        x = checkpoint_name(self.norm3(self.conv3(self.act2(x))), "features")
        return self.linear(global_avg_pool(x))
