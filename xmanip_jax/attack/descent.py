"""The attack on the input: one jitted step in a host loop, the best iterate judged under the original model."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import explain, objectives, smooth
from ..arguments import check_count, check_positive
from ..devices import fetched, spread
from ..memory import Budget
from ..objectives import View, viewing
from ..programs import Machine, Part, Program, in_parts
from ..types import (
    AnyArray,
    Array,
    ArrayLike,
    Channels,
    Constraint,
    Explanation,
    Float,
    Heat,
    Int,
    Integer,
    Manipulate,
    Model,
    Nested,
    Objective,
    RandomKey,
)
from . import checks
from . import constraint as constraints
from .best import Best, better
from .checks import Lifted
from .diagnosis import check_finite, check_moving, sharp, warn_of_broken

__all__ = ["DEFAULT_OBJECTIVE", "Manipulated", "Progress", "manipulation"]

# Match the goal's heat map, keep the output.
DEFAULT_OBJECTIVE = objectives.weighted((1.0, objectives.match_map()), (1.0, objectives.keep_output()))


class Manipulated(NamedTuple):
    """The outcome of an attack, batched; every value belongs to the ORIGINAL model at the best iterate."""

    pixels: Float[Array, " b *shape"]  # in [0, 1]
    heatmap: Float[Array, " b *places"]  # one value for each place
    logits: Float[Array, "b classes"]
    clean: View  # the start, batched
    loss: Float[Array, " b"]  # the objective
    step: Int[Array, " b"]  # when the best iterate was found; 0: no admissible iterate beat the clean image


class Progress(NamedTuple):
    """What a callback is told, on the host: numpy arrays over the batch."""

    step: int
    steps: int
    loss: np.ndarray  # under the surrogate, at the current iterate
    best: np.ndarray  # under the original model, at the best iterate
    heatmap: np.ndarray  # of the best iterate
    done: np.ndarray  # images that stopped early
    images: slice = slice(None)  # of the batch: those that are attacked now, where they do not fit the memory together


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What an attack is asked to do, with any model and images; see `manipulation`."""

    look: Callable[..., View]
    judge: Callable[..., View]  # as look, for the verdict
    objective: Objective
    project: Constraint
    surrogate: smooth.Surrogate
    optimizer: optax.GradientTransformation
    accept: Callable[[View, View, Any], Array]
    stop: Callable[[View, View, Any], Array] | None
    steps: int

    def progress(self, i: Array) -> Array:
        """Of the surrogate, from 0 to 1."""
        return jnp.minimum(i / max(self.steps - 1, 1), 1)


class Case(NamedTuple):
    """One image: what does not change from step to step."""

    clean: View
    goal: Array | None
    label: Array
    key: Array
    settings: Any  # of the surrogate


class State(NamedTuple):
    """One image on its way."""

    pixels: Array
    optimizer: Any
    best: Best  # its value is minus the objective, its `along` the step
    done: Array
    loss: Array  # under the surrogate
    moving: Array
    broken: Array  # the step whose gradient was not finite, or -1: there the image stops


def begin(p: Problem, network: Lifted, pixels: Float[AnyArray, "*shape"], goal: Any, label: Array,
          key: RandomKey) -> tuple[Case, Best]:
    """The image before any step, which is the first candidate for the best."""
    settings = p.surrogate.fit(network.model, network.preprocess(pixels))
    clean = p.judge(*network, pixels, label, key)
    return Case(clean, goal, label, key, settings), Best(clean, -p.objective(clean, clean, goal),
                                                         jnp.zeros((), jnp.int32))


def anchored(p: Problem, network: Lifted, case: Case, i: Array) -> Case:
    """The clean image as the surrogate classifies it: what the outputs of the next steps are held to."""
    f = p.surrogate.rewrite(network.model, case.settings, p.progress(i))
    return case._replace(clean=case.clean._replace(logits=f(network.preprocess(case.clean.pixels))))


def start(p: Problem, clean: Array, key: Array, best: Best, done: Array, noise: Array) -> State:
    """A start within `noise` of the clean pixels."""
    pixels = p.project(clean + jax.random.uniform(key, clean.shape, clean.dtype, -noise, noise), clean)
    return State(pixels, p.optimizer.init(pixels), best, done, jnp.zeros_like(best.value), jnp.array(True),
                 jnp.array(-1, jnp.int32))


def step(p: Problem, network: Lifted, state: State, case: Case, i: Array) -> State:
    """One step of the optimiser on the surrogate, unless the image has stopped."""

    def loss(pixels):
        f = p.surrogate.rewrite(network.model, case.settings, p.progress(i))
        now = p.look(f, network.preprocess, pixels, case.label, jax.random.fold_in(case.key, i))
        return p.objective(now, case.clean, case.goal)

    value, gradient = jax.value_and_grad(loss)(state.pixels)
    update, optimizer = p.optimizer.update(gradient, state.optimizer, state.pixels)
    pixels = p.project(optax.apply_updates(state.pixels, update), case.clean.pixels)
    sound = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    broken = jnp.where((state.broken < 0) & ~sound, i, state.broken)
    moved = state._replace(pixels=pixels, optimizer=optimizer, loss=value)
    kept = jax.tree.map(partial(jnp.where, state.done | (broken >= 0)), state, moved)
    return kept._replace(moving=jnp.any(gradient != 0), broken=jnp.where(state.done, state.broken, broken))


