"""Certified bounds of a network's output and of its input gradient over a box of inputs.

Interval arithmetic forward and backward (Wicker et al. 2023), with the corrections that make it sound: the slope of
every activation, the first included, is bounded from the interval of its own input; a max-pooling's gradient goes to
every input that may be the largest, not to the one that is so at the centre; every result is rounded outwards.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..explain.base import select
from ..types import AnyArray, Array, ArrayLike, Float, Model, Num, Target
from . import forms
from .activations import Activation
from .affine import Affine
from .forms import Form
from .network import Layers, Product, read, relative_error
from .windows import Windows

__all__ = ["Box", "ball", "gradient_bounds", "output_bounds", "sizes"]


class Box(NamedTuple):
    """lower <= value <= upper, elementwise; arrays of one shape."""

    lower: Float[Array, "*shape"]
    upper: Float[Array, "*shape"]


def ball(x: Num[ArrayLike, "*shape"], radius: Num[ArrayLike, "..."], low: Num[ArrayLike, "..."] = -np.inf,
         high: Num[ArrayLike, "..."] = np.inf) -> Box:
    """The points within `radius` of `x` in each coordinate, and within [low, high].

    x: Float[h, w, c], the network's own input;  radius, low, high: broadcastable to it, in its unit (a budget in
    pixels is divided by the standard deviation of the preprocessing).

    Raises ValueError for a radius below 0.

    >>> ball(jnp.array([0.0, 1.0]), 0.25, 0.0, 1.0)
    Box(lower=Array([0.  , 0.75], dtype=float32), upper=Array([0.25, 1.  ], dtype=float32))
    """
    x = jnp.asarray(x)
    if not isinstance(radius, jax.core.Tracer) and np.any(np.asarray(radius) < 0):
        raise ValueError(f"the radius of a ball is not negative, got {radius}")
    return Box(jnp.clip(x - radius, low, high), jnp.clip(x + radius, low, high))


def output_bounds(f: Model, box: Box, *, linear: bool = False, weights: float = 0.0) -> Box:
    """What `f` can return over a box of inputs: Box of Float[classes]. Arguments and errors as `gradient_bounds`.

    >>> bounds = output_bounds(lambda x: jax.nn.relu(x).sum(), Box(jnp.array([-1.0, 0.0]), jnp.array([1.0, 2.0])))
    >>> round(float(bounds.lower), 3) + 0, round(float(bounds.upper), 3)
    (0.0, 3.0)
    """
    trace = forward(f, box, linear=linear, weights=weights)
    return trace.boxes[trace.network.result]


def gradient_bounds(f: Model, box: Box, target: Target, *, linear: bool = False, weights: float = 0.0) -> Box:
    """What the input gradient of a logit can be over a box of inputs, elementwise: Box of Float[h, w, c].

    Args:
      f: a model of dense layers, convolutions, sums, average and max-pooling, BatchNorm in inference, residuals,
        products, quotients and normalisations, and of activations: those of the table of known ones (all of jax.nn,
        found by what they compute), and every other whose range interval arithmetic finds. A derivative rule of the
        model's own counts, where it is elementwise and linear in what it pulls back.
      box: of inputs, for example `ball(x, 0.01)`;  target: a class or a direction over the logits.
      linear: follow the inputs themselves through the layers (one symbol for each, as zonotopes do) and intersect with
        the intervals: never wider, and d forward passes instead of 2 (d numbers in the input; memory d activations).
      weights: also for every weight and shift w of the merged linear layers anywhere in w -+ weights |w|.

    Costs 2 forward and 2 backward passes. vmap over boxes; differentiable, for training with it.

    Holds for the gradient in exact arithmetic, where relu'(0) = 0 as in jax, and for the one computed in the type of
    the box, whatever the order of summation: each number is widened by its number of terms times the type's epsilon.
    Convolutions are traced at the highest precision; a gradient measured in TF32 or bfloat16 may lie outside.

    Raises UnsupportedPrimitiveError naming every operation of the model for which no bound is known; ValueError for
    boxes of different shapes and targets out of range.

    >>> f = lambda x: jax.nn.relu(jnp.array([[1.0, 1.0], [2.0, -1.0]]) @ x)
    >>> bounds = gradient_bounds(f, ball(jnp.array([1.0, 1.9]), 0.1), 1)  # relu may be on or off
    >>> bounds.lower.round(3) + 0, bounds.upper.round(3)
    (Array([ 0., -1.], dtype=float32), Array([2., 0.], dtype=float32))
    """
    return gradient_over(forward(f, box, linear=linear, weights=weights), target)


def sizes(box: Box) -> Box:
    """Bounds of the absolute values."""
    return Box(jnp.maximum(jnp.maximum(box.lower, -box.upper), 0), jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper)))


class Trace(NamedTuple):
    """What is known of every value of a network, by its number: its box, and its form if inputs are followed linearly.

    plain: if linear, what intervals alone say;  weights: as in `gradient_bounds`.
    """

    network: Layers
    boxes: dict[int, Box]
    forms: dict[int, Form]
    plain: "Trace | None"
    weights: float


def forward(f: Model, box: Box, *, linear: bool, weights: float) -> Trace:
    """The values of `f` over a box of inputs."""
    box = Box(*map(jnp.asarray, box))
    if box.lower.shape != box.upper.shape:
        raise ValueError(f"a box has bounds of one shape, got {box.lower.shape} and {box.upper.shape}")
    plain = _forward(Trace(read(f, box.lower), {}, {}, None, weights), box)
    return _forward(plain._replace(boxes={}, plain=plain), box) if linear else plain


def _forward(trace, box):
    linear, image = trace.plain is not None, trace.network.image
    trace = trace._replace(boxes={image: box}, forms={image: forms.inputs(*box)} if linear else {})
    for step in trace.network.steps:
        boxes = [trace.boxes[n] for n in step.carried]
        push = lambda operands, step=step, boxes=boxes: _push(step, boxes, operands, trace.weights)
        found = _ends(step, boxes, trace.weights) or [
            Box(*forms.bounds(form)) for form in push([forms.of_bounds(*b) for b in boxes])]
        if linear:
            followed = push([trace.forms[n] for n in step.carried])
            trace.forms.update(zip(step.results, followed, strict=True))
            several = zip(found, followed, (trace.plain.boxes[n] for n in step.results), strict=True)
            found = [_both(_both(box, Box(*forms.bounds(form))), plain) for box, form, plain in several]
        trace.boxes.update(zip(step.results, found, strict=True))
    return trace


def gradient_over(trace: Trace, target: Target) -> Box:
    """`gradient_bounds` from what is known of the values."""
    image = trace.network.image
    zero = _zero(trace.boxes[image].lower)
    over = lambda linear: Box(*forms.bounds(backward(trace, target, linear=linear).get(image, zero)))
    return _both(_both(over(False), over(True)), gradient_over(trace.plain, target)) if trace.plain else over(False)


def backward(trace: Trace, target: Target, *, linear: bool = False) -> dict[int, Form]:
    """The derivative of a logit in every value of a network, from the values' boxes or, linear, their forms."""
    known = trace.forms if linear else {n: forms.of_bounds(*b) for n, b in trace.boxes.items()}
    start = direction(trace.boxes[trace.network.result].lower, target)
    found = {trace.network.result: Form(start, jnp.zeros_like(start))}
    for step in reversed(trace.network.steps):
        if not any(n in found for n in step.results):
            continue
        results = [found.get(n, _zero(trace.boxes[n].lower)) for n in step.results]
        pulled = _pull(step, trace, known, results)
        for number, form in zip(step.carried, pulled, strict=True):
            found[number] = forms.add(found[number], form) if number in found else form
    return found


