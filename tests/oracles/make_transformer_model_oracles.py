"""Writes transformer_models.npz: logits by torchvision and timm, which tests/test_transformer_models.py compares to.

Run with torch, torchvision and timm, in tests/:  python -m oracles.make_transformer_model_oracles
(made with torch 2.13.0, torchvision 0.28.0 and timm 1.0.31 on a CPU, in float64)

Small instances of their own classes, with the weights of `seeded_weight`; the names and shapes of the weights are kept
beside the logits. The compact convolutional transformer, which neither has, is written out here from the paper, with
the names of its released code.
"""

import json
import pathlib

import numpy as np

from oracles.make_model_oracles import seeded_images, seeded_weight

# name -> (shape of the images with batch, options of the network of xmanip_jax)
SMALL = {
    "vit": ((2, 32, 32, 3), {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp": 40,
                             "num_classes": 7}),
    "deit": ((2, 32, 32, 3), {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp": 48,
                              "num_classes": 7}),
    "convnext": ((2, 40, 51, 3), {"depths": (1, 2, 1), "widths": (8, 12, 16), "num_classes": 7}),
    "swin": ((2, 34, 31, 3), {"patch_size": 2, "width": 12, "depths": (2, 2), "heads": (2, 4), "window": 4,
                              "num_classes": 7}),
    "mobilenet": ((2, 45, 38, 3), {"blocks": ((3, 16, 16, 1, "relu", 2), (5, 40, 24, 0, "relu", 1),
                                              (5, 72, 24, 1, "hard_swish", 1), (3, 40, 16, 1, "hard_swish", 2)),
                                   "last": 20, "num_classes": 7}),
    "cct": ((2, 32, 32, 3), {"convolutions": 2, "stem": 8, "width": 12, "depth": 2, "heads": 3, "mlp": 20,
                             "num_classes": 7}),
    "cct_1": ((2, 17, 17, 1), {"image_size": 17, "convolutions": 1, "width": 12, "depth": 1, "heads": 2, "mlp": 12,
                               "channels": 1, "num_classes": 5}),
}


def built():
    """name -> the module of torchvision's or timm's."""
    from functools import partial

    from timm.models.vision_transformer import VisionTransformer as Timm
    from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    o = {name: options for name, (_, options) in SMALL.items()}
    widths, channels, rows = o["convnext"]["widths"], 16, []
    acts = {"relu": "RE", "hard_swish": "HS"}
    for kernel, wide, out, gated, act, stride in o["mobilenet"]["blocks"]:
        rows.append(InvertedResidualConfig(channels, kernel, wide, out, bool(gated), acts[act], stride, 1, 1.0))
        channels = out
    stages = [CNBlockConfig(*row) for row in zip(widths, (*widths[1:], None), o["convnext"]["depths"], strict=True)]
    square = lambda n: [n, n]
    return {
        "vit": VisionTransformer(32, 8, 2, 3, 24, 40, num_classes=7),
        "deit": Timm(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=7),
        "convnext": ConvNeXt(stages, num_classes=7),
        "swin": SwinTransformer(square(2), 12, [2, 2], [2, 4], square(4), num_classes=7),
        "mobilenet": MobileNetV3(rows, 20, num_classes=7),
        "cct": partial(cct, **o["cct"]), "cct_1": partial(cct, **o["cct_1"]),
    }


def cct(weight, x, *, convolutions, width, depth, heads, mlp, num_classes, stem=64, **_):
    """Logits of the compact convolutional transformer; weight(name, shape) gives the named weights."""
    import torch
    from torch.nn import functional as F

    def dense(x, name, out, bias=True):
        kernel = weight(f"{name}.weight", (out, x.shape[-1]))
        return F.linear(x, kernel, weight(f"{name}.bias", (out,)) if bias else None)

    def norm(x, name):
        return F.layer_norm(x, (width,), weight(f"{name}.weight", (width,)), weight(f"{name}.bias", (width,)), 1e-5)

    for i in range(convolutions):
        out = width if i == convolutions - 1 else stem
        kernel = weight(f"tokenizer.conv_layers.{i}.0.weight", (out, x.shape[1], 3, 3))
        x = F.max_pool2d(F.relu(F.conv2d(x, kernel, padding=1)), 3, 2, 1)
    x = x.flatten(2).transpose(1, 2)
    x = x + weight("classifier.positional_emb", (1, x.shape[1], width))
    for i in range(depth):
        name = f"classifier.blocks.{i}."
        qkv = dense(norm(x, name + "pre_norm"), name + "self_attn.qkv", 3 * width, bias=False)
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = norm(x + dense(y, name + "self_attn.proj", width), name + "norm1")
        x = x + dense(F.gelu(dense(x, name + "linear1", mlp)), name + "linear2", width)
    x = norm(x, "classifier.norm")
    shares = torch.softmax(dense(x, "classifier.attention_pool", 1), 1)
    return dense((shares.transpose(1, 2) @ x)[:, 0], "classifier.fc", num_classes)


def main():
    import torch

    oracles, shapes = {}, {}
    for name, network in built().items():
        images = torch.from_numpy(seeded_images(*SMALL[name][0]).astype(np.float64).transpose(0, 3, 1, 2).copy())
        names = shapes[name] = {}

        def weight(tensor, shape, names=names):
            names[tensor] = shape = tuple(shape)
            return torch.from_numpy(seeded_weight(tensor, shape).astype(np.float64))

        with torch.no_grad():
            if isinstance(network, torch.nn.Module):
                known = {n: t for n, t in network.state_dict().items() if t.is_floating_point()}
                network.double().load_state_dict({n: weight(n, t.shape) for n, t in known.items()}, strict=False)
                oracles[name] = network.eval()(images).numpy()
            else:
                oracles[name] = network(weight, images).numpy()
    file = pathlib.Path(__file__).with_name("transformer_models.npz")
    np.savez_compressed(file, shapes=json.dumps(shapes), **oracles)


if __name__ == "__main__":
    main()
