"""The explanations that experiments offer by name, with what each needs to know of the network."""

from collections.abc import Iterable, Mapping

import numpy as np

from xmanip_jax import explain, models

PAPER = ("gradient", "gradient_x_input", "integrated_gradients", "guided_backprop", "lrp", "pattern_attribution")
EXPLANATIONS = (*PAPER, "grad_cam", "smoothgrad", "uniform_gradient")


def method(name, network, *, integration_steps: int = 3, layer: str = "features",
           patterns: Mapping | None = None) -> tuple:
    """(the explanation that is attacked, the one that judges): they differ in the steps of integrated gradients only.

    integration_steps: of the attack; the verdict takes the paper's 30.  layer: of grad_cam.  patterns: of
    pattern_attribution, see `fit_patterns`.  lrp: the rules of Dombrowski et al. 2019.
    """
    low, high = bounds(network)
    width, inner = float(np.mean(high - low)), explain.gradient()
    noisy = {"samples": 10, "chunk": 5}
    same = lambda e: (e, e)
    return {
        "gradient": lambda: same(inner),
        "gradient_x_input": lambda: same(explain.gradient_x_input()),
        "integrated_gradients": lambda: (explain.integrated_gradients(steps=integration_steps, chunk=5),
                                         explain.integrated_gradients(steps=30, chunk=5)),
        "guided_backprop": lambda: same(explain.guided_backprop()),
        "lrp": lambda: same(explain.lrp_dombrowski2019(low, high)),
        "pattern_attribution": lambda: same(explain.pattern_attribution(patterns)),
        "grad_cam": lambda: same(explain.grad_cam(layer)),
        "smoothgrad": lambda: same(explain.smoothgrad(inner, sigma=0.1 * width, **noisy)),
        "uniform_gradient": lambda: same(explain.uniform_gradient(inner, radius=0.2 * width, **noisy)),
    }[name]()


def bounds(network) -> tuple:
    """The least and the largest value of the network's input, to broadcast against it."""
    ends = [network.preprocess(np.full((1, 1, network.input_shape[2]), v, np.float32)) for v in (0, 1)]
    return np.minimum(*ends), np.maximum(*ends)


def patterns_of(explanation, network, images: np.ndarray, file=None) -> dict | None:
    """What `method` needs for pattern_attribution, from a file of patterns.py or else from the images; else None."""
    if explanation != "pattern_attribution":
        return None
    return models.read_tensors(file) if file else fit_patterns(network, images)


def fit_patterns(network, images: np.ndarray, batch: int = 8) -> dict:
    """Patterns from images Float[n, h, w, c] in [0, 1]."""
    batches: Iterable = (network.preprocess(images[i:i + batch]) for i in range(0, len(images), batch))
    return explain.fit_patterns(network.model, batches)
