"""What judges need, none of it from the library: derivatives by differences, other activations, what a refusal is."""

import re
import traceback
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import xmanip_jax
from foreign.model import Model

__all__ = ["Subject", "close", "finite", "first_line", "gated", "kinked", "over_points", "proportional", "verdict"]

LIBRARY = str(Path(xmanip_jax.__file__).parent)


class Subject:
    """One model at one example, in double precision, with what several judges ask of it, computed once.

    target: the predicted class;  exact: the model in float64, if it is one of half precision;  precision: relative, of
    what f computes: 0 in float64, through and through;  sharp: whether exact is.
    """

    def __init__(self, model: Model):
        self.model = model
        self.f, self.x, self.update = model.build()
        self.exact = model.build(dtype=jnp.float64).f if model.takes("dtype") else self.f
        self.logits = np.asarray(self.f(self.x))
        self.target = int(self.logits.argmax())
        self.logit = lambda x: self.exact(x)[self.target]
        self.sharp = "f32[" not in str(jax.make_jaxpr(self.exact)(self.x))
        self.precision = 0.1 if model.takes("dtype") else 0.0 if self.sharp else 2e-2

    def tolerance(self, exact: float) -> float:
        return max(exact, self.precision)

    @cached_property
    def values(self) -> Callable:
        """The target's logit at many points [n, ...]."""
        return over_points(self.logit)

    @cached_property
    def gradients(self) -> Callable:
        """jax's gradient of it at many points; `features.gradient` compares it with `slope`."""
        return over_points(jax.grad(self.logit))

    @cached_property
    def slope(self) -> np.ndarray:
        """The gradient at x by central differences; jax's, where the model has a derivative rule that lies."""
        if not self.model.honest:
            return self.gradients(self.x[None])[0]
        return self.differences(self.values, self.x, 1e-6 if self.sharp else 1e-3).reshape(self.x.shape)

    def differences(self, at: Callable, x: np.ndarray, step: float) -> np.ndarray:
        """Central differences of `at`, a function of many points, along every coordinate."""
        steps = step * np.eye(self.x.size).reshape(-1, *self.x.shape)
        return (at(x + steps) - at(x - steps)) / (2 * step)

    @cached_property
    def kinked(self) -> bool:
        return self.sharp and kinked(self.values, self.x)

    @cached_property
    def refused_by_jax(self) -> str:
        """What jax says of the model's derivative, or nothing."""
        try:
            jax.eval_shape(jax.grad(self.logit), self.x)
        except ValueError as error:
            return first_line(error)
        return ""

    def like(self, wrap: Callable) -> Callable:
        """The logit of the same model with other activations, in float64."""
        options = {"dtype": jnp.float64} if self.model.takes("dtype") else {}
        f = self.model.build(wrap=wrap, **options).f
        return lambda x: f(x)[self.target]

    def around(self, radius: float, n: int = 200) -> np.ndarray:
        """n points of the ball in the maximum norm, every fourth a corner."""
        move = np.random.default_rng(1).uniform(-1, 1, (n, *self.x.shape))
        move[::4] = np.sign(move[::4])
        return np.asarray(self.x) + radius * move


def over_points(g: Callable, chunk: int = 32) -> Callable:
    """g at many points [n, ...], as numpy, by one compilation whatever n."""
    batched = jax.jit(jax.vmap(g))

    def at(points):
        points = np.asarray(points)
        padded = np.concatenate([points, np.repeat(points[:1], -len(points) % chunk, 0)])
        found = [np.asarray(batched(padded[i:i + chunk])) for i in range(0, len(padded), chunk)]
        return np.concatenate(found)[:len(points)]

    return at


def kinked(values: Callable, x: jax.Array) -> bool:
    """Whether slopes jump along a segment through x: second differences over the step do not fall with the step.

    values: of many points [n, ...].
    """
    direction = np.random.default_rng(0).choice([-1.0, 1.0], x.shape)
    found = values(x + np.linspace(-1, 1, 4097).reshape(-1, *[1] * x.ndim) * direction)
    jump = lambda v: np.abs(v[2:] - 2 * v[1:-1] + v[:-2]).max() * (len(v) - 1)
    return jump(found) > max(0.3 * jump(found[::8]), 1e-7 * np.abs(found).max())


def other_rule(pull: Callable) -> Callable:
    """A wrapper of activations that keeps the values; pull(act, z, R) is what flows back."""
    def wrap(act):
        @jax.custom_vjp
        def changed(z):
            return act(z)

        changed.defvjp(lambda z: (act(z), z), lambda z, relevance: (pull(act, z, relevance),))
        return changed

    return wrap


gated = other_rule(lambda act, z, R: jax.vjp(act, z)[1](jnp.maximum(R, 0))[0])  # relu(R) act'(z)
proportional = other_rule(lambda act, z, R: jnp.where(z == 0, 0, R * act(z) / jnp.where(z == 0, 1, z)))  # R act(z) / z


def finite(*arrays) -> None:
    for array in arrays:
        assert np.isfinite(np.asarray(array, float)).all(), "not finite"


def close(found, expected, tolerance: float, what: str = "") -> None:
    """Relative to the largest of what is expected."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, f"{what} shape {found.shape}, expected {expected.shape}"
    finite(found)
    error, scale = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * scale + 1e-12, f"{what} off by {error:.1g}, the largest value being {scale:.1g}"


def first_line(error) -> str:
    """Of its message, without addresses."""
    return re.sub(r"\s+at 0x\w+", "", str(error).splitlines()[0]) if str(error) else ""


def verdict(check: Callable[[Subject], str | None], subject: Subject) -> str:
    """"works", with the library's warnings if it gave any, or the words of its refusal; all else is raised.

    A refusal is a ValueError that the library itself raises, or jax's own of the model's derivative. A check may return
    what is wrong unless the library warns of it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            unless_warned = check(subject)
        except ValueError as error:
            ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(LIBRARY)
            if ours or (subject.refused_by_jax and first_line(error) == subject.refused_by_jax):
                return f"{type(error).__name__}: {first_line(error)}"
            raise
    ours = [w for w in caught if w.category.__module__.startswith("xmanip_jax") or w.filename.startswith(LIBRARY)]
    assert len(ours) == len(caught), f"a warning: {next(w for w in caught if w not in ours).message}"
    words = dict.fromkeys(f"{w.category.__name__}: {first_line(w.message)}" for w in ours)
    assert words or not unless_warned, unless_warned
    return ", and warns: ".join(["works", *words])
