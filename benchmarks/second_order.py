"""What second-order work costs: explanations and attack steps as multiples of a forward pass.

    python benchmarks/second_order.py                      # 30 minutes on 2 quiet cores
    python benchmarks/second_order.py --quick              # a smoke test

For every network, explanation and batch size: XLA's FLOP count, peak temporary memory, compile time and median time of
the forward pass, the explanation and the attack step of the SAME softplus network (hard max-pooling), a step being what
the driver runs: loss, gradient through the explanation, Adam, projection. Columns "map" and "step" are multiples of the
forward pass, "limit" what the convolutions of map / step cost at least; "time/FLOPs" is the time ratio over the FLOP
ratio of the step, starred above 1.25, where the computation wastes time that the forward pass does not.

Where torch is installed (`pip install torch==2.13.0`), a plain PyTorch implementation of the gradient step, checked in
float64 to compute the same gradient, is timed in turn with ours. Rows with another word than an explanation repeat the
gradient step with one thing changed, to say what costs. Writes results/second_order.json and .md.
"""

import dataclasses
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from xmanip_jax import explain, models, rewrite, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import cost_measures, files, runs
from common.named_explanations import EXPLANATIONS, Needs

SHARPNESS = 5.0  # of softplus, in units of the typical scale of an activation; any value costs the same
PEERS = "squeezenet1_1", "cifar10_resnet20", "vgg16", "resnet50"  # networks of torch_peer.py


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure FLOPs, memory, compile time and time."""

    networks: tuple[str, ...] = ("squeezenet1_1", "cifar10_resnet20", "vgg16")
    batches: tuple[int, ...] = (1, 8)
    explanations: tuple[str, ...] = cost_measures.EXPLANATIONS
    repeats: int = 7
    quick: bool = False
    """Small images, two repeats."""
    out: Path = Path(__file__).parent / "results" / "second_order.json"


def subject(name, side):
    """(module with random weights, what `models.functional` makes of it, its preprocessing, beta of its softplus)."""
    spec = models.NETWORKS[name]
    module = random_network(spec, {"input_size": side} if name.startswith("vgg") else {})
    net, *weights = models.functional(module)
    preprocess = lambda pixels: jnp.asarray(spec.scale) * pixels + jnp.asarray(spec.shift)
    x = preprocess(jax.random.uniform(jax.random.key(0), (side, side, spec.channels)))
    return module, net, tuple(weights), preprocess, sharpness(lambda x: net.apply(*weights, x), x)


def sharpness(f, x):
    """One beta for all activations, as the PyTorch peer takes it."""
    return SHARPNESS / float(jnp.median(smooth.activation_scales(f, x)))


def measure(config, name, batch, explanation, surrogate=None, peer=False):
    """One row: forward, explanation and attack step, and PyTorch's step beside ours when asked.

    surrogate: from a model to the network that all of them run; default: its softplus.
    """
    spec = models.NETWORKS[name]
    side = 64 if config.quick and spec.size > 64 else spec.size
    module, net, weights, preprocess, beta = subject(name, side)
    surrogate = surrogate or (lambda f: smooth.softplus(f, beta))
    pixels = jax.random.uniform(jax.random.key(0), (batch, side, side, spec.channels))
    patterns = None
    if explanation == "pattern_attribution":  # any patterns cost the same
        layers = rewrite.linear_layers(lambda x: net.apply(*weights, x))(preprocess(pixels[0]))
        patterns = {layer: np.asarray(v.w) for layer, v in layers.items()}
    low, high = np.array(spec.shift), np.array(spec.scale) + np.array(spec.shift)
    named, needs = EXPLANATIONS[explanation], Needs(low, high, patterns=patterns, **cost_measures.AVERAGES)
    run = cost_measures.functions(net.apply, preprocess, named.make(needs), surrogate, surrogate)
    gaps = []

    def step_of_peer(case):
        other = peer_of(name, module, beta, case)
        gaps.append(difference(run.loss, case, other))
        return other.step

    found = cost_measures.measured(run, weights, pixels, spec.num_classes, 2 if config.quick else config.repeats,
                                   step_of_peer if peer else None)
    if peer:
        torch = found.pop("peer")
        found["torch"] = {"ms": torch["ms"], "gradient_gap": gaps[0], "torch_over_jax": torch["over_ours"]}
    return {"network": name, "explanation": explanation, "batch": batch, "side": side,
            "limits": list(named.passes(needs)), **found}


def random_network(spec, options):
    """Random weights cost what trained ones do; He's scale keeps the activations away from ties and underflow."""
    module = spec.build(rngs=nnx.Rngs(0), **options)
    he = lambda path, v: v * 2**0.5 if "kernel" in jax.tree_util.keystr(path) else v
    nnx.update(module, jax.tree_util.tree_map_with_path(he, nnx.state(module, nnx.Param)))
    return module


def widened(module):
    """The module in float64."""
    nnx.update(module, jax.tree.map(lambda v: v.astype(jnp.float64), nnx.state(module)))
    return module


