"""Swin transformers (Liu et al. 2021), in the layout of torchvision's SwinTransformer."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import global_avg_pool
from .attention import Attend, QKVAttention, attended, explicit_attention, gelu
from .blocks import Act, layer_norm

__all__ = ["Swin"]

_FORBIDDEN = -100.0  # torchvision's: what is added to the scores of tokens that are no neighbours in the image


class Swin(nnx.Module):
    """x: Float[h, w, channels] or Float[b, h, w, channels] -> logits Float[classes] or Float[b, classes].

    The defaults are torchvision's swin_t. Tokens are kept as images [h, w, width]; what windows do not fill is padded
    with zeros. Layers named for taps: stage1, stage2, ... and features (the normalised tokens that are averaged).

    Args:
      patch_size: side of the first patches, in pixels;  width: of the first stage, doubled by each;  depths, heads: of
        each stage, its blocks and attention heads;  window: side of a window, in tokens, shifted by half in every
        second block;  attend: see `explicit_attention`, or `dot_product_attention`.

    Raises ValueError unless each stage has a depth and heads.
    """

    def __init__(self, *, patch_size: int = 4, width: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, num_classes: int = 1000, channels: int = 3,
                 act: Act = gelu, attend: Attend = explicit_attention, rngs: nnx.Rngs) -> None:
        if len(depths) != len(heads) or not depths:
            raise ValueError(f"each stage has a depth and heads, got {len(depths)} depths and {len(heads)} heads")
        patches = nnx.Conv(channels, width, (patch_size, patch_size), patch_size, padding="VALID", rngs=rngs)
        layers: list[Any] = [nnx.Dict({"0": patches, "2": layer_norm(width, 1e-5, rngs)})]
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                layers.append(PatchMerging(width, rngs=rngs))
                width *= 2
            layers.append(nnx.List([Block(width, count, window, window // 2 * (i % 2), act=act, attend=attend,
                                          rngs=rngs) for i in range(depth)]))
        self.features = nnx.List(layers)
        self.norm, self.head = layer_norm(width, 1e-5, rngs), nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        first: Any = self.features[0]
        x, stages = first["2"](first["0"](x)), len(self.features) // 2
        for stage in range(1, stages + 1):
            x = self.features[2 * stage - 2](x) if stage > 1 else x
            for block in self.features[2 * stage - 1]:
                x = block(x)
            x = checkpoint_name(x, f"stage{stage}") if stage < stages else x
        return self.head(global_avg_pool(checkpoint_name(self.norm(x), "features")))


class PatchMerging(nnx.Module):
    """Four neighbours become one token of twice the width: [..., h, w, c] -> [..., ceil(h/2), ceil(w/2), 2 c]."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.norm = layer_norm(4 * width, 1e-5, rngs)
        self.reduction = nnx.Linear(4 * width, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = _filled(x, 2)
        parts = [x[..., i::2, j::2, :] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(jnp.concatenate(parts, axis=-1)))


class Block(nnx.Module):
    """x + attention(norm(x)) within windows, then x + mlp(norm(x)): [..., h, w, c] to the same."""

    def __init__(self, width: int, heads: int, window: int, shift: int, *, act: Act, attend: Attend,
                 rngs: nnx.Rngs) -> None:
        self.act = act
        self.norm1, self.norm2 = layer_norm(width, 1e-5, rngs), layer_norm(width, 1e-5, rngs)
        self.attn = WindowAttention(width, heads, window, shift, attend=attend, rngs=rngs)
        hidden, out = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.mlp = nnx.Dict({"0": hidden, "3": out})

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["3"](self.act(self.mlp["0"](self.norm2(x))))


class WindowAttention(QKVAttention):
    """Self-attention within windows of the image [..., h, w, c], which is shifted by `shift` before and back after.

    To the scores come a number for each head and offset between two places of a window, and -100 between places that
    only the shift, which goes round, brought together. An axis of one window is not shifted.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, *, attend: Attend, rngs: nnx.Rngs) -> None:
        super().__init__(width, heads, attend=attend, rngs=rngs)
        self.window, self.shift = window, shift
        table = nnx.initializers.truncated_normal(0.02)(rngs.params(), ((2 * window - 1) ** 2, heads))
        self.relative_position_bias_table = nnx.Param(table)

    def __call__(self, x: Array) -> Array:
        h, w, c = x.shape[-3:]
        x, s = _filled(x, self.window), self.window
        sides = x.shape[-3:-1]
        shifts = [self.shift if side > s else 0 for side in sides]
        x = jnp.roll(x, [-shift for shift in shifts], (-3, -2))
        rows, columns = (side // s for side in sides)
        x = jnp.moveaxis(x.reshape(*x.shape[:-3], rows, s, columns, s, c), -4, -3)
        x = self.proj(attended(self.attend, self.qkv(x.reshape(*x.shape[:-5], rows * columns, s * s, c)), self.heads,
                               self._bias(sides, shifts)))
        x = jnp.moveaxis(x.reshape(*x.shape[:-3], rows, columns, s, s, c), -3, -4).reshape(*x.shape[:-3], *sides, c)
        return jnp.roll(x, shifts, (-3, -2))[..., :h, :w, :]

    def _bias(self, sides, shifts):
        """Float[windows or 1, heads, n, n], n the places of a window."""
        s = self.window
        place = np.stack(np.meshgrid(np.arange(s), np.arange(s), indexing="ij"), -1).reshape(-1, 2)
        offset = place[:, None] - place[None] + s - 1
        row = offset[..., 0] * (2 * s - 1) + offset[..., 1]
        bias = jnp.moveaxis(self.relative_position_bias_table[...][row], -1, 0)
        if not any(shifts):
            return bias[None]
        region = [np.digitize(np.arange(side), (side - s, side - shift)) if shift else np.zeros(side, int)
                  for side, shift in zip(sides, shifts, strict=True)]
        region = (3 * region[0][:, None] + region[1]).reshape(sides[0] // s, s, sides[1] // s, s)
        region = np.moveaxis(region, 2, 1).reshape(-1, 1, s * s)
        return bias + jnp.where(region[..., None] == region[..., None, :], 0, jnp.asarray(_FORBIDDEN, bias.dtype))


def _filled(x, multiple):
    """[..., h, w, c] with zeros below and to the right, until both sides are multiples."""
    ends = [-side % multiple for side in x.shape[-3:-1]]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, end) for end in ends] + [(0, 0)]) if any(ends) else x
