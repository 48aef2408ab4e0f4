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
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from xmanip_jax import attack, explain, models, objectives, rewrite, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import runs

STEPS = 5  # of integrated gradients, and samples of SmoothGrad


class Method(NamedTuple):
    """make(box: the lowest and highest input, patterns) -> explanation; limits of map and step in forward passes."""

    make: Callable
    map: float
    step: float


EXPLANATIONS = {
    "gradient": Method(lambda box, patterns: explain.gradient(), 2, 4),
    "gradient_x_input": Method(lambda box, patterns: explain.gradient_x_input(), 2, 4),
    "integrated_gradients": Method(lambda box, patterns: explain.integrated_gradients(steps=STEPS),
                                   2 * STEPS, 4 * STEPS),
    "smoothgrad": Method(lambda box, patterns: explain.smoothgrad(
        explain.gradient(), sigma=0.1 * float(np.mean(box[1] - box[0])), samples=STEPS), 2 * STEPS + 1, 4 * STEPS + 2),
    "guided_backprop": Method(lambda box, patterns: explain.guided_backprop(), 2, 4),
    "lrp_epsilon": Method(lambda box, patterns: explain.lrp(conv=explain.epsilon(), sums=explain.z_plus()), 2, 4),
    "lrp_dombrowski2019": Method(lambda box, patterns: explain.lrp_dombrowski2019(*box), 3, 6),
    "lrp_alpha_beta": Method(lambda box, patterns: explain.lrp(conv=explain.alpha_beta(), sums=explain.z_plus()), 4, 8),
    "pattern_attribution": Method(lambda box, patterns: explain.pattern_attribution(patterns), 2, 4),
    "grad_cam": Method(lambda box, patterns: explain.grad_cam("features"), 1, 2),
}
BETA = {"squeezenet1_1": 0.5, "cifar10_resnet20": 30.0, "vgg16": 30.0}  # any value costs the same
OBJECTIVE = attack.DEFAULT_OBJECTIVE
OPTIMIZER = optax.adam(2e-3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure FLOPs, memory, compile time and time."""

    networks: tuple[str, ...] = ("squeezenet1_1", "cifar10_resnet20", "vgg16")
    batches: tuple[int, ...] = (1, 8)
    explanations: tuple[str, ...] = tuple(EXPLANATIONS)
    repeats: int = 7
    quick: bool = False
    """Small images, two repeats."""
    out: Path = Path(__file__).parent / "results" / "second_order.json"


def functions(name, spec, net, explanation, surrogate):
    """(forward, explain, step) of a batch, with parameters as arguments; surrogate(f) is the network they run."""
    scale, shift = (jnp.asarray(v) for v in (spec.scale, spec.shift))

    def view(params, state, pixels, label, key):
        f = surrogate(lambda x: net.apply(params, state, x))
        map, logits = explain.with_logits(explanation)(f, scale * pixels + shift, label, key=key)
        return objectives.View(pixels, explain.heatmap(map), logits)

    def forward(weights, pixels):
        return jax.vmap(lambda p: surrogate(lambda x: net.apply(*weights, x))(scale * p + shift))(pixels)

    def explained(weights, pixels, labels, keys):
        return jax.vmap(lambda *v: view(*weights, *v))(pixels, labels, keys)

    def loss(pixels, weights, clean, goal, labels, keys):
        one = lambda p, c, g, t, k: OBJECTIVE(view(*weights, p, t, k), c, g)
        return jax.vmap(one)(pixels, clean, goal, labels, keys).sum()

    def step(state, weights, clean, goal, labels, keys):
        pixels, optimizer = state
        value, gradient = jax.value_and_grad(loss)(pixels, weights, clean, goal, labels, keys)
        update, optimizer = OPTIMIZER.update(gradient, optimizer)
        return (jnp.clip(pixels + update, 0, 1), optimizer), value

    return forward, explained, step, loss


def compiled(f, *args, **options):
    start = time.perf_counter()
    run = jax.jit(f, **options).lower(*args).compile()
    cost, memory = run.cost_analysis(), run.memory_analysis()
    return run, {"flops": cost["flops"], "temporary_mib": memory.temp_size_in_bytes / 2**20,
                 "compile_s": time.perf_counter() - start}


def interleaved(calls, repeats):
    """Median milliseconds of each call, and all times: calls take turns, each for at least 50 ms a turn."""
    times, loops = {name: [] for name in calls}, {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        loops[name] = 1 + int(50 / timed(call, 1))
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call, loops[name]))
    return {name: statistics.median(t) for name, t in times.items()}, times


def timed(call, loops):
    """Milliseconds of a call."""
    start = time.perf_counter()
    for _ in range(loops):
        result = call()
    jax.block_until_ready(result)
    return 1e3 * (time.perf_counter() - start) / loops


def measure(config, name, batch, explanation, surrogate, peer=False):
    """One row: forward, explanation and attack step, and PyTorch's step beside ours when asked."""
    spec = models.NETWORKS[name]
    side = 64 if config.quick and spec.size > 64 else spec.size
    options = {"input_size": side} if name == "vgg16" else {}
    module = random_network(spec, options)
    net, *weights = models.functional(module)
    pixels = jax.random.uniform(jax.random.key(0), (batch, side, side, spec.channels))
    box = np.array(spec.shift), np.array(spec.scale) + np.array(spec.shift)
    patterns = None
    if explanation == "pattern_attribution":  # any patterns cost the same
        layers = rewrite.linear_layers(lambda x: net.apply(*weights, x))(pixels[0])
        patterns = {layer: np.asarray(v.w) for layer, v in layers.items()}
    method = EXPLANATIONS[explanation]
    forward, explained, step, loss = functions(name, spec, net, method.make(box, patterns), surrogate)
    labels, keys = jnp.arange(batch), jax.random.split(jax.random.key(1), batch)
    run_forward, of_forward = compiled(forward, weights, pixels)
    run_explained, of_explained = compiled(explained, weights, pixels, labels, keys)
    clean = run_explained(weights, pixels, labels, keys)
    goal = jnp.roll(jax.random.uniform(jax.random.key(2), clean.heatmap.shape), 1, 0)
    goal = goal / goal.sum((1, 2), keepdims=True)
    start = pixels + 0.01 * jax.random.normal(jax.random.key(3), pixels.shape)
    start = jnp.clip(start, 0, 1)
    state = [(jnp.copy(start), OPTIMIZER.init(start))]
    rest = weights, clean, goal, labels, keys
    run_step, of_step = compiled(step, state[0], *rest, donate_argnums=0)

    def one_step():
        state[0], value = run_step(state[0], *rest)
        return value

    calls = {"forward": lambda: run_forward(weights, pixels),
             "map": lambda: run_explained(weights, pixels, labels, keys)}
    if peer:
        other = peer_of(name, module, spec, start, goal, labels, clean)
        gap = difference(loss, (start, *rest), other)
        calls["torch"] = other.step
    ms, times = interleaved({**calls, "step": one_step}, 2 if config.quick else config.repeats)
    row = {"network": name, "explanation": explanation, "batch": batch, "side": side,
           "limits": [method.map, method.step]}
    for part, of in (("forward", of_forward), ("map", of_explained), ("step", of_step)):
        row[part] = {**of, "ms": ms[part], "flop_ratio": of["flops"] / of_forward["flops"],
                     "time_ratio": ms[part] / ms["forward"]}
    if peer:
        row["torch"] = {"ms": ms["torch"], "gradient_gap": gap, "torch_over_jax": statistics.median(
            t / s for t, s in zip(times["torch"], times["step"], strict=True))}
    return row


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
        module = widened(random_network(spec, {"input_size": side} if name == "vgg16" else {}))
        net, *weights = models.functional(module)
        plain = lambda f: smooth.softplus(f, BETA[name])
        _, explained, _, loss = functions(name, spec, net, explain.gradient(), plain)
        pixels = jax.random.uniform(jax.random.key(0), (2, side, side, spec.channels), jnp.float64)
        labels, keys = jnp.arange(2), jax.random.split(jax.random.key(1), 2)
        clean = explained(weights, pixels, labels, keys)
        goal, start = jnp.roll(clean.heatmap, 1, 0), 0.9 * pixels
        other = peer_of(name, module, spec, start, goal, labels, clean)
        gap = difference(loss, (start, weights, clean, goal, labels, keys), other)
        if gap > 1e-6:
            raise AssertionError(f"{name}: the gradient of the peer's loss differs from ours by {gap:.1e} in float64")


def difference(loss, arguments, peer):
    """The relative difference of the gradients in the pixels, ours and the peer's."""
    gradient = jax.jit(jax.grad(loss))(*arguments)
    return float(np.linalg.norm(gradient - peer.loss_and_gradient()[1]) / np.linalg.norm(gradient))


def torch_tensors(module):
    """The module's weights with torch's names and layouts, which a file of them has."""
    with tempfile.TemporaryDirectory() as folder:
        models.save_weights(module, Path(folder) / "weights.safetensors")
        return models.read_tensors(Path(folder) / "weights.safetensors")


def peer_of(name, module, spec, start, goal, labels, clean):
    import torch_peer as peer

    return peer.Peer(name, torch_tensors(module), BETA[name], spec.scale, spec.shift, start, goal, labels,
                     clean.logits, 2e-3)


def ablations(name):
    """The same network with one thing changed; the difference to the plain row is what that thing costs."""
    beta = BETA[name]
    total = lambda z, window: jax.lax.reduce_window(z, 0.0, jax.lax.add, *window)
    smoothed = lambda f: smooth.softplus(f, beta)
    pooled = {} if name == "cifar10_resnet20" else {
        "sums instead of max-pooling": lambda f: rewrite.replace(smoothed(f), {"max_pool": total}),
        "soft max-pooling (the driver's default)": lambda f: smooth.softplus(f, beta, max_pool=True)}
    return {**pooled, "square instead of softplus": lambda f: rewrite.replace(f, {"relu": lambda z: z * z * 1e-3 + z})}


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
    has_torch = importlib.util.find_spec("torch") is not None
    print("" if has_torch else "torch is not installed: no peer (pip install torch==2.13.0)")
    rows = []
    for name in config.networks:
        plain = lambda f, name=name: smooth.softplus(f, BETA[name])
        if has_torch:
            check_peer(name)
        for batch in config.batches:
            for explanation in config.explanations if name != "vgg16" else ("gradient",):
                gradient = explanation == "gradient"
                rows.append(measure(config, name, batch, explanation, plain, peer=gradient and has_torch))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            for label, surrogate in ablations(name).items() if name != "vgg16" or batch == 1 else ():
                rows.append({**measure(config, name, batch, "gradient", surrogate), "ablation": label})
                print(table(rows[-1:]).splitlines()[-1], flush=True)
            config.out.parent.mkdir(parents=True, exist_ok=True)
            runs.write_json(config.out, {"config": runs.settings(config),
                                         **runs.environment(), "date": time.strftime("%Y-%m-%d"), "rows": rows})
            config.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
