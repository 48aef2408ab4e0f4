"""Networks with attention and their neighbours: equal to torchvision's and timm's, and explained as others are."""

import json
import pathlib
from functools import cache, partial

import jax
import numpy as np
import pytest

from oracles.make_model_oracles import seeded_images, seeded_weight
from oracles.make_transformer_oracles import SMALL
from xmanip_jax.models import CCT, ConvNeXt, MobileNetV3, Swin, ViT, functional, load_weights
from xmanip_jax.models.net import abstract

ORACLES = np.load(pathlib.Path(__file__).parent / "oracles/transformers.npz")
SHAPES = {name: {n: tuple(s) for n, s in shapes.items()} for name, shapes in json.loads(str(ORACLES["shapes"])).items()}
BUILD = {"vit": ViT, "deit": ViT, "convnext": ConvNeXt, "swin": Swin, "mobilenet": MobileNetV3, "cct": CCT,
         "cct_1": CCT}
ATTENTIVE = "vit", "swin", "cct"


@cache
def small(name, **options):
    """The network of the oracle with its seeded weights; options: further ones."""
    module = abstract(partial(BUILD[name], **SMALL[name][1], **options))
    return load_weights(module, {n: seeded_weight(n, shape) for n, shape in SHAPES[name].items()})


@partial(jax.jit, static_argnums=0)
def forward(net, params, state, x):
    return net.apply(params, state, x)


@pytest.mark.parametrize("name", BUILD)
def test_logits_equal_torchs_alone_and_batched(name):
    network, xs, expected = functional(small(name)), seeded_images(*SMALL[name][0]), ORACLES[name]
    for found, right in ((forward(*network, xs), expected), (forward(*network, xs[0]), expected[0])):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * np.abs(expected).max())
