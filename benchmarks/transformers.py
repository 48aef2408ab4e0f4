"""What attacks on the explanations of transformers cost: in forward passes, against the limit, and beside PyTorch.

    python benchmarks/transformers.py                      # FLOPs of all, times of the gradient step
    python benchmarks/transformers.py --no-time            # FLOPs and memory only: nothing large is run
    python benchmarks/transformers.py --quick              # a smoke test

Random weights, in the published shapes. Products of two activations reverse at double cost, twice in a step on the
gradient: its limit is 4 + 5 a forward passes, a the share of attention's two products in a forward pass; that of the
map is 2 + a. Where torch is installed (`pip install torch==2.13.0`), the same step with PyTorch's math attention, its
only one that differentiates twice, is timed in turn. The second table is of a long sequence: what each policy keeps
between the passes, and what it computes again. Writes results/transformers.json and .md.
"""

import dataclasses
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from second_order import difference, peer_of
from xmanip_jax import explain, models, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import cost_measures, files, runs

# name -> (tokens, width, blocks) of the attention
SEQUENCES = {"vit_b_16": (197, 768, 12), "deit_tiny": (197, 192, 12), "cct_2_3x2_32": (64, 128, 2),
             "cct_7_3x1_32": (256, 256, 7), "convnext_tiny": (0, 0, 0)}
EXPLANATIONS = {"gradient": explain.gradient(), "gradient_x_input": explain.gradient_x_input(),
                "guided_backprop": explain.guided_backprop(),
                "integrated_gradients": explain.integrated_gradients(steps=5)}  # of 5 points