def check_peer(name):
    """PyTorch computes the same gradient, in float64, where rounding does not change the winners of a max-pooling."""
    with jax.enable_x64(True):
        spec = models.NETWORKS[name]
        side = min(spec.size, 64)
        module, _, _, preprocess, beta = subject(name, side)
        net, *weights = models.functional(widened(module))
        plain = lambda f: smooth.softplus(f, beta)
        run = cost_measures.functions(net.apply, preprocess, explain.gradient(), plain, plain)
        pixels = jax.random.uniform(jax.random.key(0), (2, side, side, spec.channels), jnp.float64)
        labels, keys = jnp.arange(2), jax.random.split(jax.random.key(1), 2)
        clean = run.explained(weights, pixels, labels, keys)
        case = cost_measures.Case(0.9 * pixels, weights, clean, jnp.roll(clean.heatmap, 1, 0), labels, keys)
        gap = difference(run.loss, case, peer_of(name, module, beta, case))
        if gap > 1e-6:
            raise AssertionError(f"{name}: the gradient of the peer's loss differs from ours by {gap:.1e} in float64")


def difference(loss, case, peer):
    """The relative difference of the gradients in the pixels, ours and the peer's before its first step."""
    gradient = jax.jit(jax.grad(loss))(*case)
    return float(np.linalg.norm(gradient - peer.loss_and_gradient()[1]) / np.linalg.norm(gradient))


def torch_tensors(module):
    """The module's weights with torch's names and layouts, which a file of them has."""
    with tempfile.TemporaryDirectory() as folder:
        models.save_weights(module, Path(folder) / "weights.safetensors")
        return models.read_tensors(Path(folder) / "weights.safetensors")


def peer_of(name, module, beta, case):
    import torch_peer as peer

    spec = models.NETWORKS[name]
    return peer.Peer(name, torch_tensors(module), beta, spec.scale, spec.shift, case.pixels, case.goal, case.labels,
                     case.clean.logits, 2e-3)


def ablations(name):
    """The same network with one thing changed; the difference to the plain row is what that thing costs."""
    spec = models.NETWORKS[name]
    _, net, weights, preprocess, beta = subject(name, min(spec.size, 64))
    image = jnp.zeros((min(spec.size, 64),) * 2 + (spec.channels,))
    there = rewrite.inspect(lambda x: net.apply(*weights, x), preprocess(image))
    total = lambda z, window: jax.lax.reduce_window(z, 0.0, jax.lax.add, *window)
    pooled = {
        "sums instead of max-pooling": lambda f: rewrite.replace(smooth.softplus(f, beta), {"max_pool": total}),
        "soft max-pooling (the driver's default)": lambda f: smooth.softplus(f, beta, max_pool=True)}
    square = {kind: lambda z, *_: z * z * 1e-3 + z for kind in there.activations}
    return {**(pooled if there.max_pools else {}),
            "square instead of softplus": lambda f: rewrite.replace(f, square)}


def table(rows):
    """Markdown."""
    head = ["network", "explanation", "batch", "forward ms", "limit", "map FLOPs", "map time", "step FLOPs",
            "step time", "time/FLOPs", "step ms", "MiB", "compile s", "torch ms", "torch/ours"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        f, e, s, t = r["forward"], r["map"], r["step"], r.get("torch")
        waste = s["time_ratio"] / s["flop_ratio"]
        cells = [r["network"], r.get("ablation") or r["explanation"], r["batch"], f"{f['ms']:.1f}",
                 "{:g} / {:g}".format(*r["limits"]), f"{e['flop_ratio']:.2f}", f"{e['time_ratio']:.2f}",
                 f"{s['flop_ratio']:.2f}", f"{s['time_ratio']:.2f}",
                 f"{waste:.2f}{' *' if waste > 1.25 else ''}", f"{s['ms']:.1f}", f"{s['temporary_mib']:.0f}",
                 f"{s['compile_s']:.1f}", f"{t['ms']:.1f}" if t else "", f"{t['torch_over_jax']:.2f}" if t else ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    runs.check_known("network", config.networks, models.NETWORKS)
    runs.check_known("explanation", config.explanations, EXPLANATIONS)
    has_torch = importlib.util.find_spec("torch") is not None
    print("" if has_torch else "torch is not installed: no peer (pip install torch==2.13.0)")
    rows = []

    def add(name, batch, explanation, **options):
        rows.append(measure(config, name, batch, explanation, **options))
        return rows[-1]

    for name in config.networks:
        has_peer, large = has_torch and name in PEERS, name.startswith("vgg")
        if has_peer:
            check_peer(name)
        for batch in config.batches:
            for explanation in ("gradient",) if large else config.explanations:
                add(name, batch, explanation, peer=has_peer and explanation == "gradient")
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            for label, surrogate in ablations(name).items() if not large or batch == 1 else ():
                add(name, batch, "gradient", surrogate=surrogate)["ablation"] = label
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            config.out.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(config.out, {"config": runs.settings(config),
                                         **runs.environment(), "date": time.strftime("%Y-%m-%d"), "rows": rows})
            config.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
