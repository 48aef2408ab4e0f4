"""Does a driver stay within its memory? Resident memory above the start's, beside what was asked and XLA states.

    python benchmarks/memory.py                   # 15 minutes on 2 quiet cores
    python benchmarks/memory.py --cases ig30

    python benchmarks/memory.py --cases --remat   # the second table alone

Each case is a process of its own. A thread reads /proc/self/statm every 5 ms, from the moment at which network and
images are there to the end: compiling, with all that XLA and LLVM keep of it, is part of it. Random pixels; networks
with their weights. Writes results/memory.json and .md, a row for
each case; those of other cases stay.

With --remat also what an attack step through integrated gradients of 30 steps of ResNet-20 takes and costs: all points
at once; chunks of 5 in a loop whose values are recomputed for the derivative, those of products kept, all kept.
Writes results/remat.json and .md.
"""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from xmanip_jax import attack, explain, geometry, memory, models, numerics, smooth
from xmanip_jax.programs import Program

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import files, report, runs

HEAD = ("case", "images", "asked, MiB", "chosen", "XLA states, MiB", "resident above start, MiB", "seconds")


class Case(NamedTuple):
    """run(network, pixels, budget) of `images` random images."""

    network: str
    images: int
    memory: str
    run: Callable


def attacked(network, pixels, budget, steps=30):
    """Two steps of an attack through integrated gradients, judged by them as well."""
    goal = jnp.full(pixels.shape[:3], 1 / np.prod(pixels.shape[1:3]))
    attack.manipulation(explain.integrated_gradients(steps=steps), steps=2, preprocess=network.preprocess,
                        memory=budget)(network.model, pixels, goal, key=jax.random.key(0))


def hessians(network, pixels, budget):
    """The Hessians of the logit of class 0 of the softplus network, as matrices."""
    beta = 2.0

    def hessian(p, model):
        columns = jnp.eye(p.size).reshape(-1, *p.shape)
        return geometry.hvps(lambda x: smooth.softplus(model, beta)(x)[0], network.preprocess(p), columns)

    geometry.sweep(hessian, pixels, network.model, memory=budget)


CASES = {
    "ig30": Case("squeezenet1_1", 2, "2GiB", attacked),
    "hessians": Case("cifar10_resnet20", 3, "2GiB", hessians),
}


REMAT = {
    "all points at once": (None, None),
    "chunks of 5, all recomputed": (5, lambda f: jax.checkpoint(f)),
    "chunks of 5, products kept": (5, lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable)),
    "chunks of 5, nothing recomputed": (5, lambda f: f),
}


def stepped(name: str, network) -> dict:
    """What the gradient of a distance of maps in the pixels takes, and its time and FLOPs."""
    chunk, remat = REMAT[name]
    e, surrogate = explain.integrated_gradients(steps=30, chunk=chunk), smooth.relative()
    pixels = np.random.default_rng(0).uniform(size=(1, *network.input_shape)).astype(np.float32)
    scales = surrogate.fit(network.model, network.preprocess(pixels[0]))

    def step(model, scales, p):
        f = surrogate.rewrite(model, scales, 0.0)
        return jax.grad(lambda p: jnp.sum(explain.heatmap(e(f, network.preprocess(p), 0)) ** 2))(p)

    with unittest.mock.patch.object(numerics, "recomputed", remat or numerics.recomputed):
        program = Program(step, None, None, 0)
        takes = program.takes(network.model, scales, pixels)
        jax.block_until_ready(program(network.model, scales, pixels))
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(program(network.model, scales, pixels))
        times.append(time.perf_counter() - begun)
    return {"step": name, "stated_mib": round(takes / 2**20, 1), "milliseconds": round(1e3 * min(times))}


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(name: str) -> dict:
    """One case, in this process."""
    case = CASES[name]
    network = models.load(case.network)
    pixels = np.random.default_rng(0).uniform(size=(case.images, *network.input_shape)).astype(np.float32)
    jax.block_until_ready(jax.jit(jax.vmap(network.model))(network.preprocess(pixels[:1])))
    start, chosen, over = resident(), [], threading.Event()
    peak, begun = [start], time.perf_counter()

    def watch():
        while not over.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    case.run(network, pixels, memory.Budget(case.memory, chosen.append))
    over.set()
    watcher.join()
    mib = lambda size: round(size / 2**20)
    return {"case": name, "network": case.network, "images": case.images, "asked_mib": mib(memory.parsed(case.memory)),
            **{key: value for key, value in chosen[-1]._asdict().items() if key not in ("takes", "memory")},
            "chosen": str(chosen[-1]), "stated_mib": mib(chosen[-1].takes), "resident_mib": mib(peak[0] - start),
            "seconds": round(time.perf_counter() - begun, 1)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the memory that drivers take."""

    cases: tuple[str, ...] = tuple(CASES)
    inside: str | None = None
    """One case in this process, as a line of JSON."""
    remat: bool = False
    """The second table, too."""
    out: Path = Path(__file__).parent / "results" / "memory.json"


def main(config: Config) -> None:
    if config.inside:
        sys.stdout.write(json.dumps(measured(config.inside)) + "\n")
        return
    if config.remat:
        network, place = models.load("cifar10_resnet20"), config.out.with_stem("remat")
        rows = [stepped(name, network) for name in REMAT]
        files.write_json(place, {**runs.environment(), "rows": rows})
        files.write_text(place.with_suffix(".md"), report.markdown(
            ("step", "XLA states, MiB", "ms"), [[str(v) for v in r.values()] for r in rows]))
    rows = files.read_json(config.out)["rows"] if config.out.exists() else []
    for case in config.cases:
        done = subprocess.run([sys.executable, __file__, "--inside", case], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1]) | runs.environment()
        rows = [row for row in rows if row["case"] != case] + [found]
        files.write_json(config.out, {"rows": rows})
        files.write_text(config.out.with_suffix(".md"), report.markdown(HEAD, [
            [r["case"], str(r["images"]), str(r["asked_mib"]), r["chosen"], str(r["stated_mib"]),
             str(r["resident_mib"]), str(r["seconds"])] for r in rows]))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
