"""Penalties on the curvature of a network in its input: what a defence adds to the training loss."""


import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from ..arguments import check_positive
from ..certify.intervals import ball, gradient_bounds
from ..explain.heatmap import saliency
from ..geometry.piecewise import warn_if_it_jumps
from ..train.loss import alignment, of_x, parameter_penalty, penalty, scalar
from ..types import Array, Penalty

__all__ = ["cure", "gradient_alignment", "gradient_norm", "hessian", "input_density", "interval_width", "lcnn",
           "ranking"]

_PROBES = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}


def gradient_norm(*, output: str = "loss") -> Penalty:
    """||grad||^2 of the output in x (Drucker & LeCun 1992; with the loss, the GradReg of Srinivas et al. 2022).

    output: "loss", "logit", "probability" or "log_probability" of the label, or "log_density", log sum_c exp f_c.
    A training step with it costs 6 forward passes.

    >>> linear = lambda params, state, x: params @ x
    >>> gradient_norm(output="logit")(linear, jnp.array([[3.0, 4.0]]), None, jnp.ones(2), 0)
    Array(25., dtype=float32)
    """

    def core(f, x, y, key):
        gradient, logits = jax.grad(scalar(f, output, y), has_aux=True)(x)
        return jnp.sum(gradient**2), logits

    return penalty(core)


def hessian(*, output: str = "logit", samples: int = 1, probe: str = "rademacher") -> Penalty:
    """||H||_F^2 of the output's input Hessian, estimated without bias by ||H v||^2 (Dombrowski et al. 2022).

    A relu network has none, a PiecewiseLinearWarning says: train with softplus. Needs a key. A training step costs
    6 + 6 samples forward passes, less what the first layer takes: one probe is 4 plain steps.

    Args:
      output: the paper's choice is not known; its re-implementations take the logit of the label.
      samples: probes v of each example and step;  probe: "rademacher" or "gaussian".

    Raises ValueError for unknown choices and samples below 1.

    >>> bowl = lambda params, state, x: params * jnp.sum(x ** 2)[None]
    >>> hessian()(bowl, 3.0, None, jnp.ones(4), 0, jax.random.key(0))
    Array(144., dtype=float32)
    """
    if probe not in _PROBES:
        raise ValueError(f"probe is one of {', '.join(_PROBES)}, got {probe!r}")
    if samples < 1:
        raise ValueError(f"samples is at least 1, got {samples}")

    def core(f, x, y, key):
        vs = _PROBES[probe](key, (samples, *x.shape), x.dtype)
        slope = jax.grad(scalar(f, output, y), has_aux=True)
        _, pull, logits = jax.vjp(slope, x, has_aux=True)
        product = lambda v: pull(v)[0]
        warn_if_it_jumps(lambda z: slope(z)[0], x, product)
        products = jax.vmap(product)(vs)
        return jnp.sum(products**2) / samples, logits

    return penalty(core)


def gradient_alignment(*, radius: float, l2: float = 0.01, cosine: float = 1.0, output: str = "logit",
                       detach: bool = True) -> Penalty:
    """l2 ||g - g'||^2 + cosine (1 - cos(g, g')) / 2, g' the gradient at a random neighbour (Joo et al. 2023).

    Shrinking the Hessian is not enough where the gradient shrinks too: the cosine does not change when the network is
    rescaled. Needs a key. Costs 10 forward passes a training step, 12 without `detach`.

    Args:
      radius: the neighbour is uniform within it in each coordinate, in the unit of x (the paper: 4 / 255 pixels);
      l2, cosine: weights;  detach: train through the neighbour's gradient only.

    Raises ValueError for a radius that is not positive.

    >>> linear = lambda params, state, x: params @ x
    >>> p = gradient_alignment(radius=0.1)
    >>> round(float(p(linear, jnp.ones((1, 3)), None, jnp.ones(3), 0, jax.random.key(0))), 6)
    0.0
    """
    check_positive(radius=radius)

    def core(f, x, y, key):
        slope = jax.grad(scalar(f, output, y), has_aux=True)
        here, logits = slope(x)
        here = jax.lax.stop_gradient(here) if detach else here
        there, _ = slope(x + jax.random.uniform(key, x.shape, x.dtype, -radius, radius))
        return l2 * jnp.sum((here - there) ** 2) + cosine * (1 - alignment(here, there)) / 2, logits

    return penalty(core, unit=of_x)


