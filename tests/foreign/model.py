"""How the foreign models are written down: a maker with a family and a few facts that a judge has to know."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Built", "Model", "collection", "stirred", "uniform"]


class Built(NamedTuple):
    """f: one example -> Float[classes];  x: an example in [0, 1];  update: changes f's weights in place, or None."""

    f: Callable[[jax.Array], jax.Array]
    x: jax.Array
    update: Callable[[], None] | None = None


class Model(NamedTuple):
    """make(**options) -> (f, x) or (f, x, update), anew and always with the same weights.

    A maker may take
      wrap: applied to every activation function of the model, so that a judge can build the same model with other
        values or derivatives of its activations;
      dtype: half precision by default, so that a judge can build the same model in float64.

    linear: between the activations that `wrap` reaches lie only linear maps with their biases, sums and poolings;
    honest: its derivative is that of its values, not that of a rule of its own;
    channels_first: in the values of its layers, leading axes of length 1 apart; otherwise they are last.
    """

    name: str
    family: str
    make: Callable[..., Any]
    linear: bool
    honest: bool
    channels_first: bool

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self.make).parameters

    def build(self, **options) -> Built:
        if self.takes("wrap"):
            options = {"wrap": lambda act: act, **options}
        return Built(*self.make(**options))


def collection(package: str) -> tuple[dict[str, Model], Callable]:
    """The models of one package by name, and the decorator that enters a maker: @model(family, ...)."""
    models = {}

    def model(family: str, *, linear: bool = True, honest: bool = True, channels_first: bool = False):
        def enter(make):
            name = f"{package}/{make.__name__}"
            models[name] = Model(name, family, make, linear, honest, channels_first)
            return make

        return enter

    return models, model


def uniform(seed: int, *shape: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Float64, or float32 where that is off."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape))


def stirred(weights: Any, seed: int = 0) -> Any:
    """A tree of arrays moved off what they are initialised to, in x's type: no zero bias, no unit variance."""
    rng = np.random.default_rng(seed)

    def moved(leaf):
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            return leaf
        return jnp.asarray(leaf + rng.uniform(-0.2, 0.3, leaf.shape), jnp.result_type(float))

    return jax.tree.map(moved, weights)
