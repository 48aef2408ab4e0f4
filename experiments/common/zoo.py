"""The networks of zoo/, by name."""

from functools import partial
from pathlib import Path

from flax import nnx
from jax.tree_util import Partial

from common import files
from common.defence_recipes import NETWORKS, RECIPES
from xmanip_jax import models
from xmanip_jax.models.load import Network, pretrained

FOLDER = Path(__file__).parent.parent.parent / "zoo"

# The networks with attention, of which a card says no defence: of pixels, preprocessed as their specification says.
TRANSFORMERS = {
    "mnist_vit": Network(partial(models.ViT, image_size=28, patch_size=7, width=64, depth=4, heads=4, mlp=128,
                                 num_classes=10, channels=1), 28, 1, models.NETWORKS["small_cnn"].classes, (1.0,),
                         (0.0,), "mnist_vit.safetensors"),
    "cifar10_cct": models.NETWORKS["cct_2_3x2_32"],
}


def cards() -> dict[str, dict]:
    """{name: card}; empty without a zoo."""
    file = FOLDER / "cards.json"
    return files.read_json(file) if file.is_file() else {}


def load(name: str, file: Path | None = None) -> models.Pretrained:
    """A network of the zoo;  file: of weights in the place of its own.

    Raises ValueError for an unknown name.
    """
    known = cards()
    if name not in known:
        raise ValueError(f"{name!r} is not in the zoo; known: {', '.join(known)}")
    if name in TRANSFORMERS:
        found = pretrained(name, TRANSFORMERS[name], file or FOLDER / f"{name}.safetensors")
        return found._replace(classes=()) if file else found
    recipe = RECIPES[known[name]["defence"]]
    spec = models.NETWORKS[NETWORKS[name.partition("_")[0]]]
    module = recipe.network(spec.input_shape, recipe.act(known[name]["beta"]), nnx.Rngs(0))
    net, *weights = models.functional(models.load_weights(module, file or FOLDER / f"{name}.safetensors"))
    return models.Pretrained(name, Partial(net.apply, *weights), net, *weights, lambda pixels: pixels, spec.input_shape,
                             spec.num_classes, () if file else spec.classes)