KEPT = {"everything": {}, "no attention matrix": {"attend": jax.checkpoint(models.explicit_attention)},
        "what enters a block": {"remat": True}}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure FLOPs, memory and time."""

    networks: tuple[str, ...] = tuple(SEQUENCES)
    batches: tuple[int, ...] = (1, 8)
    explanations: tuple[str, ...] = tuple(EXPLANATIONS)
    """Of which the first is counted for every batch, the others for the first batch."""
    time: bool = True
    """Run the gradient steps, too."""
    largest: float = 1e11
    """FLOPs of the largest forward pass that is timed."""
    repeats: int = 5
    sides: tuple[int, ...] = (256, 512)
    """Sides of the images of the second table, in patches of 16."""
    quick: bool = False
    """One small network, two repeats."""
    out: Path = Path(__file__).parent / "results" / "transformers.json"


def functions(net, preprocess, explanation, kinks):
    """Of a network: relu becomes softplus where there is any."""
    surrogate = (lambda f: smooth.softplus(f, 5.0)) if kinks else (lambda f: f)
    return cost_measures.functions(net.apply, preprocess, explanation, surrogate, surrogate)


def counted(run, weights, pixels, classes):
    """What `cost_measures.measured` counts, without a run: FLOPs, MiB and seconds of compiling."""
    labels, keys = jnp.arange(len(pixels)) % classes, jax.random.split(jax.random.key(1), len(pixels))
    clean = jax.eval_shape(run.explained, weights, pixels, labels, keys)
    state = (pixels, cost_measures.OPTIMIZER.init(pixels))
    parts = {"forward": (run.forward, (weights, pixels)), "map": (run.explained, (weights, pixels, labels, keys)),
             "step": (run.step, (state, weights, clean, clean.heatmap, labels, keys))}
    found = {name: cost_measures.compiled(f, *given)[1] for name, (f, given) in parts.items()}
    return {name: of | {"flop_ratio": of["flops"] / found["forward"]["flops"]} for name, of in found.items()}


def row(config, name, batch, explanation):
    """FLOPs of a network's explanation and attack step, and times beside PyTorch's where they are asked for."""
    spec = models.NETWORKS[name]
    module = spec.build(rngs=nnx.Rngs(0))
    net, *weights = models.functional(module)
    pixels = jax.random.uniform(jax.random.key(0), (batch, *spec.input_shape))
    run = functions(net, spec.preprocess, EXPLANATIONS[explanation], name.startswith("cct"))
    found = counted(run, tuple(weights), pixels, spec.num_classes)
    tokens, width, blocks = SEQUENCES[name]
    share = 4 * blocks * tokens**2 * width * batch / found["forward"]["flops"]
    gradient = explanation.startswith("gradient")
    if config.time and explanation == "gradient" and found["forward"]["flops"] <= config.largest:
        gaps = []

        def peer(case):
            other = peer_of(name, module, 1.0, case)
            gaps.append(difference(run.loss, case, other))
            return other.step

        beside = name in ("vit_b_16", "deit_tiny") and importlib.util.find_spec("torch") is not None
        found = cost_measures.measured(run, tuple(weights), pixels, spec.num_classes, config.repeats,
                                       peer if beside else None)
        if beside:
            found["peer"]["gradient_gap"] = gaps[0]
    return {"network": name, "explanation": explanation, "batch": batch, "attention": share,
            "limits": [2 + share, 4 + 5 * share] if gradient else None, **found}


def long_rows(config, side):
    """The gradient step on a small transformer of many tokens, for each policy."""
    pixels = jnp.zeros((1, side, side, 3))
    for kept, options in KEPT.items():
        build = partial(models.ViT, image_size=side, width=64, depth=4, heads=4, mlp=256, num_classes=10)
        net, *weights = models.functional(build(**options, rngs=nnx.Rngs(0)))
        found = counted(functions(net, lambda x: x, explain.gradient(), False), tuple(weights), pixels, 10)
        yield {"tokens": (side // 16) ** 2 + 1, "kept": kept, **found}


def table(rows):
    """Markdown, of the networks."""
    head = ["network", "explanation", "batch", "attention", "map FLOPs", "step FLOPs", "limit", "step MiB",
            "forward ms", "step ms", "step time", "torch ms", "torch/ours"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        step, limit, peer = r["step"], r["limits"], r.get("peer")
        times = (r["forward"]["ms"], step["ms"], step["time_ratio"]) if "ms" in step else ()
        cells = [r["network"], r["explanation"], r["batch"], f"{r['attention']:.3f}", f"{r['map']['flop_ratio']:.2f}",
                 f"{step['flop_ratio']:.2f}", f"{limit[1]:.2f}" if limit else "", f"{step['temporary_mib']:.0f}",
                 *([f"{value:.2f}" for value in times] or [""] * 3),
                 f"{peer['ms']:.1f}" if peer else "", f"{peer['over_ours']:.2f}" if peer else ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def long_table(rows):
    """Markdown, of the policies."""
    lines = ["| tokens | kept between the passes | step MiB | step FLOPs, in forward passes |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r['tokens']} | {r['kept']} | {r['step']['temporary_mib']:.0f} | "
                                f"{r['step']['flop_ratio']:.2f} |" for r in rows)]) + "\n"


def main(config: Config) -> None:
    if config.quick:
        config = dataclasses.replace(config, networks=("cct_2_3x2_32",), batches=(1,), repeats=2, sides=(64,))
    runs.check_known("network", config.networks, SEQUENCES)
    runs.check_known("explanation", config.explanations, EXPLANATIONS)
    rows, policies = [], []
    for name in config.networks:
        for batch in config.batches:
            for explanation in config.explanations if batch == config.batches[0] else config.explanations[:1]:
                rows.append(row(config, name, batch, explanation))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    for side in config.sides:
        for found in long_rows(config, side):
            policies.append(found)
            print(long_table([found]).splitlines()[-1], flush=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(config.out, {"config": runs.settings(config), **runs.environment(),
                                 "date": time.strftime("%Y-%m-%d"), "rows": rows, "policies": policies})
    config.out.with_suffix(".md").write_text(table(rows) + "\n" + long_table(policies))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