def cure(*, step: float, squared: bool = True, output: str = "loss") -> Penalty:
    """||grad(x + z) - grad(x)||^2, z = step * sign(grad) / ||sign(grad)|| held fixed (Moosavi-Dezfooli et al. 2019).

    A finite difference of the Hessian along the direction in which attacks go. squared=False is the released code.
    Costs 12 forward passes a training step. step: in the unit of x; the paper ramps it to 1.5 in units of 1 / 255.

    >>> bowl = lambda params, state, x: params * jnp.sum(x ** 2)[None]
    >>> round(float(cure(step=0.1, output="logit")(bowl, 1.0, None, jnp.ones(4), 0)), 4)
    0.04
    """
    check_positive(step=step)

    def core(f, x, y, key):
        slope = jax.grad(scalar(f, output, y), has_aux=True)
        here, logits = slope(x)
        sign = jax.lax.stop_gradient(jnp.sign(here))
        z = step * sign / jnp.maximum(jnp.linalg.norm(sign.ravel()), 1)
        square = jnp.sum((slope(x + z)[0] - here) ** 2)
        return square if squared else _root(square), logits

    return penalty(core, unit=of_x)


def _root(square: Array) -> Array:
    """The root, with derivative 0 at 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def input_density() -> Penalty:
    """||grad log sum_c exp f_c||^2 in x: of the input density that a classifier implies (Yang et al. 2024).

    >>> linear = lambda params, state, x: params @ x
    >>> round(float(input_density()(linear, jnp.ones((2, 3)), None, jnp.zeros(3), 0)), 6)
    3.0
    """
    return gradient_norm(output="log_density")


def interval_width(radius: float, *, linear: bool = False) -> Penalty:
    """The mean width of the certified intervals of the logit's gradient over a ball (Wicker et al. 2023).

    What it lowers is what no attack within `radius` of each coordinate can do (`certify.gradient_bounds`).
    radius: positive, in the unit of x. Costs about 18 forward passes a training step.

    >>> from xmanip_jax import smooth
    >>> soft = lambda params, state, x: smooth.softplus_beta(params * x, 1.0)
    >>> bool(interval_width(0.1)(soft, 1.0, None, jnp.zeros(2), 0) > 0)
    True
    """
    check_positive(radius=radius)

    def core(f, x, y, key):
        box = gradient_bounds(f, ball(x, radius), y, linear=linear)
        return jnp.mean(box.upper - box.lower), f(x)

    return penalty(core, unit=of_x)


def ranking(k: int, *, output: str = "loss") -> Penalty:
    """Minus the gaps of saliency between the k-th pixel and the 2 k largest: R2ET's thickness (Chen et al. 2024).

    The sum of I_(k) - I_(i) over i < k and of I_(i) - I_(k) over k < i <= 2 k, I_(i) the i-th largest sum of |grad|
    over channels: pairs that pivot on the k-th, as in the released code. The order is that of the current network, not
    differentiated.

    Raises ValueError for k below 1.

    >>> linear = lambda params, state, x: jnp.sum(params * x)[None]
    >>> weights = jnp.array([[[3.0], [1.0], [0.5], [0.25]]])
    >>> float(ranking(2, output="logit")(linear, weights, None, jnp.ones((1, 4, 1)), 0))
    -3.25
    """
    if k < 1:
        raise ValueError(f"k is at least 1, got {k}")

    def core(f, x, y, key):
        gradient, logits = jax.grad(scalar(f, output, y), has_aux=True)(x)
        mass = saliency(gradient).ravel()
        if 2 * k > mass.size:
            raise ValueError(f"k is at most half of the {mass.size} pixels, got {k}")
        ranked = mass[jax.lax.stop_gradient(jnp.argsort(-mass))[:2 * k]]
        pivot = ranked[k - 1]
        return jnp.sum(pivot - ranked[:k]) + jnp.sum(ranked[k:] - pivot), logits

    return penalty(core)


def lcnn(*, beta: float = 1e-2, gamma: float = 1e-2) -> Penalty:
    """beta * sum of beta_l + gamma * sum of |ln gamma_l|, what LCNN trains besides (Srinivas et al. 2022).

    beta_l = exp of each parameter named log_beta (`models.CentredSoftplus`), ln gamma_l each one named log_gamma
    (`models.LipschitzNorm`). The paper's LCNN + GradReg adds `gradient_norm`, in its code with a weight of 6.1e-3 for
    an example. It bounds each layer's curvature: not that of the network, whose gradient may cancel.

    Raises ValueError for negative weights, and when no parameter has either name.

    >>> params = {"act": {"log_beta": jnp.log(5.0)}, "norm": {"log_gamma": jnp.array(-2.0)}}
    >>> round(float(lcnn(beta=0.1, gamma=1.0)(lambda params, state, x: x, params, None, jnp.zeros(2), 0)), 4)
    2.5
    """
    if not min(beta, gamma) >= 0:
        raise ValueError(f"weights are not negative, got beta={beta} and gamma={gamma}")

    def measure(params):
        named = [(keystr(path[-1:], simple=True), leaf) for path, leaf in tree_leaves_with_path(params)]
        betas, gammas = ([v for name, v in named if name == wanted] for wanted in ("log_beta", "log_gamma"))
        if not betas + gammas:
            raise ValueError("lcnn found no parameter named log_beta or log_gamma: train an LCNN with it")
        return sum(beta * jnp.exp(v).sum() for v in betas) + sum(gamma * jnp.abs(v).sum() for v in gammas)

    return parameter_penalty(measure)
