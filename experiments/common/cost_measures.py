"""What explanations and attack steps cost in forward passes: FLOPs, memory, compile time and time of a network."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from xmanip_jax import attack, devices, objectives

# By default, of named_explanations.EXPLANATIONS; and what of averages is counted.
EXPLANATIONS = ("gradient", "gradient_x_input", "integrated_gradients", "smoothgrad", "guided_backprop", "lrp_epsilon",
                "lrp", "lrp_alpha_beta", "pattern_attribution", "grad_cam")
AVERAGES = {"points": 5, "samples": 5, "chunk": None}
OBJECTIVE = attack.DEFAULT_OBJECTIVE
OPTIMIZER = optax.adam(2e-3)


class Functions(NamedTuple):
    """Of a batch, with weights, a tuple (params, state), as arguments.

    forward(weights, pixels) -> logits;  explained(weights, pixels, labels, keys) -> View;
    loss(pixels, weights, clean, goal, labels, keys) -> Float[], what a step lowers;
    step((pixels, optimizer state), weights, clean, goal, labels, keys) -> (both after it, loss).
    """

    forward: Callable
    explained: Callable
    loss: Callable
    step: Callable


def functions(apply: Callable, preprocess: Callable, explanation, seen: Callable, climbed: Callable) -> Functions:
    """What is measured. A step is what the driver runs: loss, gradient through the explanation, Adam, projection.

    apply(params, state, x) -> logits;  seen, climbed: from a model to the one that is explained, and attacked.
    """

    look = objectives.viewing(explanation)

    def view(surrogate, weights, pixels, label, key):
        return look(surrogate(lambda x: apply(*weights, x)), preprocess, pixels, label, key)

    def forward(weights, pixels):
        return jax.vmap(lambda p: seen(lambda x: apply(*weights, x))(preprocess(p)))(pixels)

    def explained(weights, pixels, labels, keys):
        return jax.vmap(lambda *v: view(seen, weights, *v))(pixels, labels, keys)

    def loss(pixels, weights, clean, goal, labels, keys):
        one = lambda p, c, g, t, k: OBJECTIVE(view(climbed, weights, p, t, k), c, g)
        return jax.vmap(one)(pixels, clean, goal, labels, keys).sum()

    def step(state, weights, clean, goal, labels, keys):
        pixels, optimizer = state
        value, gradient = jax.value_and_grad(loss)(pixels, weights, clean, goal, labels, keys)
        update, optimizer = OPTIMIZER.update(gradient, optimizer)
        return (jnp.clip(pixels + update, 0, 1), optimizer), value

    return Functions(forward, explained, loss, step)


def compiled(f: Callable, *args, **options) -> tuple[Callable, dict[str, float]]:
    """The compiled function, and its FLOPs, temporary memory and compile time."""
    start = time.perf_counter()
    run = jax.jit(f, **options).lower(*args).compile()
    cost, memory = run.cost_analysis(), run.memory_analysis()
    return run, {"flops": cost["flops"], "temporary_mib": memory.temp_size_in_bytes / 2**20,
                 "compile_s": time.perf_counter() - start}


def interleaved(calls: Mapping[str, Callable], repeats: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median milliseconds of each call, and all times: calls take turns, each for at least 50 ms a turn."""
    times, loops = {name: [] for name in calls}, {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        loops[name] = 1 + int(50 / timed(call, 1))
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call, loops[name]))
    return {name: statistics.median(t) for name, t in times.items()}, times


def timed(call: Callable, loops: int) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    for _ in range(loops):
        result = call()
    jax.block_until_ready(result)
    return 1e3 * (time.perf_counter() - start) / loops


class Case(NamedTuple):
    """A batch at an attack's first step: the arguments of `Functions.loss`."""

    pixels: Any
    weights: tuple
    clean: Any
    goal: Any
    labels: Any
    keys: Any


def measured(run: Functions, weights: tuple, pixels, classes: int, repeats: int,
             peer: Callable | None = None) -> dict[str, dict[str, float]]:
    """Of forward pass ("forward"), explanation ("map") and attack step ("step"): FLOPs, MiB, seconds and milliseconds.

    flop_ratio and time_ratio: in forward passes.  classes: of the network;  peer: Case -> a call that is timed in turn
    with the others ("peer": ms, and over_ours, its time over that of the step).
    """
    batch = len(pixels)
    beside = partial(devices.spread, place=devices.placed(pixels, None))
    weights = devices.on_each(weights, devices.placed(pixels, None))
    labels, keys = beside((jnp.arange(batch) % classes, jax.random.split(jax.random.key(1), batch)))
    run_forward, of_forward = compiled(run.forward, weights, pixels)
    run_explained, of_explained = compiled(run.explained, weights, pixels, labels, keys)
    clean = run_explained(weights, pixels, labels, keys)
    goal = jnp.roll(jax.random.uniform(jax.random.key(2), clean.heatmap.shape), 1, 0)
    goal = beside(goal / goal.sum(range(1, goal.ndim), keepdims=True))
    start = beside(jnp.clip(pixels + 0.01 * jax.random.normal(jax.random.key(3), pixels.shape), 0, 1))
    case = Case(start, weights, clean, goal, labels, keys)
    state = [(jnp.copy(start), OPTIMIZER.init(start))]
    run_step, of_step = compiled(run.step, state[0], *case[1:], donate_argnums=0)

    def one_step():
        state[0], value = run_step(state[0], *case[1:])
        return value

    calls = {"forward": lambda: run_forward(weights, pixels),
             "map": lambda: run_explained(weights, pixels, labels, keys)}
    if peer:
        calls["peer"] = peer(case)
    ms, times = interleaved({**calls, "step": one_step}, repeats)
    row = {}
    for part, of in (("forward", of_forward), ("map", of_explained), ("step", of_step)):
        row[part] = {**of, "ms": ms[part], "flop_ratio": of["flops"] / of_forward["flops"],
                     "time_ratio": ms[part] / ms["forward"]}
    if peer:
        row["peer"] = {"ms": ms["peer"], "over_ours": statistics.median(
            t / s for t, s in zip(times["peer"], times["step"], strict=True))}
    return row
