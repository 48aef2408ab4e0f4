"""Why an attack cannot move: what is not finite, what has no derivative, what is flat. Host code, run when it fails."""

import warnings
from typing import Any

import jax
import numpy as np

from .. import rewrite
from ..devices import fetched
from ..explain.linearity import first_nonlinear
from ..objectives import View
from ..programs import first_example
from ..types import AnyArray, Array, Float

__all__ = ["NonFiniteError", "ZeroGradientError", "check_finite", "check_moving", "check_slopes", "sharp",
           "warn_of_broken"]

# Of the activations that rewrite.inspect names: the gradient of their slope is zero wherever it exists.
_PIECEWISE_LINEAR = {"abs", "clip", "hard_sigmoid", "hard_tanh", "leaky_relu", "max", "maximum", "minimum", "piecewise",
                     "relu", "relu6", "sparse_sigmoid"}

_SLOPES = ("a slope between the pixels and the objective is infinite or undefined, as those of a root, a norm, a "
           "logarithm or a quotient at 0 are: give it a floor, or start elsewhere (start_noise)")


class NonFiniteError(ValueError):
    """The logits, the explanation or a gradient is not finite: the attack would have ended where it began, silently."""


class ZeroGradientError(ValueError):
    """The objective does not depend on the image to first order: the attack could not move."""


def check_finite(view: View, where: str = "the clean image") -> None:
    """Raise NonFiniteError for the first image of a batched view whose logits or heat map is not finite.

    A logit of minus infinity, that of a class which is excluded, is no error.
    """
    _check_logits(view.logits, where)
    _raise_for(~_finite(view.heatmap), f"the explanation is not finite at {where}",
               "take it in float32 where the model is in half precision; where a root, a quotient or a logarithm of 0 "
               "is differentiated, choose another explanation or rule")


def check_moving(state: Any, network: Any, surrogate: Any, case: Any, anchor: View) -> None:
    """After the first step: raise NonFiniteError for a gradient that is not finite, ZeroGradientError for one of zeros.

    case and anchor, the clean image as the surrogate sees it, are those of the driver, batched.
    """
    broken = fetched(state.broken) >= 0
    if broken.any():
        check_finite(anchor, "the clean image, as the surrogate sees it,")
    _raise_for(broken, "the objective or its gradient is not finite in the first step, at image", _SLOPES)
    stuck = ~fetched(state.moving) & ~((fetched(state.loss) == 0) & (case.goal is not None))
    if stuck.any():
        i = int(stuck.argmax())
        of = lambda tree: jax.tree.map(lambda v: v[i], tree)
        raise ZeroGradientError(f"the objective's gradient is exactly zero for image {first_example() + i}: "
                                f"{_why_flat(network, surrogate, of(case.settings), of(case.clean))}")


def sharp(network: Any, pixels: Array, settings: Any) -> bool:
    """Whether the model has kinks and no smooth activation, and a surrogate without settings leaves it as it is."""
    if jax.tree.leaves(settings):
        return False
    seen = rewrite.inspect(lambda p: network.model(network.preprocess(p)), pixels)
    return bool(seen.activations or seen.max_pools) and seen.activations.keys() <= _PIECEWISE_LINEAR


def check_slopes(logits: Float[AnyArray, "b classes"], gradient: Float[AnyArray, " b *shape"]) -> None:
    """Raise NonFiniteError for the first clean image whose logits, or the objective's gradient, are not finite."""
    _check_logits(logits, "the clean image")
    _raise_for(~_finite(gradient), "the objective's gradient is not finite at the clean image", _SLOPES)


def warn_of_broken(state: Any, steps: int) -> None:
    """One RuntimeWarning for the images that stopped, after their first of `steps` steps, on a gradient not finite."""
    broken = fetched(state.broken)
    if (broken >= 0).any():
        i = int((broken >= 0).argmax())
        warnings.warn(f"the objective's gradient was not finite at step {broken[i]} of {steps} for image "
                      f"{first_example() + i} "
                      f"({(broken >= 0).sum()} of {len(broken)} images): there it stopped, and its best iterate before "
                      "counts; smaller steps, a constraint or float32 may lead around such points", RuntimeWarning,
                      stacklevel=3)


def _why_flat(network, surrogate, settings, clean):
    """What can be read from one image, the likeliest cause first."""
    x, causes = network.preprocess(clean.pixels), []
    if first_nonlinear(network.model, x) is None:
        return "the model is affine, so a gradient of it is the same for every image"
    there = rewrite.inspect(lambda x: network.model(x), x)
    seen = rewrite.inspect(lambda x: surrogate.rewrite(network.model, settings, 0.0)(x), x)
    if not fetched(clean.heatmap).any():
        causes.append("its explanation is zero everywhere, as no pixel moves the logit: explain another class (labels)")
    sharp = {name: n for name, n in seen.activations.items() if name in _PIECEWISE_LINEAR}
    if seen.max_pools and not there.activations:
        sharp["max-pooling"] = seen.max_pools
    if sharp:
        causes.append(f"the surrogate leaves {_listed(sharp)} in the model, and what is piecewise linear has no second "
                      "derivative: set surrogate=smooth.relative()")
    if there.kinks:
        causes.append(f"the model has kinks that no surrogate replaces, {_listed(there.kinks)} (rewrite.inspect lists "
                      "them): write them as jax.nn.relu or relu6")
    causes.append("the objective is flat at the clean image, as a distance from its own map is: set start_noise")
    return ", or ".join(causes)


def _check_logits(logits, where):
    logits = fetched(logits)
    _raise_for(~_finite(np.where(np.isneginf(logits), 0, logits)), f"the model's logits are not finite at {where}",
               "look at what preprocess and the model make of it; half precision overflows where float32 does not")


def _listed(counts):
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _finite(values):
    return np.isfinite(fetched(values)).reshape(len(values), -1).all(1)


def _raise_for(bad, what, way):
    if bad.any():
        raise NonFiniteError(f"{what} {first_example() + int(bad.argmax())} ({int(bad.sum())} of {len(bad)} images): "
                             f"{way}")
