"""Bounds of a network's curvature from its weights, and of what its gradient can do between two points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import epsilon
from ..rewrite import UnsupportedPrimitiveError
from ..types import Array, ArrayLike, Float, Model, Target
from . import forms
from .activations import Activation
from .affine import Affine
from .intervals import Box, Trace, backward, direction, forward, gradient_bounds, gradient_over, sizes
from .network import Layers, Product, read
from .windows import Windows

__all__ = ["cross_entropy_hessian_bound", "gradient_change_bound", "hessian_bound", "normal_change_bound"]


def hessian_bound(f: Model, x: Float[ArrayLike, "*shape"], target: Target, *, box: Box | None = None,
                  spectral: bool = False, linear: bool = False) -> Float[Array, ""]:
    """A number that ||H||_F of a logit's input Hessian does not exceed: at any input, or at those of a box.

    Dombrowski et al. 2022, generalised to every smooth network and tightened. H is the sum over activations m of
    J_m^T diag(d_m s''(z_m)) J_m, J_m the Jacobian of the input of m and d_m the derivative in its result, hence

        ||H||_F <= sum_m  sup ||d_m s''(z_m)||_2  sup ||J_m||_2^2.

    Norms of Jacobians are products of the spectral norms of the layers (added at residuals), which never are below the
    truth: see `operator_norms`. Without a box, |s''| <= beta / 4 and d_m is bounded likewise; in an MLP this is the
    paper's bound with spectral norms. With one, d_m and z_m come from `gradient_bounds`' intervals: much tighter.

    Args:
      f: a model of what `gradient_bounds` supports, and smooth: no relu, no max-pooling. Without a box, no products,
        quotients or squares either, whose curvature has no bound at all inputs.
      x: Float[h, w, c], for its shape and type;  target: a class or a direction over the logits.
      box: of inputs;  spectral: bound ||H||_2 alone (the largest instead of the norm of d_m s''; needs a box).
      linear: as in `gradient_bounds`.

    Raises UnsupportedPrimitiveError for relu and max-pooling, whose gradient jumps where the Hessian is not defined, so
    that no bound of the Hessian bounds its change; ValueError for `spectral` without a box.

    >>> from xmanip_jax import smooth
    >>> f = lambda x: smooth.softplus_beta(jnp.array([[0.0, 2.0]]) @ x, 3.0)
    >>> round(float(hessian_bound(f, jnp.zeros(2), 0)), 3)  # beta / 4 times 2^2, attained at 0
    3.0
    """
    if spectral and box is None:
        raise ValueError("spectral=True needs a box; without one derivatives are bounded in the Euclidean norm only")
    if box is not None:
        return hessian_over(forward(f, box, linear=linear, weights=0.0), target, spectral)
    network, logits = read(f, jnp.asarray(x)), jax.eval_shape(f, x)
    check_smooth(network, anywhere=True)
    start = direction(jnp.zeros(logits.shape, logits.dtype), target)
    norms = _norms(network)
    reach = _jacobian_norms(network, norms, None)
    return _summed(network, [c * reach[n] ** 2 for n, c in _derivative_norms(network, norms, start).items()])


def cross_entropy_hessian_bound(f: Model, x: Float[ArrayLike, "*shape"]) -> Float[Array, ""]:
    """A number that ||H||_F of the cross entropy's input Hessian does not exceed, at any input and for any label.

    Its Hessian is J^T (diag p - p p^T) J + sum_k (p - e_y)_k H_k, J being the Jacobian of the logits and H_k the
    Hessian of a logit. Since ||diag p - p p^T||_F <= 1/2 and ||p - e_y||_2 <= sqrt 2, it is at most ||J||_2^2 / 2 plus
    the bound of `hessian_bound` for a direction over the logits of length sqrt 2.

    Args:
      f: a model as in `hessian_bound` without a box;  x: Float[h, w, c], for its shape and type.

    Cost and errors as in `hessian_bound`.

    >>> f = lambda x: jnp.array([[1.0], [-1.0]]) @ x  # linear: the first term alone, attained at 0
    >>> round(float(cross_entropy_hessian_bound(f, jnp.zeros(1))), 3)
    1.0
    """
    network = read(f, jnp.asarray(x))
    check_smooth(network, anywhere=True)
    norms = _norms(network)
    reach = _jacobian_norms(network, norms, None)
    bent = _derivative_norms(network, norms, jnp.sqrt(2.0))
    return _summed(network, [reach[network.result] ** 2 / 2, *(c * reach[n] ** 2 for n, c in bent.items())])


def gradient_change_bound(f: Model, x: Float[ArrayLike, "*shape"], y: Float[ArrayLike, "*shape"], target: Target, *,
                          linear: bool = False) -> Float[Array, ""]:
    """A number that ||grad g(x) - grad g(y)|| does not exceed, g being the logit.

    The smaller of two: the path bound of Dombrowski et al. 2022 along the segment, ||x - y|| sup ||H||_2 over the box
    between them; and how far `gradient_bounds` over that box lets it go from the gradient at x, which with linear=True
    is by far the smaller for points that are close. Arguments and errors as in `hessian_bound`.

    >>> from xmanip_jax import smooth
    >>> f = lambda x: smooth.softplus_beta(x, 4.0)
    >>> round(float(gradient_change_bound(f, jnp.zeros(1), jnp.full(1, 0.1), 0)), 3)
    0.099
    """
    return changes(f, x, y, target, linear).gradient


def normal_change_bound(f: Model, x: Float[ArrayLike, "*shape"], y: Float[ArrayLike, "*shape"], target: Target, *,
                        linear: bool = False) -> Float[Array, ""]:
    """A number that ||n(x) - n(y)|| does not exceed, n being the unit normal grad g / ||grad g|| of the level set.

    The smallest of 2 and two others. Theorem 1 of Dombrowski et al. 2019 in a form that certifies, ||x - y|| times
    sup ||H||_2 / inf ||grad g|| over the box between them: the derivative of n along any curve is P H c' / ||grad g||,
    P the tangent projection, so that no curve on the level set has to be found; every such curve in the box is at
    least as long as the segment. And 2 D / (||grad g(x)|| + ||grad g(y)||), D being `gradient_change_bound`.
    Arguments and errors as in `hessian_bound`.

    >>> from xmanip_jax import smooth
    >>> f = lambda x: jnp.array([smooth.softplus_beta(x[0], 1.0) + 2 * x[1]])
    >>> round(float(normal_change_bound(f, jnp.zeros(2), jnp.full(2, 0.1), 0)), 3)
    0.012
    """
    return changes(f, x, y, target, linear).normal


class Changes(NamedTuple):
    """`gradient_change_bound` and `normal_change_bound`: what gradient and normal do between two points, at most."""

    gradient: Float[Array, ""]
    normal: Float[Array, ""]


def changes(f: Model, x: Float[ArrayLike, "*shape"], y: Float[ArrayLike, "*shape"], target: Target,
            linear: bool) -> Changes:
    """Both from one pass over the network."""
    box = _between(x, y)
    x = jnp.asarray(x, box.lower.dtype)
    trace = forward(f, box, linear=linear, weights=0.0)
    along = _length(x, y) * hessian_over(trace, target, spectral=True)
    along = jnp.where(jnp.isnan(along), jnp.inf, along)  # no length times no bound
    at_x, there = gradient_bounds(f, Box(x, x), target, linear=linear), gradient_over(trace, target)
    slack = 4 * jnp.size(x) * epsilon(along)
    apart = _euclid(jnp.maximum(jnp.maximum(there.upper - at_x.lower, at_x.upper - there.lower), 0)) * (1 + slack)
    here, least = (_euclid(sizes(b).lower) * (1 - slack) for b in (at_x, there))
    change = jnp.minimum(along, apart)
    lengths = here + jnp.maximum(least, here - change)
    theorem = jnp.where(least > 0, along / jnp.where(least > 0, least, 1), 2)
    distance = jnp.where(lengths > 0, 2 * change / jnp.where(lengths > 0, lengths, 1), 2)
    return Changes(change, jnp.minimum(jnp.minimum(theorem, distance) * (1 + 1e2 * epsilon(change)), 2))


def hessian_over(trace: Trace, target: Target, spectral: bool) -> Float[Array, ""]:
    """`hessian_bound` from what is known of the values over a box."""
    network = trace.network
    check_smooth(network)
    reach = _jacobian_norms(network, _norms(network), trace)
    return _summed(network, _curved(trace, target, reach, spectral))


def _summed(network, terms):
    """The sum of what every activation and product contributes, rounded up."""
    total = sum(terms, jnp.zeros(()))
    return total * (1 + 64 * epsilon(total) * len(network.steps))


def _between(x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape != y.shape:
        raise ValueError(f"two points have one shape, got {x.shape} and {y.shape}")
    return Box(jnp.minimum(x, y), jnp.maximum(x, y))


def _length(x, y) -> ArrayLike:
    length = jnp.linalg.norm(jnp.ravel(jnp.asarray(x) - jnp.asarray(y)))
    return length * (1 + jnp.size(x) * epsilon(length))


def check_smooth(network: Layers, anywhere: bool = False) -> None:
    """Refuse what makes the gradient jump and, without a box, what has no bound at all inputs."""
    parts = [step.part for step in network.steps]
    if any(isinstance(part, Windows) for part in parts):
        raise UnsupportedPrimitiveError("max-pooling makes the gradient jump where the maximum changes place, so that "
                                        "no bound of the Hessian bounds its change; use average pooling")
    activations = [part for part in parts if isinstance(part, Activation)]
    if jumping := [act.name for act in activations if act.jumps]:
        raise UnsupportedPrimitiveError(f"{jumping[0]} makes the gradient jump where the Hessian is not defined, so "
                                        "that no bound of the Hessian bounds its change; use smooth.softplus(f, beta)")
    if not anywhere:
        return
    unbounded = [act.name for act in activations if any(_infinite(v) for v in act.anywhere())]
    unbounded += ["a product"] * any(isinstance(part, Product) for part in parts)
    if unbounded:
        raise UnsupportedPrimitiveError(f"no bound at all inputs is known for {', '.join(dict.fromkeys(unbounded))}; "
                                        "give a box of inputs")


def _infinite(bound):
    """Whether a bound is known to be infinite."""
    return not isinstance(bound, jax.core.Tracer) and bool(np.isinf(np.asarray(bound)).any())


def _norms(network: Layers) -> dict[int, tuple[list[Array], Array]]:
    """By the index of every linear step, `Affine.norms`."""
    return {i: step.part.norms() for i, step in enumerate(network.steps) if isinstance(step.part, Affine)}


def _jacobian_norms(network: Layers, norms: dict, trace: Trace | None) -> dict[int, Array]:
    """By its number, a bound of the norm of the Jacobian of every value in the input."""
    reach = {network.image: jnp.ones(())}
    for i, step in enumerate(network.steps):
        inputs = jnp.stack([reach[n] for n in step.carried])
        if isinstance(step.part, Activation):
            box = () if trace is None else trace.boxes[step.carried[0]]
            out = inputs[0] * (step.part.steepest(*box).max(initial=0) if box else step.part.anywhere()[0])
        elif isinstance(step.part, Product):
            a, b = (_largest(trace.boxes[n]) for n in step.carried)  # type: ignore[union-attr]  # refused without boxes
            out = inputs[0] * b + inputs[1] * a
        else:
            own, whole = norms[i]
            out = jnp.minimum(whole * _euclid(inputs), jnp.sum(jnp.stack(own) * inputs))
        reach.update(dict.fromkeys(step.results, out))
    return reach


def _derivative_norms(network: Layers, norms: dict, start: Array) -> dict[int, Array]:
    """By the number of its input, for every activation a bound of the norm of d s''(z), at any input.

    start: a direction over the logits, or a number that the length of any does not exceed. As long as only linear
    layers follow a direction, the derivative d is a constant, and its norm is exact; else it is a bound.
    """
    constants: dict[int, Array] = {network.result: start} if start.ndim else {}
    bounds: dict[int, Array] = {} if start.ndim else {network.result: start}
    found: dict[int, Array] = {}
    for i, step in reversed(list(enumerate(network.steps))):
        exact = {n: constants[n] for n in step.results if n in constants}
        loose = sum(bounds[n] for n in step.results if n in bounds)
        if isinstance(step.part, Activation):
            steepest, most_curved = step.part.anywhere()
            size = loose + sum(map(_euclid, exact.values()))
            _add(found, step.carried, [size * most_curved])
            _add(bounds, step.carried, [size * steepest])
            continue
        if exact:
            filled = [exact.get(n, jnp.zeros(s.shape, s.dtype)) for n, s in zip(step.results, step.shapes, strict=True)]
            _add(constants, step.carried, step.part.transposed(*filled))
        if any(n in bounds for n in step.results):
            _add(bounds, step.carried, [loose * n for n in norms[i][0]])
    return found


def _add(known, numbers, values):
    """Add to what several readers of a value make of it."""
    for number, value in zip(numbers, values, strict=True):
        known[number] = known[number] + value if number in known else value


def _euclid(v):
    return jnp.sqrt(jnp.sum(v * v))


def _largest(box):
    return sizes(box).upper.max(initial=0)


def _curved(trace: Trace, target: Target, reach: dict[int, Array], spectral: bool) -> list[Array]:
    """For every activation the largest norm of d s''(z) over the box, times the square of its Jacobian's.

    A product a b has the second derivative J_a^T diag(d) J_b and its transpose.
    """
    norm = jnp.max if spectral else _euclid
    derivatives, found = backward(trace, target), []
    for step in trace.network.steps:
        if step.results[0] not in derivatives or isinstance(step.part, Affine):
            continue
        size = sizes(Box(*forms.bounds(derivatives[step.results[0]]))).upper
        if isinstance(step.part, Activation):
            number, = step.carried
            bend = sizes(Box(*step.part.curvatures(*trace.boxes[number]))).upper
            found.append(norm(jnp.where(size > 0, size * bend, 0)) * reach[number] ** 2)
        else:
            a, b = step.carried
            found.append(2 * norm(size) * reach[a] * reach[b])
    return found
