"""The networks of zoo/, by name."""

from pathlib import Path

from flax import nnx
from jax.tree_util import Partial

from common import files
from common.defence_recipes import NETWORKS, RECIPES
from xmanip_jax import models

FOLDER = Path(__file__).parent.parent.parent / "zoo"


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
    recipe = RECIPES[known[name]["defence"]]
    spec = models.NETWORKS[NETWORKS[name.partition("_")[0]]]
    module = recipe.network(spec.input_shape, recipe.act(known[name]["beta"]), nnx.Rngs(0))
    net, *weights = models.functional(models.load_weights(module, file or FOLDER / f"{name}.safetensors"))
    return models.Pretrained(name, Partial(net.apply, *weights), net, *weights, lambda pixels: pixels, spec.input_shape,
                             spec.num_classes, () if file else spec.classes)
