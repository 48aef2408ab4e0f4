"""The explanations that experiments offer by name, with what each needs to know of the network and what it costs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xmanip_jax import explain, models
from xmanip_jax.types import Explanation


class Needs(NamedTuple):
    """What explanations need to know: the least and the largest value of the network's input, see `bounds`;

    layer: of those that look at one, None for the input;  patterns: of pattern_attribution, see `fit_patterns`;
    points: of integrated gradients;  samples: of averages over noise;  chunk: how many of both are computed at once.
    """

    low: Any
    high: Any
    layer: str | None = "features"
    patterns: Mapping | None = None
    points: int = 30
    samples: int = 10
    chunk: int | None = 5

    @property
    def box(self) -> tuple:
        """(low, high). Raises ValueError where the input has no such range."""
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError("this explanation takes the range of the network's input, and preprocess makes no finite "
                             "number of a black or of a white image: let the model begin with it, or choose another")
        return self.low, self.high

    @property
    def width(self) -> float:
        """The mean width of that range."""
        low, high = self.box
        return float(np.mean(high - low))


class Named(NamedTuple):
    """make(needs) -> the explanation;  passes(needs) -> what the convolutions of a map, and of a step of the attack on

    it, cost at least, in forward passes.
    """

    make: Callable[[Needs], Explanation]
    passes: Callable[[Needs], tuple[float, float]] = lambda needs: (2, 4)


_ABOVE = lambda needs: (1, 2)  # what lies above a layer is not counted
_NOISY = lambda needs: (2 * needs.samples + 1, 4 * needs.samples + 2)

PAPER = ("gradient", "gradient_x_input", "integrated_gradients", "guided_backprop", "lrp", "pattern_attribution")
EXPLANATIONS = {
    "gradient": Named(lambda needs: explain.gradient()),
    "gradient_x_input": Named(lambda needs: explain.gradient_x_input()),
    "integrated_gradients": Named(lambda needs: explain.integrated_gradients(steps=needs.points, chunk=needs.chunk),
                                  lambda needs: (2 * needs.points, 4 * needs.points)),
    "guided_backprop": Named(lambda needs: explain.guided_backprop()),
    "lrp": Named(lambda needs: explain.lrp_dombrowski2019(*needs.box), lambda needs: (3, 6)),
    "pattern_attribution": Named(lambda needs: explain.pattern_attribution(needs.patterns)),
    "grad_cam": Named(lambda needs: explain.grad_cam(needs.layer), _ABOVE),
    "smoothgrad": Named(lambda needs: explain.smoothgrad(
        explain.gradient(), sigma=0.1 * needs.width, samples=needs.samples, chunk=needs.chunk), _NOISY),
    "uniform_gradient": Named(lambda needs: explain.uniform_gradient(
        explain.gradient(), radius=0.2 * needs.width, samples=needs.samples, chunk=needs.chunk), _NOISY),
    "lrp_epsilon": Named(lambda needs: explain.lrp(conv=explain.epsilon(), sums=explain.z_plus())),
    "lrp_alpha_beta": Named(lambda needs: explain.lrp(conv=explain.alpha_beta(), sums=explain.z_plus()),
                            lambda needs: (4, 8)),
    "lrp_heo2019": Named(lambda needs: explain.lrp_heo2019(layer=needs.layer), _ABOVE),
    "layer_gradient": Named(lambda needs: explain.layer_gradient(needs.layer), _ABOVE),
}


def method(name: str, network, *, integration_steps: int = 3, layer: str = "features",
           patterns: Mapping | None = None, chunk: int | None = 5) -> tuple[Explanation, Explanation]:
    """(the explanation that is attacked, the one that judges): they differ in the steps of integrated gradients only.

    integration_steps: of the attack; the verdict takes the paper's 30.  chunk: points of an average at once, None where
    a memory decides.  The others: see `Needs`.
    """
    needs, make = Needs(*bounds(network), layer, patterns, chunk=chunk), EXPLANATIONS[name].make
    judge = make(needs)
    return make(needs._replace(points=integration_steps)) if name == "integrated_gradients" else judge, judge


def bounds(network) -> tuple:
    """The least and the largest value of the network's input, of black and white images, to broadcast against it."""
    ends = [np.asarray(network.preprocess(np.full(network.input_shape, v, np.float32))) for v in (0, 1)]
    low, high = (v[:1, :1] if (v == v[:1, :1]).all() else v for v in (np.minimum(*ends), np.maximum(*ends)))
    return low, high


def patterns_of(explanation, network, images: np.ndarray, file=None) -> dict | None:
    """What `method` needs for pattern_attribution, from a file of patterns.py or else from the images; else None."""
    if explanation != "pattern_attribution":
        return None
    return models.read_tensors(file) if file else fit_patterns(network, images)


def fit_patterns(network, images: np.ndarray, batch: int = 8) -> dict:
    """Patterns from images Float[n, h, w, c] in [0, 1]."""
    batches: Iterable = (network.preprocess(images[i:i + batch]) for i in range(0, len(images), batch))
    return explain.fit_patterns(network.model, batches)
