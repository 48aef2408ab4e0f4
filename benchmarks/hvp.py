"""What a Hessian-vector product costs in forward passes, PyTorch's double backward beside it.

    python benchmarks/hvp.py                      # 10 minutes on 2 quiet cores
    python benchmarks/hvp.py --quick              # a smoke test

ResNet-20 with softplus at several batch sizes, a logit of each image. "probes" is `geometry.hvps` with 8 vectors at
one image; its limit is 2 + 2 n forward passes, the primal being shared. Where torch is installed, its product, checked
in float64 to be the same, is timed in turn with ours. Writes results/hvp.json and .md.
"""

import dataclasses
import importlib.util
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from second_order import random_network, sharpness, torch_tensors, widened
from xmanip_jax import geometry, models, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import files, runs
from common.cost_measures import compiled, interleaved

MODES = "forward_over_reverse", "reverse_over_forward", "reverse_over_reverse"
PROBES = 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure Hessian-vector products."""

    network: str = "cifar10_resnet20"
    batches: tuple[int, ...] = (1, 32, 128)
    repeats: int = 15
    quick: bool = False
    """Batch 2, two repeats."""
    out: Path = Path(__file__).parent / "results" / "hvp.json"


def logit(net, beta):
    """weights -> the logit of class 0 of one image."""
    return lambda weights: lambda x: smooth.softplus(lambda x: net.apply(*weights, x), beta)(x)[0]


def product(g, mode):
    """(weights, xs, vs) -> Hessian-vector products of a batch."""
    return jax.vmap(lambda weights, x, v: geometry.hvp(g(weights), x, v, mode=mode), in_axes=(None, 0, 0))


def torch_product(name, module, beta, xs, vs):
    """() -> the same products by differentiating the gradient again."""
    import torch

    import torch_peer as peer

    tensor = lambda v: peer.tensors(np.array(v), getattr(torch, str(np.asarray(xs).dtype)))
    weights = {k: tensor(v) for k, v in torch_tensors(module).items()}
    x = tensor(np.transpose(xs, (0, 3, 1, 2))).contiguous().requires_grad_()
    v = tensor(np.transpose(vs, (0, 3, 1, 2))).contiguous()

    def product():
        score = peer.NETWORKS[name](weights, peer.softplus(beta), x)[:, 0].sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return torch.autograd.grad(gradient, x, grad_outputs=v)[0].permute(0, 2, 3, 1).cpu().numpy()

    return product


def check_peer(name):
    """PyTorch computes the same product, in float64."""
    with jax.enable_x64(True):
        module = widened(random_network(models.NETWORKS[name], {}))
        net, *weights = models.functional(module)
        xs, vs = jax.random.normal(jax.random.key(0), (2, 2, 32, 32, 3), jnp.float64)
        beta = sharpness(lambda x: net.apply(*weights, x), xs[0])
        ours = jax.jit(product(logit(net, beta), MODES[0]))(weights, xs, vs)
        gap = np.linalg.norm(torch_product(name, module, beta, xs, vs)() - ours) / np.linalg.norm(ours)
        if gap > 1e-7:  # its softplus is linear beyond 20
            raise AssertionError(f"the peer's product differs from ours by {gap:.1e} in float64")


def measure(config, batch, peer):
    """One row: the forward pass, the products in every mode, at batch 1 those that share a point, PyTorch's."""
    name = config.network
    module = random_network(models.NETWORKS[name], {})
    net, *weights = models.functional(module)
    xs, vs = jax.random.normal(jax.random.key(0), (2, batch, *[models.NETWORKS[name].size] * 2, 3))
    beta = sharpness(lambda x: net.apply(*weights, x), xs[0])
    g = logit(net, beta)
    runs_of = {"forward": (lambda w, xs: jax.vmap(g(w))(xs), (weights, xs)),
               **{mode: (product(g, mode), (weights, xs, vs)) for mode in MODES}}
    if batch == 1:
        many = jax.random.normal(jax.random.key(1), (PROBES, *xs.shape[1:]))
        runs_of["probes"] = (lambda w, x, v: geometry.hvps(g(w), x, v), (weights, xs[0], many))
    found = {k: compiled(f, *arguments) for k, (f, arguments) in runs_of.items()}
    calls = {k: lambda run=run, a=runs_of[k][1]: run(*a) for k, (run, _) in found.items()}
    if peer:
        calls["torch"] = torch_product(name, module, beta, xs, vs)
    ms, times = interleaved(calls, 2 if config.quick else config.repeats)
    row = {"network": name, "batch": batch, "torch_ms": ms.get("torch")}
    for k, (_, of) in found.items():
        row[k] = {**of, "ms": ms[k], "flop_ratio": of["flops"] / found["forward"][1]["flops"],
                  "time_ratio": ms[k] / ms["forward"]}
        if peer and k in MODES:
            row[k]["torch_over_jax"] = statistics.median(t / s for t, s in zip(times["torch"], times[k], strict=True))
    return row


def table(rows):
    """Markdown."""
    lines = ["| batch | product | FLOPs, forward passes | time, forward passes | ms | MiB | PyTorch's time / ours |",
             "|---|---|---|---|---|---|---|"]
    for r in rows:
        for kind in (*MODES, "probes"):
            if k := r.get(kind):
                other = f"{k['torch_over_jax']:.2f}" if "torch_over_jax" in k else ""
                cells = [r["batch"], kind.replace("_", " "), f"{k['flop_ratio']:.2f}", f"{k['time_ratio']:.2f}",
                         f"{k['ms']:.1f}", f"{k['temporary_mib']:.0f}", other]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    peer = importlib.util.find_spec("torch") is not None
    print("" if peer else "torch is not installed: no peer (pip install torch==2.13.0)")
    if peer:
        check_peer(config.network)
    rows = []
    for batch in (2,) if config.quick else config.batches:
        rows.append(measure(config, batch, peer))
        print(table(rows[-1:]), flush=True)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(config.out, {"config": runs.settings(config),
                                     **runs.environment(), "date": time.strftime("%Y-%m-%d"), "rows": rows})
        config.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
