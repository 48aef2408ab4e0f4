"""Compact convolutional transformers for small images (Hassani et al. 2021), in the layout of their released code."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ..pooling import max_pool
from .attention import Attend, QKVAttention, explicit_attention, gelu
from .blocks import Act, conv, layer_norm, tokens

__all__ = ["CCT"]


class CCT(nnx.Module):
    """x: Float[h, w, channels] or Float[b, h, w, channels] -> logits Float[classes] or Float[b, classes].

    The defaults are cct_2_3x2_32; depth=7, heads=4, width=256, mlp=512 and convolutions=1 are cct_7_3x1_32. Tokens come
    from convolutions, each with relu and max-pooling; there is no class token: the logits are of an average of all
    tokens, weighted by a softmax. Layers named for taps: block1, block2, ... (the tokens after a block) and features
    (the normalised tokens that are averaged).

    Args:
      image_size: sides in pixels;  convolutions: in the tokenizer, each halves the sides;  stem: channels of all but
        the last;  mlp: width of the hidden layers;  act: of the hidden layers, and of the tokenizer where it is given
        (gelu and relu unless it is);  attend: see `explicit_attention`, or `dot_product_attention`.

    Raises ValueError for images of another size.
    """

    def __init__(self, *, image_size: int = 32, convolutions: int = 2, stem: int = 64, width: int = 128, depth: int = 2,
                 heads: int = 2, mlp: int = 128, num_classes: int = 10, channels: int = 3, act: Act | None = None,
                 attend: Attend = explicit_attention, rngs: nnx.Rngs) -> None:
        self.image_size, self.act = image_size, act or jax.nn.relu
        sides, sizes = image_size, [channels, *[stem] * (convolutions - 1), width]
        for _ in range(convolutions):
            sides = -(-sides // 2)
        layers = [nnx.Dict({"0": conv(a, b, 3, 1, rngs)}) for a, b in pairwise(sizes)]
        self.tokenizer = nnx.Dict(conv_layers=nnx.List(layers))
        position = nnx.initializers.truncated_normal(0.2)(rngs.params(), (1, sides**2, width))
        blocks = [Block(width, heads, mlp, act=act or gelu, attend=attend, rngs=rngs) for _ in range(depth)]
        self.classifier = nnx.Dict(
            positional_emb=nnx.Param(position), blocks=nnx.List(blocks), norm=layer_norm(width, 1e-5, rngs),
            attention_pool=nnx.Linear(width, 1, rngs=rngs), fc=nnx.Linear(width, num_classes, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        if x.shape[-3:-1] != (self.image_size,) * 2:
            raise ValueError(f"the position embedding is for images of {self.image_size} x {self.image_size}, got "
                             f"shape {x.shape}")
        head: Any = self.classifier
        for layer in self.tokenizer.conv_layers:
            x = max_pool(self.act(layer["0"](x)), 3, 2, padding=1)
        x = tokens(x) + head.positional_emb[0]
        for i, block in enumerate(head.blocks, 1):
            x = checkpoint_name(block(x), f"block{i}")
        x = checkpoint_name(head.norm(x), "features")
        weights = jax.nn.softmax(head.attention_pool(x)[..., 0], axis=-1)
        return head.fc(jnp.einsum("...n,...nd->...d", weights, x))


class Block(nnx.Module):
    """x + attention(norm(x)), normalised; then x + mlp(x): tokens Float[..., n, width] to tokens."""

    def __init__(self, width: int, heads: int, mlp: int, *, act: Act, attend: Attend, rngs: nnx.Rngs) -> None:
        self.act = act
        self.pre_norm, self.norm1 = layer_norm(width, 1e-5, rngs), layer_norm(width, 1e-5, rngs)
        self.self_attn = QKVAttention(width, heads, bias=False, attend=attend, rngs=rngs)
        self.linear1, self.linear2 = nnx.Linear(width, mlp, rngs=rngs), nnx.Linear(mlp, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.norm1(x + self.self_attn(self.pre_norm(x)))
        return x + self.linear2(self.act(self.linear1(x)))
