"""Images attacked a second over the batch size: does a larger batch ever cost throughput?

    python benchmarks/throughput.py           # 5 minutes on 2 cores
    python benchmarks/throughput.py --quick   # a smoke test

The whole of `attack.manipulation` on the gradient map, verdicts included and compilation not, at each batch size in
turn, so that all share what else the machine does; medians count. With --devices, batches are multiples of them.
Writes results/throughput.json: images a second, and their ratio to the smallest batch, within this run.
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from jax.tree_util import Partial

from second_order import random_network
from xmanip_jax import attack, explain, models


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure throughput."""

    network: str = "cifar10_resnet20"
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Batch sizes."""
    devices: int = 1
    """Number of devices that share a batch."""
    steps: int = 10
    """Number of steps of an attack."""
    repeats: int = 5
    """Number of turns of each batch size."""
    quick: bool = False
    """Two batch sizes, one turn."""


def attacks(config, model, shape):
    """{batch: a call that attacks so many images}."""
    manipulate = attack.manipulation(explain.gradient(), steps=config.steps, devices=jax.devices()[:config.devices])

    def of(batch):
        pixels = np.random.default_rng(0).uniform(size=(batch, *shape)).astype(np.float32)
        goal = np.full((batch, *shape[:2]), 1 / np.prod(shape[:2]), np.float32)
        return lambda: jax.block_until_ready(manipulate(model, pixels, goal, key=jax.random.key(0)).pixels)

    return {batch: of(batch) for batch in config.batches}


def main(config: Config) -> None:
    if config.quick:
        config = dataclasses.replace(config, batches=config.batches[:2], repeats=1, steps=2)
    spec = models.NETWORKS[config.network]
    net, *weights = models.functional(random_network(spec, {}))
    model = Partial(net.apply, *weights)
    calls, times = attacks(config, model, spec.input_shape), {batch: [] for batch in config.batches}
    for call in calls.values():
        call()
    for _ in range(config.repeats):
        for batch, call in calls.items():
            start = time.perf_counter()
            call()
            times[batch].append(time.perf_counter() - start)
    rate = {batch: batch / statistics.median(seconds) for batch, seconds in times.items()}
    first = rate[config.batches[0]]
    for batch, found in rate.items():
        print(f"batch {batch:4}: {found:8.2f} images/s, {found / first:.2f} of batch {config.batches[0]}")
    if not config.quick:
        found = {"config": dataclasses.asdict(config), "device": jax.devices()[0].device_kind,
                 "images_per_second": rate, "over_smallest": {batch: value / first for batch, value in rate.items()}}
        Path(__file__).with_name("results").joinpath("throughput.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
