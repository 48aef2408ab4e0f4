"""Vision transformers (Dosovitskiy et al. 2021), in the layout of torchvision's VisionTransformer."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .attention import Attend, MultiheadAttention, explicit_attention, gelu
from .blocks import Act, layer_norm, tokens

__all__ = ["ViT"]


class ViT(nnx.Module):
    """x: Float[h, w, channels] or Float[b, h, w, channels] -> logits Float[classes] or Float[b, classes].

    The defaults are torchvision's vit_b_16; heads=3, width=192 and mlp=768 are timm's deit_tiny_patch16_224. Weights
    load under the names of both. Tokens are the class token, then the patches row by row. Layers named for taps:
    block1, block2, ... (the tokens after a block) and features (the normalised tokens that enter the last block, the
    last place where a patch has a gradient: of what follows, only the class token reaches the logits).

    Args:
      image_size, patch_size: sides in pixels;  width: of a token;  depth: number of blocks;  mlp: width of the hidden
        layer;  act: of the hidden layers;  attend: see `explicit_attention`, or `dot_product_attention`;  remat: keep
        only what enters a block for the backward pass, and compute it again (docs/howto/vision-transformers.md).

    Raises ValueError for patches that do not fill the image, and images of another size.
    """

    # How timm and torchvision's older files name the weights, as regular expressions.
    other_names = (
        (r"^cls_token$", "class_token"), (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj", "conv_proj"), (r"^norm\.", "encoder.ln."), (r"^head\.", "heads.head."),
        (r"^blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"), (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.proj", ".self_attention.out_proj"), (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.mlp\.(fc|linear_)1", ".mlp.0"), (r"\.mlp\.(fc|linear_)2", ".mlp.3"))

    def __init__(self, *, image_size: int = 224, patch_size: int = 16, width: int = 768, depth: int = 12,
                 heads: int = 12, mlp: int = 3072, num_classes: int = 1000, channels: int = 3, act: Act = gelu,
                 attend: Attend = explicit_attention, remat: bool = False, rngs: nnx.Rngs) -> None:
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} do not fill an image of {image_size}")
        self.image_size, self.remat, count = image_size, remat, (image_size // patch_size) ** 2
        small = nnx.initializers.normal(0.02)
        self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.conv_proj = nnx.Conv(channels, width, (patch_size, patch_size), patch_size, padding="VALID", rngs=rngs)
        blocks = {f"encoder_layer_{i}": Block(width, heads, mlp, act=act, attend=attend, rngs=rngs)
                  for i in range(depth)}
        self.encoder = nnx.Dict(pos_embedding=nnx.Param(small(rngs.params(), (1, count + 1, width))),
                                layers=nnx.Dict(blocks), ln=layer_norm(width, 1e-6, rngs))
        self.heads = nnx.Dict(head=nnx.Linear(width, num_classes, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        if x.shape[-3:-1] != (self.image_size,) * 2:
            raise ValueError(f"the position embedding is for images of {self.image_size} x {self.image_size}, got "
                             f"shape {x.shape}")
        encoder: Any = self.encoder
        x = tokens(self.conv_proj(x))
        token = jnp.broadcast_to(self.class_token[0], (*x.shape[:-2], 1, x.shape[-1]))
        x = jnp.concatenate([token.astype(x.dtype), x], axis=-2) + encoder.pos_embedding[0]
        run = nnx.remat(Block.__call__, static_argnums=2) if self.remat else Block.__call__
        for i, block in enumerate(encoder.layers.values(), 1):
            x = checkpoint_name(run(block, x, i == len(encoder.layers)), f"block{i}")
        return self.heads.head(encoder.ln(x)[..., 0, :])


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): tokens Float[..., n, width] to tokens."""

    def __init__(self, width: int, heads: int, mlp: int, *, act: Act, attend: Attend, rngs: nnx.Rngs) -> None:
        self.act = act
        self.ln_1, self.ln_2 = layer_norm(width, 1e-6, rngs), layer_norm(width, 1e-6, rngs)
        self.self_attention = MultiheadAttention(width, heads, attend=attend, rngs=rngs)
        self.mlp = nnx.Dict({"0": nnx.Linear(width, mlp, rngs=rngs), "3": nnx.Linear(mlp, width, rngs=rngs)})

    def __call__(self, x: Array, last: bool) -> Array:
        y = self.ln_1(x)
        x = x + self.self_attention(checkpoint_name(y, "features") if last else y)
        return x + self.mlp["3"](self.act(self.mlp["0"](self.ln_2(x))))
