"""Many images, batch by batch: functions of one example, attacks, and the progress bar."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common import machines, report
from xmanip_jax import attack, explain
from xmanip_jax.programs import Machine, Program, in_parts

Keep = Callable[[int, Callable[[], Mapping]], dict[str, np.ndarray]]


def in_batches(compute: Callable[[slice, int], Any], count: int, batch: int,
               keep: Keep = lambda index, compute: compute()) -> Any:
    """All batches of `compute(slice, index) -> arrays`, a tree of them, joined.

    keep(index, compute) -> the arrays of one batch, read back or computed (see runs.finished).
    """
    parts = []
    for index, start in enumerate(range(0, count, batch)):
        part = slice(start, start + batch)
        parts.append(jax.tree.map(np.asarray, keep(index, partial(compute, part, index))))
    return jax.tree.map(lambda *p: np.concatenate(p), *parts)


def over(f: Callable, *arrays: np.ndarray, batch: int = 100, model=None) -> Any:
    """f of each example; its results, a tree of arrays, joined.

    f is compiled once, if it is the same object. model: the first argument of f, the same for all examples.
    """
    fixed = () if model is None else (model,)
    run = _mapped(f, (None,) * len(fixed) + (0,) * len(arrays))
    return in_batches(lambda part, index: run(*fixed, *machines.spread(tuple(a[part] for a in arrays))),
                      len(arrays[0]), batch)


@lru_cache(maxsize=64)
def _mapped(f, axes):
    return jax.jit(jax.vmap(f, in_axes=axes))


def logits(network, images: np.ndarray, model=None) -> np.ndarray:
    """Float[n, classes] of images as pixels;  model: in the place of the network's own."""
    return over(_logits(network.preprocess), images, model=network.model if model is None else model)


@lru_cache
def _logits(preprocess):
    return lambda model, p: model(preprocess(p))


def predict(network, images: np.ndarray) -> np.ndarray:
    """Int[n]: the predicted classes."""
    return logits(network, images).argmax(1)


def attack_batches(pair, network, images, targets, *, batch, seed, keep: Keep, watch, **options):
    """Attack each image towards the explanation of its target.

    Args:
      pair: the explanation that is attacked and the one that judges, see named_explanations.method.
      network: of models.load.
      images, targets: pixels Float[n, h, w, c] in [0, 1].
      batch: images attacked together;  seed: of their keys;  keep: as in `in_batches`.
      watch: (index, batches) -> show(progress, goal), which is called at every verdict of that batch.
      options: of attack.manipulation.

    Returns x, x_target, x_adv: Float[n, h, w, c]; y: Int[n], the classes explained; step: Int[n]; map_original,
    map_target, map_adv: heat maps Float[n, h', w'] of the original model; logits_original, logits_adv: Float[n, k].
    """
    attacked, judge = pair
    manipulate = attack.manipulation(attacked, judged_by=judge, preprocess=network.preprocess, **options)
    machine = Machine(None, options.get("memory"), options.get("precision"))

    @partial(Program, axes=(None, 0, 0))
    def target_map(model, pixels, key):
        x = network.preprocess(pixels)
        return explain.heatmap(judge(model, x, model(x).argmax(), key=key))

    def compute(part, index):
        x, x_target = machines.spread((images[part], targets[part]))
        key = jax.random.fold_in(jax.random.key(seed), index)
        goal = in_parts(lambda part, _: target_map(network.model, *part), (x_target, jax.random.split(key, len(x))),
                        machine)
        show = watch(index, -(-len(images) // batch))
        y = predict(network, x)
        result = manipulate(network.model, x, goal, labels=y, key=key, callback=lambda p: show(p, goal[p.images]))
        return {"x": x, "x_target": x_target, "x_adv": result.pixels, "y": y, "step": result.step,
                "map_original": result.clean.heatmap, "map_target": goal, "map_adv": result.heatmap,
                "logits_original": result.clean.logits, "logits_adv": result.logits}

    return in_batches(compute, len(images), batch, keep)


def progress(console: Console, *, transient: bool = False) -> Progress:
    """A progress bar with a status; transient: it vanishes when done."""
    return Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                    TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[status]}"), console=console,
                    transient=transient)


def watching(bar: Progress, title: str, steps: int):
    """A `watch` of `attack_batches`: each batch is a line of the bar, with its loss and the correlation of its maps."""

    def watch(index, batches):
        label = f"{title} {index + 1}/{batches}"
        task = bar.add_task(f"{label}: compiling", total=steps, status="")

        def show(p, goal):
            correlation = float(np.median(report.pearson(p.heatmap, goal)))
            bar.update(task, completed=p.step, total=p.steps, description=label,
                       status=f"loss {np.median(p.loss):.3f}  best {np.median(p.best):.3f}  r {correlation:.3f}")

        return show

    return watch


def counting(bar: Progress, title: str, total: int):
    """A `watch` without numbers: each batch is a line of the bar, which its `show()` moves on by one of `total`."""

    def watch(index, batches):
        task = bar.add_task(f"{title} {index + 1}/{batches}", total=total, status="")
        return lambda: bar.advance(task)

    return watch
