"""What a training step with a defence costs, in plain training steps: FLOPs by XLA's count, and time in turn with it.

    python benchmarks/training_steps.py           # 10 minutes on 2 quiet cores
    python benchmarks/training_steps.py --quick   # a smoke test

The gradient of the loss in the parameters for a batch, ResNet-20 with softplus, BatchNorm as it stands: cross entropy
alone ("plain"), and with each penalty from the same trace. "traced twice" is the Hessian penalty with a cross entropy
of its own trace, "forward over reverse" the same penalty by `jax.jvp` of the gradient: what to avoid. The limits count
convolutions, and what the first layer saves comes off. Writes results/training_steps.json and .md.
"""

import dataclasses
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from second_order import random_network
from xmanip_jax import defend, explain, models, smooth, train

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import files, runs
from common.cost_measures import compiled, interleaved


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure training steps."""

    network: str = "cifar10_resnet20"
    batch: int = 16
    repeats: int = 9
    inner: int = 3
    """Inner steps of Int and Adv; their cost grows by 2 forward passes a step."""
    quick: bool = False
    """Batch 2, the Small network, one repeat."""
    out: Path = Path(__file__).parent / "results" / "training_steps.json"


def jvp_hessian():
    """The Hessian penalty in the mode that costs more."""

    def core(f, x, y, key):
        v = jax.random.rademacher(key, x.shape, x.dtype)
        (_, product), logits = jax.jvp(jax.grad(lambda z: f(z)[y]), (x,), (v,)), f(x)
        return jnp.sum(product**2), logits

    return train.penalty(core)


def losses(inner, teacher):
    """{name: (terms of train.training_loss, weight of the cross entropy, limit in plain steps)}; F = 1 / 3 of one."""
    ascent, cam = train.Ascent(0.1, 0.05, inner), explain.cam("features")
    return {
        "plain": ((), 1.0, 1),
        "gradient norm": (((1.0, defend.gradient_norm()),), 1.0, 2),
        "gradient alignment": (((1.0, defend.gradient_alignment(radius=0.1)),), 1.0, 10 / 3),
        "hessian": (((1.0, defend.hessian()),), 1.0, 4),
        "hessian, 3 probes": (((1.0, defend.hessian(samples=3)),), 1.0, 8),
        "hessian, traced twice": (((1.0, train.no_penalty()), (1.0, defend.hessian())), 1.0, 14 / 3),
        "hessian, forward over reverse": (((1.0, jvp_hessian()),), 1.0, None),
        "cure": (((1.0, defend.cure(step=0.1)),), 1.0, 4),
        "atex, 2 shifts of 8": (((1.0, defend.atex(teacher, radius=0.1)),), 0.0, (20 + 2 + 16 * 3) / 3),
        f"int, {inner} inner steps": (((1.0, defend.interpretability(ascent, cam)),), 1.0, (2 * inner + 6) / 3),
        f"adversarial, {inner} inner steps": (((1.0, defend.adversarial(ascent)),), 1.0, (2 * inner + 3) / 3),
    }


def steps(config):
    """{name: (compiled gradient of the loss in the parameters, its FLOPs and memory, limit)}, and their arguments."""
    small = config.quick
    name, batch = ("small_cnn", 2) if small else (config.network, config.batch)
    spec = models.NETWORKS[name]
    act = lambda z: smooth.softplus_beta(z, 5.0)
    net, params, state = models.functional(random_network(spec, {"act": act}))
    xs = jax.random.normal(jax.random.key(0), (batch, spec.size, spec.size, spec.channels))
    ys, keys = jnp.arange(batch) % spec.num_classes, jax.random.split(jax.random.key(1), batch)
    found = {}
    for kind, (terms, label_weight, limit) in losses(config.inner, partial(net.apply, params, state)).items():
        loss = train.training_loss(*terms, label_weight=label_weight)
        step = jax.grad(lambda p, xs, loss=loss: loss(net.apply, p, state, xs, ys, keys)[0])
        found[kind] = (*compiled(step, params, xs), limit)
        print(f"{kind}: {found[kind][1]['flops'] / found['plain'][1]['flops']:.2f} plain steps", flush=True)
    return found, (params, xs)


def table(rows):
    """Markdown."""
    lines = ["| training step | FLOPs, plain steps | limit | time, plain steps | ms | MiB |", "|---" * 6 + "|"]
    for r in rows:
        limit = f"{r['limit']:.1f}" if r["limit"] else ""
        lines.append(f"| {r['name']} | {r['flop_ratio']:.2f} | {limit} | {r['time_ratio']:.2f} | {r['ms']:.0f} | "
                     f"{r['temporary_mib']:.0f} |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    found, arguments = steps(config)
    ms, times = interleaved({k: partial(run, *arguments) for k, (run, _, _) in found.items()},
                            1 if config.quick else config.repeats)
    plain = np.array(times["plain"])
    rows = [{"name": k, **of, "limit": limit, "ms": ms[k], "flop_ratio": of["flops"] / found["plain"][1]["flops"],
             "time_ratio": statistics.median(np.array(times[k]) / plain)} for k, (_, of, limit) in found.items()]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(config.out, {"config": runs.settings(config),
                                 **runs.environment(), "date": time.strftime("%Y-%m-%d"), "rows": rows})
    config.out.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
