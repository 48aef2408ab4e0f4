"""How much of a device attacks, curvature and explanations use: shares of the roofline measured in the same run.

    python benchmarks/accelerator.py               # under 10 minutes, on whatever device there is
    python benchmarks/accelerator.py --small       # a smoke test

For every network, precision and batch size: forward pass, attack step on the gradient, Hessian-vector product,
training step with a Hessian penalty, integrated gradients of 30 points, LRP z+; milliseconds, images a second, and the
share of the roofline: the operations of the forward pass, as XLA counts them, times the passes that the work takes at
least, over the time, over the speed of a large product of matrices in the same precision. "float32" computes products
in full, "tf32" in TensorFloat-32 where the device has it, "bfloat16" has weights and images of that type. Softplus
networks with random weights, which cost what any do; beside them, where torch is installed, PyTorch eager on the same
device.

The batch sizes and precisions that matter most come first; what does not fit into the memory, is refused, or is left
when --minutes are over, is said in the results. Writes results/accelerator_<device>.json and .md.
"""

import dataclasses
import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from second_order import PEERS, SHARPNESS, random_network, torch_tensors
from xmanip_jax import defend, explain, geometry, models, smooth, train

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import cost_measures, files, runs

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}  # and JAX's names of products
PASSES = {"forward": 1, "attack step": 4, "hvp": 4, "hessian penalty step": 12, "integrated gradients, 30": 60,
          "lrp z+": 3}  # at least
SECONDS = 0.2  # of one measurement


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure a device."""

    networks: tuple[str, ...] = ("resnet50", "vgg16", "cifar10_resnet20", "vit_b_16")
    """Networks of xmanip_jax.models; those that it does not have are left out, and said to be."""
    batches: tuple[int, ...] = (64, 1, 256, 8)
    """Numbers of images, the first of which is measured in every precision."""
    precisions: tuple[str, ...] = ("tf32", "float32", "bfloat16")
    """float32, tf32 and bfloat16, the first of which is measured at every batch size."""
    minutes: float = 9.0
    """Nothing is begun after that."""
    matrix: int = 8192
    """Side of the matrices whose product is the roofline."""
    small: bool = False
    """Two images, a small network, matrices of 256."""
    out: Path = Path(__file__).parent / "results"


class Subject(NamedTuple):
    """A network with softplus in one precision: weights (params, state), its module, pixels -> input, its input shape.

    model(weights, x) -> logits.
    """

    net: models.Net
    weights: tuple
    module: object
    preprocess: object
    shape: tuple
    dtype: object

    def model(self, weights, x):
        return smooth.softplus(lambda x: self.net.apply(*weights, x), SHARPNESS)(x)


def subject(name, precision):
    """The network of a name; its weights and images are bfloat16 in that precision."""
    spec = models.NETWORKS[name]
    module = random_network(spec, {})
    net, *weights = models.functional(module)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    cast = lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v
    scale, shift = (jnp.asarray(v, dtype) for v in (spec.scale, spec.shift))
    preprocess = lambda p: scale * p + shift
    return Subject(net, tuple(jax.tree.map(cast, weights)), module, preprocess, spec.input_shape, dtype)


def work(of, batch):
    """{operation: (function, arguments)} of a batch."""
    pixels = jax.random.uniform(jax.random.key(0), (batch, *of.shape), of.dtype)
    keys, labels = jax.random.split(jax.random.key(1), batch), jnp.zeros(batch, int)
    xs = jax.vmap(of.preprocess)(pixels)
    each = lambda f, *axes: jax.vmap(f, in_axes=(None, *axes))
    smoothed = lambda f: smooth.softplus(f, SHARPNESS)
    attack = cost_measures.functions(of.net.apply, of.preprocess, explain.gradient(), smoothed, smoothed)
    clean = jax.eval_shape(attack.explained, of.weights, pixels, labels, keys)
    clean = jax.tree.map(lambda s: jax.random.uniform(jax.random.key(2), s.shape, s.dtype), clean)
    clean = clean._replace(heatmap=clean.heatmap / clean.heatmap.sum(range(1, clean.heatmap.ndim), keepdims=True))
    loss = train.training_loss((1.0, defend.hessian()))
    soft = of.net._replace(apply=lambda params, state, x: of.model((params, state), x))
    chunk = max(1, min(30, 64 // batch))
    mapped = lambda e: each(lambda w, x: e(partial(of.model, w), x, 0), 0)
    return {
        "forward": (each(of.model, 0), (of.weights, xs)),
        "attack step": (attack.step, ((pixels, cost_measures.OPTIMIZER.init(pixels)), of.weights, clean, clean.heatmap,
                                      labels, keys)),
        "hvp": (each(lambda w, x, v: geometry.hvp(lambda z: of.model(w, z)[0], x, v), 0, 0), (of.weights, xs, xs)),
        "hessian penalty step": (lambda params, state, xs: jax.grad(
            lambda p: loss(soft.apply, p, state, xs, labels, keys)[0])(params), (*of.weights, xs)),
        "integrated gradients, 30": (mapped(explain.integrated_gradients(steps=30, chunk=chunk)), (of.weights, xs)),
        "lrp z+": (mapped(explain.lrp(conv=explain.z_plus(), sums=explain.z_plus())), (of.weights, xs)),
    }


def prepared(f, arguments, precision):
    """The compiled function, or why there is none."""
    with jax.default_matmul_precision(PRECISIONS[precision]):
        try:
            return jax.jit(f).lower(*arguments).compile()
        except Exception as error:  # what a device or the library refuses is a result here
            return str(error).splitlines()[0]


def milliseconds(call):
    """Of a call: the shortest of three turns."""
    jax.block_until_ready(call())
    loops = 1 + int(SECONDS * 1e3 / 3 / cost_measures.timed(call, 1))
    return min(cost_measures.timed(call, loops) for _ in range(3))


def measured(call):
    """Milliseconds of a call, or why there are none."""
    try:
        return milliseconds(call)
    except Exception as error:  # memory, above all
        return str(error).splitlines()[0]


def roofline(n, precision):
    """Operations a second of a product of matrices of side n."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
    run = prepared(jnp.matmul, (a, b), precision)
    return 2 * n**3 / (milliseconds(lambda: run(a, b)) / 1e3)


