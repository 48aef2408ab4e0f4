"""Estimate the patterns of a network from data, for Pattern Attribution (Kindermans et al. 2018).

    python experiments/reproduce.py patterns --network cifar10_resnet20 --dataset cifar10 --out patterns.safetensors
    python experiments/manipulate.py --explanation pattern_attribution --patterns patterns.safetensors ...

Images go through the network batch by batch; only running sums are kept. The file has one array for each linear layer,
named as `rewrite.linear_layers` names it, in the shape of its weights.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from rich.progress import track

from common import program, runs
from xmanip_jax import data, explain, models


@dataclasses.dataclass(frozen=True)
class Config:
    """Estimate the patterns of a network."""

    network: Annotated[str, runs.choices("The network", models.NETWORKS)] = "cifar10_resnet20"
    weights: Path | None = None
    """A .safetensors or .pth file; default: the network's own."""
    images: Path | None = None
    """A folder of images."""
    dataset: Literal["cifar10", "mnist"] | None = None
    """A tensorflow-datasets training split instead of a folder."""
    count: int = 2000
    """Number of images, the first ones."""
    batch: int = 50
    """Number of images computed together."""
    out: Path = Path("patterns.safetensors")
    """The .safetensors file to write."""


def main(config: Config) -> None:
    if (config.images is None) == (config.dataset is None):
        raise ValueError("choose one of --images and --dataset")
    runs.check_positive(config, "count", "batch")
    if not config.out.parent.is_dir():
        raise ValueError(f"the folder of {config.out} does not exist")
    network = models.load(config.network, config.weights)
    if config.dataset:
        images = data.load_dataset(config.dataset, "train")[0][:config.count]
    else:
        images = data.read_folder(config.images, network.input_shape[0], limit=config.count)[1]
    starts = track(range(0, len(images), config.batch), description="images", transient=True)
    batches = (network.preprocess(images[i:i + config.batch]) for i in starts)
    patterns = explain.fit_patterns(network.model, batches)
    with program.WHOLE:
        models.save_tensors({name: np.asarray(p) for name, p in patterns.items()}, config.out)
    dead = sum(int((np.asarray(p) == 0).all(tuple(range(p.ndim - 1))).sum()) for p in patterns.values())
    print(f"{config.out}: {len(patterns)} layers from {len(images)} images; {dead} neurons were never active")


def run(arguments=None) -> None:
    runs.command("patterns", Config, main, __doc__, arguments)