def map_moves(p: Problem, network: Lifted, case: Case) -> Array:
    """Whether the objective moves with the heat map, for a surrogate that leaves the model as it is.

    The gradient of keep_output is zero at the clean image up to rounding: the whole objective's need not be exactly.
    """
    pixels = case.clean.pixels
    seen = lambda pixels: p.look(*network, pixels, case.label, jax.random.fold_in(case.key, 0))
    now = seen(pixels)
    pull = jax.grad(lambda h: p.objective(now._replace(heatmap=h), case.clean, case.goal))(now.heatmap)
    gradient = jax.grad(lambda pixels: jnp.sum(seen(pixels).heatmap * pull))(pixels)
    return jnp.any(gradient != 0) | jnp.all(pull == 0)


def judge(p: Problem, network: Lifted, state: State, case: Case, i: Array) -> State:
    """The verdict of the original model on the iterate."""
    now = p.judge(*network, state.pixels, case.label, case.key)
    accepted = p.accept(now, case.clean, case.goal)
    found = Best(now, -p.objective(now, case.clean, case.goal), i)
    done = state.done if p.stop is None else state.done | (accepted & p.stop(now, case.clean, case.goal))
    return state._replace(best=better(state.best, found, accepted & ~state.done), done=done)


def manipulation(
    explanation: Explanation, *, steps: int = 150, optimizer: optax.GradientTransformation | None = None,
    objective: Objective = DEFAULT_OBJECTIVE, constraint: Constraint | None = None,
    surrogate: smooth.Surrogate | None = None, judged_by: Explanation | None = None,
    accept: Callable[[View, View, Any], Array] = objectives.same_prediction,
    stop: Callable[[View, View, Any], Array] | None = None, judge_every: int = 10, restarts: int = 1,
    start_noise: float = 0.0, preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
    heat: Heat = explain.heatmap, devices: Sequence[jax.Device] | None = None, memory: int | str | Budget | None = None,
    precision: str | None = None,
) -> Manipulate:
    """An attack `manipulate(model, pixels, goal, *, labels=None, key, callback=None) -> Manipulated` on a batch.

    It minimises `objective` over the pixels by projected gradient steps on the surrogate model, whose outputs are held
    to its own at the clean image, and returns, for each image, the iterate with the lowest objective under the original
    model among those that `accept` admits. Images do not interact. One compilation serves all calls of one shape. Each
    call reads the model and preprocess anew, so a module that changed in place is attacked as it is; the arrays that
    they hold are arguments of the compiled step. Whatever else is passed here (the explanation, the objective, what
    they close over) is read once, when it is compiled.

    Args:
      explanation: what to manipulate, differentiated in every step.
      steps: gradient steps per restart.
      optimizer: any optax transformation of one image's pixels; default Adam at `default_learning_rate`.
      objective: `(now, clean, goal) -> Float[]`; default N^2 mse(heat map, goal) + KL(clean output, output).
      constraint: projection after each step, from `attack.constraint`; default the pixel box.
      surrogate: from `xmanip_jax.smooth`; default `smooth.relative()`.
      judged_by: the explanation of the verdict, when the attack uses a cheaper one (fewer integration steps, say).
      accept: which iterates count; default those that keep the predicted class.
      stop: `(now, clean, goal) -> Bool[]`, tested when judging; an image that meets it stops, all: the loop ends.
      judge_every: steps between two verdicts (2 forward passes each for a gradient).
      restarts: repetitions, the first from the clean image (plus `start_noise`), the others from noise.
      start_noise: half-width of the uniform noise added to the start, in pixels; restarts use at least 1/255.
      preprocess: pixels -> the network's input, one image; maps are taken at the network's input.
      channels: the axis of the network's input that heat maps sum over, None where every entry is a place of its own;
        by default the last of three or more axes, none of one or two (a sequence [t, c] says -1, channels first 0).
      heat: `(map, *, channels) -> heat map`, for example explain.over_max; match_map's default wants a sum of 1.
      devices: over which the images are spread; default where they lie.
      memory: bytes, or "2GiB", for each device: so many images, and points of an average, are computed at once as fit
        (docs/howto/memory.md), the others after them, with the same result up to rounding; default no limit.
      precision: of products, "float32", "tf32", "bf16" or "highest" (docs/howto/precision.md); default JAX's.

    The returned function takes
      model: f(x) -> logits;  pixels: Float[b, h, w, c] in [0, 1], or rows [b, n], sequences [b, t, c], volumes
        [b, d, h, w, c] ...; what has other units is scaled to [0, 1], and back in preprocess;
      goal: target heat maps Float[b, h', w'] that sum to 1, or None for objectives that have none;
      labels: Int[b], the classes explained; default the clean predictions;
      key: a typed PRNG key; one is split off for every image, and a fresh one drawn in every step;
      callback: called with a Progress at every verdict.

    Raises ValueError for bad input before any computation, NonFiniteError when the clean logits or map, or the gradient
    of the first step, are not finite, and ZeroGradientError when that gradient is zero everywhere, as it is for the
    gradient of a piecewise linear model without a surrogate. An image whose gradient is not finite later stops there,
    with one RuntimeWarning; its best iterate so far is what counts.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> net = lambda x: jnp.stack([jnp.sum(x**3), 0.0])  # of four numbers: a row of a table
    >>> rows, goal = jnp.array([[0.2, 0.4, 0.6, 0.8]]), jnp.full((1, 4), 0.25)
    >>> manipulate = attack.manipulation(explain.gradient(), steps=50, surrogate=smooth.none())
    >>> found = manipulate(net, rows, goal, key=jax.random.key(0))
    >>> apart = lambda view: float(jnp.abs(view.heatmap - goal).sum())
    >>> found.heatmap.shape, apart(found) < apart(found.clean)
    ((1, 4), True)
    """
    check_count(steps=steps, judge_every=judge_every, restarts=restarts)
    if not start_noise >= 0:
        raise ValueError(f"start_noise is not negative, got {start_noise}")
    look, judged = (viewing(e, channels=channels, heat=heat) for e in (explanation, judged_by or explanation))
    problem = Problem(look, judged, objective, constraint or constraints.box(), surrogate or smooth.relative(),
                      optimizer or default_optimizer(steps), accept, stop, steps)
    machine = Machine(devices, memory, precision)
    over = lambda f, *axes, **options: Program(partial(f, problem), *axes, **options)
    first, held, started = over(begin, None, 0, 0, 0, 0), over(anchored, None, 0, None), over(start, 0, 0, 0, 0, None)
    moves = over(map_moves, None, 0)
    stepped, verdict = (over(f, None, 0, 0, None, donate_argnums=1) for f in (step, judge))

    def manipulate(model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested, goal: Any = None, *,
                   labels: Integer[ArrayLike, " b"] | Nested | None = None, key: RandomKey,
                   callback: Callable[[Progress], None] | None = None) -> Manipulated:
        network, *batch, place = checks.prepared(model, problem.judge, preprocess, pixels, labels, goal, key=key,
                                                 machine=machine)
        return in_parts(partial(attacked, network, place, callback), batch, machine)

    def attacked(network, place, callback, batch, part):
        pixels, labels, goal, keys = spread(batch, place)
        case, best = spread(first(network, pixels, goal, labels, keys), place)  # constants are born on each device
        check_finite(case.clean)
        best = jax.tree.map(jnp.copy, best)  # the steps are given their state, and the clean image must outlive it
        done = spread(jnp.zeros(len(pixels), bool), place)
        for r in range(restarts):
            noise = max(start_noise, 1 / 255) if r else start_noise
            chance = jax.vmap(jax.random.fold_in, (0, None))(keys, steps + r)
            state = spread(started(pixels, chance, best, done, noise), place)
            for i in range(steps):
                if i % judge_every == 0:
                    anchor = spread(held(network, case, i + judge_every // 2), place)
                state = stepped(network, state, anchor, i)
                if i == r == 0:
                    if sharp(network, pixels[0], case.settings):
                        state = state._replace(moving=state.moving & moves(network, case))
                    check_moving(state, network, problem.surrogate, case, anchor.clean)
                if (i + 1) % judge_every == 0 or i + 1 == steps:
                    state = verdict(network, state, case, r * steps + i + 1)
                    if callback:
                        callback(_told(state, r * steps + i + 1, restarts * steps, part))
                    if stop is not None and bool(state.done.all()):
                        break
            best, done = state.best, state.done
            warn_of_broken(state, steps)
        return Manipulated(*best.view, case.clean, -best.value, best.along)  # type: ignore[call-arg]  # miscounted

    return manipulate


def _told(state, step, steps, part: Part):
    best = state.best
    now = fetched((state.loss, -best.value, best.view.heatmap, state.done))
    loss, value, heatmap, done = (v[:part.stop - part.start] for v in now)
    return Progress(part.number * steps + step, part.parts * steps, loss, value, heatmap, done,
                    slice(part.start, part.stop))


def default_optimizer(steps: int, learning_rate: float = 2e-3) -> optax.GradientTransformation:
    """Adam with a cosine decay to zero over `steps`; the rate is in pixels. Raises ValueError unless it is positive.

    >>> from xmanip_jax import attack, explain
    >>> longer = attack.default_optimizer(400, learning_rate=1e-2)
    >>> attacked = attack.manipulation(explain.gradient(), steps=400, optimizer=longer)
    """
    check_positive(learning_rate=learning_rate)
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
