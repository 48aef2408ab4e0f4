"""What the first and the second start of a front door cost, and what compiling the steps of attacks does.

    python benchmarks/start_up.py                          # both tables, 20 minutes on 2 quiet cores
    python benchmarks/start_up.py --networks               # the starts alone

"Start" is `make demo` until the first verdict of its attack, in a process of its own: the first with an empty folder of
compiled programs, the second with what the first one left there. Seconds of the clock, and of the processor, which do
not count what other processes of the machine took.

"Step" is the attack step of every explanation, on the smooth surrogate that the driver climbs: seconds of the processor
for tracing it, for lowering that to XLA's language, and for XLA. Writes results/start_up.json and .md.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from second_order import random_network

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import cost_measures, files, named_explanations, runs
from common.named_explanations import EXPLANATIONS, Needs
from xmanip_jax import models, rewrite, smooth

ROOT = Path(__file__).parent.parent
# The program is the front door as far as it can tell, up to its first verdict.
UNTIL_THE_FIRST_VERDICT = """
import json, os, sys, time
door, started, *arguments = sys.argv[1:]
sys.path.insert(0, os.path.dirname(door))
sys.modules["__main__"].__file__ = door
import manipulate
from common import batches
imported = time.process_time()
def watching(bar, title, steps):
    def show(progress, goal):
        print(json.dumps({"clock_s": time.time() - float(started), "processor_s": time.process_time(),
                          "import_s": imported}), flush=True)
        os._exit(0)
    return lambda index, batches: show
batches.watching = watching
manipulate.run(arguments)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure starts and compilations."""

    networks: tuple[str, ...] = ("cifar10_resnet20", "squeezenet1_1", "efficientnet_lite0", "vgg16", "resnet50",
                                 "densenet121")
    """Networks whose attack steps are compiled."""
    explanations: tuple[str, ...] = cost_measures.EXPLANATIONS
    """Explanations that they attack."""
    demo: tuple[str, ...] = ("--size", "160")
    """What `make demo` passes to manipulate.py."""
    starts: int = 2
    """Pairs of a first and a second start; medians count."""
    out: Path = Path(__file__).parent / "results" / "start_up.json"


def start(cache, demo):
    """One start of the demo with a folder of compiled programs: {"clock_s", "processor_s", "import_s"}."""
    with tempfile.TemporaryDirectory() as folder:
        door = str(ROOT / "experiments" / "manipulate.py")
        done = subprocess.run([sys.executable, "-c", UNTIL_THE_FIRST_VERDICT, door, str(time.time()), *demo, "--out",
                               f"{folder}/run"], cwd=ROOT, env=environment(cache), capture_output=True, text=True,
                              check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def environment(cache):
    """That of this process, with another folder of compiled programs, and none of JAX's own choice."""
    kept = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k and "PERSISTENT_CACHE" not in k}
    return kept | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}


def starts(config):
    """The first and the second start, and how many times sooner the second is there."""
    pairs = []
    for _ in range(config.starts):
        with tempfile.TemporaryDirectory() as cache:
            pairs.append([start(cache, config.demo) for _ in range(2)])
            print(pairs[-1], flush=True)
    median = lambda i, key: float(np.median([pair[i][key] for pair in pairs]))
    first, second = ({key: median(i, key) for key in pairs[0][0]} for i in range(2))
    return {"first": first, "second": second, "pairs": pairs,
            **{f"ratio_{kind}": first[f"{kind}_s"] / second[f"{kind}_s"] for kind in ("clock", "processor")}}


def compilation(name, explanation):
    """Seconds of the processor of a network's attack step: {"trace_s", "lower_s", "xla_s"}."""
    spec = models.NETWORKS[name]
    net, *weights = models.functional(random_network(spec, {}))
    preprocess = lambda pixels: jnp.asarray(spec.scale) * pixels + jnp.asarray(spec.shift)
    pixels = jax.random.uniform(jax.random.key(0), (1, spec.size, spec.size, spec.channels))
    model, x = (lambda x: net.apply(*weights, x)), preprocess(pixels[0])
    low, high = np.array(spec.shift), np.array(spec.scale) + np.array(spec.shift)
    layers = rewrite.linear_layers(model)(x) if explanation == "pattern_attribution" else {}
    needs = Needs(low, high, "features", {k: np.asarray(v.w) for k, v in layers.items()}, **cost_measures.AVERAGES)
    surrogate = smooth.relative()
    scales = jax.eval_shape(surrogate.fit, model, x)
    run = cost_measures.functions(net.apply, preprocess, EXPLANATIONS[explanation].make(needs), lambda f: f, None)
    keys = jax.random.split(jax.random.key(1), 1)
    clean = jax.eval_shape(run.explained, weights, pixels, jnp.zeros(1, int), keys)
    state = pixels, cost_measures.OPTIMIZER.init(pixels)

    def step(scales, *arguments):
        climbed = cost_measures.functions(net.apply, preprocess, EXPLANATIONS[explanation].make(needs), lambda f: f,
                                          lambda f: surrogate.rewrite(f, scales, 0.0))
        return climbed.step(*arguments)

    marks = [time.process_time()]
    mark = lambda value: (marks.append(time.process_time()), value)[1]
    traced = mark(jax.jit(step).trace(scales, state, weights, clean, clean.heatmap, jnp.zeros(1, int), keys))
    mark(mark(traced.lower()).compile())
    return dict(zip(("trace_s", "lower_s", "xla_s"), np.diff(marks).tolist(), strict=True))


def row_of(name, explanation):
    """A row of the table of steps."""
    jax.clear_caches()
    try:
        found = compilation(name, explanation)
    except ValueError as error:
        return {"network": name, "explanation": explanation, "refused": str(error).splitlines()[0]}
    return {"network": name, "explanation": explanation, **found, "total_s": sum(found.values())}


def table(found):
    """Markdown."""
    lines = []
    if "start" in found:
        of = found["start"]
        lines += ["| `make demo` to its first verdict | clock s | processor s | of which imports |",
                  "|---|---|---|---|"]
        lines += [f"| {which} start | {of[which]['clock_s']:.1f} | {of[which]['processor_s']:.1f} | "
                  f"{of[which]['import_s']:.1f} |" for which in ("first", "second")]
        lines += [f"| first / second | {of['ratio_clock']:.2f} | {of['ratio_processor']:.2f} | |", ""]
    lines += ["| network | explanation | trace s | lower s | XLA s | total s |", "|---|---|---|---|---|---|"]
    for row in found["steps"]:
        cells = [f"{row[k]:.1f}" for k in ("trace_s", "lower_s", "xla_s", "total_s")] if "total_s" in row else [
            "refused", "", "", ""]
        lines.append(f"| {row['network']} | {row['explanation']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    runs.check_known("network", config.networks, models.NETWORKS)
    runs.check_known("explanation", config.explanations, named_explanations.EXPLANATIONS)
    jax.config.update("jax_enable_compilation_cache", False)
    found = {"config": runs.settings(config), **runs.environment(), "date": time.strftime("%Y-%m-%d")}
    found |= {"start": starts(config)} if config.starts else {}
    found["steps"] = []
    for name in config.networks:
        for explanation in config.explanations:
            found["steps"].append(row_of(name, explanation))
            print(table({"steps": found["steps"][-1:]}).splitlines()[-1], flush=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(config.out, found)
    config.out.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