def operations(of):
    """What XLA counts in a forward pass of one image."""
    x = jax.ShapeDtypeStruct(of.shape, of.dtype)
    return jax.jit(of.model).lower(of.weights, x).cost_analysis()["flops"]


def peer_of(name, of, batch, precision):
    """{operation: milliseconds or why there are none} of PyTorch eager."""
    import torch

    import torch_peer

    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    spec, classes = models.NETWORKS[name], models.NETWORKS[name].num_classes
    pixels = np.random.default_rng(0).uniform(size=(batch, *of.shape)).astype(np.float32)
    goal = np.full((batch, *of.shape[:2]), 1 / np.prod(of.shape[:2]), np.float32)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        other = torch_peer.Peer(name, torch_tensors(of.module), SHARPNESS, spec.scale, spec.shift, pixels, goal,
                                np.zeros(batch, int), np.zeros((batch, classes), np.float32), 2e-3, dtype)
    except Exception as error:  # memory, above all
        return dict.fromkeys(("forward", "attack step"), str(error).splitlines()[0])
    return {"forward": measured(other.forward), "attack step": measured(other.step)}


def rows_of(name, batch, precision, speed, peer):
    """The rows of a network, a batch size and a precision; programs are compiled side by side, measured in turn."""
    of = subject(name, precision)
    jobs, flops = work(of, batch), operations(of)
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda job: prepared(*job, precision), jobs.values()))
    others = peer_of(name, of, batch, precision) if peer and name in PEERS else {}
    rows = []
    for (operation, (_, arguments)), run in zip(jobs.items(), programs, strict=True):
        ms = run if isinstance(run, str) else measured(partial(run, *arguments))
        row = {"network": name, "operation": operation, "precision": precision, "batch": batch}
        if isinstance(ms, str):
            rows.append(row | {"refused": ms})
            continue
        share = PASSES[operation] * flops * batch / (ms / 1e3) / speed
        row |= {"ms": ms, "images_per_s": 1e3 * batch / ms, "share_of_roofline": share}
        if operation in others:
            other = others[operation]
            row |= {"torch_refused": other} if isinstance(other, str) else {"torch_ms": other,
                                                                            "torch_over_jax": other / ms}
        rows.append(row)
    return rows


def table(rows):
    """Markdown."""
    lines = ["| network | precision | batch | operation | ms | images / s | share of roofline | torch / ours |",
             "|---" * 8 + "|"]
    for r in rows:
        value = lambda key, form, r=r: format(r[key], form) if key in r else ""
        lines.append(f"| {r['network']} | {r['precision']} | {r['batch']} | {r['operation']} | "
                     f"{value('ms', '.2f') or 'refused'} | {value('images_per_s', '.0f')} | "
                     f"{value('share_of_roofline', '.1%')} | {value('torch_over_jax', '.2f')} |")
    return "\n".join(lines) + "\n"


def cases(config):
    """(batch, precision, network) in the order of what matters most."""
    pairs = [(b, config.precisions[0]) for b in config.batches]
    pairs[1:1] = [(config.batches[0], p) for p in config.precisions[1:]]
    return [(*pair, name) for pair in pairs for name in config.networks if name in models.NETWORKS]


def main(config: Config) -> None:
    if config.small:
        config = dataclasses.replace(config, networks=("small_cnn",), batches=(2,), matrix=256)
    runs.check_known("precision", config.precisions, PRECISIONS)
    begun, peer = time.monotonic(), importlib.util.find_spec("torch") is not None
    print("" if peer else "torch is not installed: no peer")
    missing = [name for name in config.networks if name not in models.NETWORKS]
    speeds = {p: roofline(config.matrix, p) for p in config.precisions}
    found = {"config": runs.settings(config), **runs.environment(), "date": time.strftime("%Y-%m-%d"),
             "roofline_tflops": {p: v / 1e12 for p, v in speeds.items()},
             "left_out": [f"{name}: not in xmanip_jax.models" for name in missing], "rows": []}
    for batch, precision, name in cases(config):
        if time.monotonic() - begun > 60 * config.minutes:
            found["left_out"].append(f"{name}, batch {batch}, {precision}: the time was over")
            continue
        rows = rows_of(name, batch, precision, speeds[precision], peer)
        print("\n".join(table(rows).splitlines()[2:]), flush=True)
        found["rows"] += rows
    found["minutes"] = (time.monotonic() - begun) / 60
    device = "_".join(jax.devices()[0].device_kind.lower().split())
    config.out.mkdir(parents=True, exist_ok=True)
    files.write_json(config.out / f"accelerator_{device}.json", found)
    (config.out / f"accelerator_{device}.md").write_text(table(found["rows"]))
    print("\n".join(found["left_out"]))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
