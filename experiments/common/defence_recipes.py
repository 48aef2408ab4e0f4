"""The defences that train.py knows, by name, with the settings of one protocol."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from xmanip_jax import defend, explain, models, smooth, train


class Recipe(NamedTuple):
    """act: of the network;  terms(weight, epsilon, inner, teacher) -> the terms of train.training_loss;

    weight: of the penalty or of the decay;  label_weight: of the cross entropy;  optimizer(learning rate, weight);
    teacher: distils the network that it starts from;  scratch: another network, which goes on from no plain one;
    network(shape of an image, act(beta), rngs) -> the module.
    """

    act: Callable[[float], Callable]
    terms: Callable[..., tuple] = lambda weight, epsilon, inner, teacher: ()
    weight: float = 1.0
    label_weight: float = 1.0
    optimizer: Callable[[Any, float], Any] = lambda rate, weight: optax.adam(rate)
    teacher: bool = False
    scratch: bool = False
    network: Callable[..., Any] = lambda shape, act, rngs: models.SmallCNN(channels=shape[-1], act=act, rngs=rngs)


def _softplus(beta):
    return lambda z: smooth.softplus_beta(z, beta)


def _relu(beta):
    return jax.nn.relu


def _trained_softplus(beta):
    return partial(models.CentredSoftplus, beta)


def _lipschitz(shape, act, rngs):
    return models.SmallLCNN(channels=shape[-1], size=shape[0], act=act, rngs=rngs)


def _one(make):
    return lambda weight, epsilon, inner, teacher: ((weight, make(epsilon, inner)),)


def _ascent(epsilon, inner):
    return train.Ascent(epsilon, 2.5 * epsilon / max(inner, 1), inner, low=0, high=1)


_CAM = explain.cam("features")

NETWORKS = {"mnist": "small_cnn", "cifar10": "small_cnn_cifar10"}  # of models.NETWORKS, a data set's plain network

RECIPES = {
    "plain": Recipe(_relu),
    "weight_decay": Recipe(_relu, weight=0.1, optimizer=lambda rate, weight: optax.adamw(rate, weight_decay=weight)),
    "softplus": Recipe(_softplus),
    "hessian": Recipe(_softplus, _one(lambda epsilon, inner: defend.hessian()), 1e-3),
    "gradient_norm": Recipe(_softplus, _one(lambda epsilon, inner: defend.gradient_norm()), 1e-1),
    "gradient_alignment": Recipe(_softplus, _one(
        lambda epsilon, inner: defend.gradient_alignment(radius=epsilon))),
    "cure": Recipe(_softplus, _one(lambda epsilon, inner: defend.cure(step=1.5)), 1e-1),
    "llr": Recipe(_softplus, _one(lambda epsilon, inner: defend.local_linearity(_ascent(epsilon, inner))), 2.0),
    "lcnn": Recipe(_trained_softplus, lambda weight, epsilon, inner, teacher: (
        (6.1e-3, defend.gradient_norm()), (weight, defend.lcnn())), network=_lipschitz, scratch=True),
    "atex": Recipe(_softplus, lambda weight, epsilon, inner, teacher: (
        (weight, defend.atex(teacher, radius=epsilon)),), label_weight=0.0, teacher=True),
    "int": Recipe(_relu, _one(lambda epsilon, inner: defend.interpretability(_ascent(epsilon, inner), _CAM, gamma=1.0)),
                  0.01),
    "int_adv": Recipe(_relu, lambda weight, epsilon, inner, teacher: ((1.0, defend.interpretability(
        _ascent(epsilon, inner), _CAM, gamma=weight, at="attacked")),), 0.01),
    "adversarial": Recipe(_relu, _one(lambda epsilon, inner: defend.adversarial(_ascent(epsilon, inner)))),
    "adversarial_smooth": Recipe(_softplus, _one(lambda epsilon, inner: defend.adversarial(_ascent(epsilon, inner)))),
    "trades": Recipe(_relu, _one(lambda epsilon, inner: defend.trades(_ascent(epsilon, inner))), 6.0),
    "interval_width": Recipe(_softplus, _one(lambda epsilon, inner: defend.interval_width(epsilon / 10)), 0.1),
    "ranking": Recipe(_softplus, lambda weight, epsilon, inner, teacher: (
        (weight, defend.ranking(50)), (1e-3, defend.hessian())), 0.03),
    "far": Recipe(_softplus, _one(lambda epsilon, inner: defend.attribution_robustness(
        _ascent(epsilon, inner), explain.gradient()))),
    "ig_norm": Recipe(_relu, _one(lambda epsilon, inner: defend.integrated_norm(_ascent(epsilon, inner), points=5))),
}