def direction(logits: Float[AnyArray, " classes"], target: Target) -> Float[Array, " classes"]:
    """The derivative of the target's logit, or of the logits' component along it, in the logits."""
    return jax.grad(lambda z: select(z, target))(jnp.zeros_like(logits))


def _zero(like):
    return Form(jnp.zeros_like(like), jnp.zeros_like(like))


def _ends(step, boxes, weights):
    """The boxes of what a step makes where they follow from the ends of its operands', else None."""
    part = step.part
    if isinstance(part, Activation):
        found = [part.values(*boxes[0])]
    elif isinstance(part, Windows):
        found = [map(part.largest, boxes[0])]
    elif isinstance(part, Affine) and part.ends:
        found = part.ends(*zip(*boxes, strict=True), _relative_error(step, weights))
    else:
        return None
    return [Box(jnp.where(jnp.isnan(lower), -jnp.inf, lower), jnp.where(jnp.isnan(upper), jnp.inf, upper))
            for lower, upper in found]


def _push(step, boxes, operands, weights) -> list[Form]:
    part = step.part
    if isinstance(part, Windows):
        return [forms.of_bounds(*map(part.largest, boxes[0]))]
    if isinstance(part, Activation):
        return [forms.value(part, operands[0], *boxes[0])]
    if isinstance(part, Product):
        return [forms.multiply(*operands)]
    gamma = _relative_error(step, weights)
    found = forms.linear_map(part.apply, part.linear, part.absolute, operands, gamma)
    return [f._replace(radius=f.radius + gamma * shift) for f, shift in zip(found, part.shift, strict=True)]


def _pull(step, trace, known, results) -> list[Form]:
    part, boxes = step.part, [trace.boxes[n] for n in step.carried]
    if isinstance(part, Activation):
        return [forms.multiply(forms.gate(part, known[step.carried[0]], *boxes[0]), results[0])]
    if isinstance(part, Product):
        a, b = (known[n] for n in step.carried)
        return [forms.multiply(b, results[0]), forms.multiply(a, results[0])]
    if isinstance(part, Windows):
        reached = forms.multiply(forms.of_bounds(*part.gates(*boxes[0])), forms.repeated(results[0]))
        return forms.linear_map(part.spread, part.spread, part.spread, [reached], _relative_error(step, 0.0))
    back, absolute = part.transposed, part.absolute_transposed
    return forms.linear_map(back, back, absolute, results, _relative_error(step, trace.weights))


def _relative_error(step, weights):
    """Of each product in a sum: rounding, here and where the network itself is computed; boxes of the weights."""
    shapes = step.part.shapes if isinstance(step.part, Affine) else (step.part.shape,)
    rounding = relative_error(step.part.terms, (*shapes, *step.shapes))
    return rounding + (1 + rounding) * weights if step.weighted else rounding


def _both(a: Box, b: Box) -> Box:
    return Box(jnp.maximum(a.lower, b.lower), jnp.minimum(a.upper, b.upper))
