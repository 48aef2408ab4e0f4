"""Defences of the explanation by its worst neighbour: interpretability-aware training and attribution robustness."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import explain
from ..train.ascent import Ascent, ascend, noise_of
from ..train.loss import alignment, cross_entropy, penalty
from ..types import AnyArray, Array, ArrayLike, Explanation, Float, Integer, Model, Penalty, RandomKey, Target

__all__ = ["attribution_robustness", "discrepancy", "integrated_norm", "interpretability", "two_class_discrepancy"]


def two_class_discrepancy(e: Explanation, f: Model, x: Float[AnyArray, "*shape"], z: Float[AnyArray, "*shape"],
                          classes: tuple[Target, Target] | Integer[AnyArray, "2"], *,
                          key: RandomKey | None = None) -> Float[Array, ""]:
    """(||I(x, t) - I(z, t)||_1 + ||I(x, s) - I(z, s)||_1) / 2 for the classes (t, s) (Boopathy et al. 2020).

    For complete maps (those of CAM sum to M times the logit, M cells) and s the prediction at z, it is at least
    (M / 2) (f_t(x) - f_s(x)), whatever the change of x: proposition 1. No map of one class has such a bound.

    key: of the explanation, the same for all four maps: a noisy one differs by x and z alone, not by its noise.

    >>> from xmanip_jax import explain
    >>> f = lambda x: jnp.array([1.0, -1.0]) * x.sum()
    >>> two_class_discrepancy(explain.gradient_x_input(), f, jnp.ones(2), -jnp.ones(2), (0, 1))
    Array(4., dtype=float32)
    """
    first, second = (jnp.abs(e(f, x, c, key=key) - e(f, z, c, key=key)).sum() for c in classes)
    return (first + second) / 2


def discrepancy(e: Explanation, f: Model, x: Float[AnyArray, "*shape"], z: Float[AnyArray, "*shape"],
                y: Integer[ArrayLike, ""], *, one_class: bool = False,
                key: RandomKey | None = None) -> Float[Array, ""]:
    """What interpretability-aware training penalises: the change of the label's map, and of the others' by their share.

    ||I(x, y) - I(z, y)||_1 + sum over i != y of w_i ||I(x, i) - I(z, i)||_1, w the probabilities at z without y,
    renormalised, and differentiated as in the released code; the second part is left out with `one_class`.

    Boopathy et al. 2020, their training objective; in the unit of the map. key: as in `two_class_discrepancy`.

    >>> from xmanip_jax import explain
    >>> f = lambda x: jnp.array([1.0, -1.0]) * x.sum()
    >>> discrepancy(explain.gradient_x_input(), f, jnp.ones(2), -jnp.ones(2), 0)
    Array(8., dtype=float32)
    """
    there, logits = _maps(e, f, z, y, key, one_class)
    return _apart(_maps(e, f, x, y, key, one_class)[0], there, logits, y)


def _maps(e, f, x, y, key, one_class):
    """The maps of all classes, or of y alone, and the logits, from one trace: Float[classes, ...], Float[classes]."""
    classes = jnp.eye(*jax.eval_shape(f, x).shape, dtype=x.dtype)
    targets = classes[jnp.asarray(y)][None] if one_class else classes
    return jax.vmap(lambda c: explain.with_logits(e)(f, x, c, key=key), out_axes=(0, None))(targets)


def _apart(here, there, logits, y):
    change = jnp.abs(here - there).reshape(len(here), -1).sum(1)
    if len(here) == 1:
        return change[0]
    others = jax.nn.softmax(jnp.where(jnp.arange(len(here)) == y, -jnp.inf, logits))
    return change[y] + others @ change


def interpretability(a: Ascent, e: Explanation, *, gamma: float = 0.01, inner: str = "same", at: str = "clean",
                     one_class: bool = False) -> Penalty:
    """gamma times the discrepancy to the worst neighbour (Boopathy et al. 2020); needs a key; weight 1.

    An explanation that averages over noise has the same at x and at all its neighbours, other noise in every step.

    | the paper's | inner | at | one_class |
    |---|---|---|---|
    | Int, Int-one-class | same | clean | False, True |
    | Int-Adv | same | attacked | False |
    | Int2, Int2-Adv | loss | clean, attacked | False |

    Args:
      a: the inner ascent; the paper: radius 0.3, step 0.01, 40 steps on MNIST;  e: the paper's is CAM of the last
        features (`explain.cam`), which needs no second derivative.
      inner: "same" maximises what is minimised, "loss" the cross entropy;  at: where the cross entropy is taken.

    Raises ValueError for unknown choices.

    >>> from xmanip_jax import explain
    >>> linear = lambda params, state, x: params * x.sum()
    >>> p = interpretability(Ascent(0.1, 0.1, 1), explain.gradient_x_input(), gamma=1.0)
    >>> bool(p(linear, jnp.array([1.0, -1.0]), None, jnp.full(2, 0.5), 0, jax.random.key(0)) > 0)
    True
    """
    for name, value, known in (("inner", inner, ("same", "loss")), ("at", at, ("clean", "attacked"))):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, got {value!r}")

    def core(f, x, y, key):
        noise = noise_of(key)
        here, clean = _maps(e, f, x, y, noise, one_class)

        def both(z, here=here):
            """gamma times the discrepancy, and the logits, at z."""
            there, logits = _maps(e, f, z, y, noise, one_class)
            return gamma * _apart(here, there, logits, y), logits

        def same(z):
            change, logits = both(z, jax.lax.stop_gradient(here))
            return change + (cross_entropy(logits, y) if at == "attacked" else 0)

        z = ascend(same if inner == "same" else lambda z: cross_entropy(f(z), y), x, a, key=key)
        change, attacked = both(z)
        return (change, clean) if at == "clean" else (change, attacked, z)

    return penalty(core, moves=at == "attacked", unit=a.unit)


def integrated_norm(a: Ascent, *, points: int = 10, inner_points: int = 2, at: str = "clean") -> Penalty:
    """||IG||_1 of the loss from x to the worst neighbour z (RAR, Chen et al. 2019); needs a key.

    IG = (z - x) * mean over k = 1..points of the loss's gradient at x + k / points (z - x). The paper's IG-NORM has
    weight 1 and takes the cross entropy at "clean", IG-SUM-NORM weight 0.1 at "attacked". Here each example has its
    own norm; the released code takes that of the batch.

    Raises ValueError for points below 1 and an unknown `at`.

    >>> linear = lambda params, state, x: params * x
    >>> p = integrated_norm(Ascent(0.1, 0.1, 1))
    >>> bool(p(linear, 1.0, None, jnp.full(2, 0.5), 0, jax.random.key(0)) > 0)
    True
    """
    if min(points, inner_points) < 1:
        raise ValueError(f"points are at least 1, got {points} and {inner_points}")
    if at not in ("clean", "attacked"):
        raise ValueError(f"at is one of clean, attacked, got {at!r}")

    def core(f, x, y, key):
        slope = jax.grad(lambda z: cross_entropy(f(z), y))

        def norm(z, n):
            on_the_way = x[None] + jnp.arange(1, n + 1, dtype=x.dtype).reshape(-1, *[1] * x.ndim) / n * (z - x)[None]
            return jnp.abs((z - x) * jax.vmap(slope)(on_the_way).mean(0)).sum()

        loss = lambda z: cross_entropy(f(z), y) if at == "attacked" else 0.0
        z = ascend(lambda z: loss(z) + norm(z, inner_points), x, a, key=key)
        return (norm(z, points), f(x)) if at == "clean" else (norm(z, points), f(z), z)

    return penalty(core, moves=at == "attacked", unit=a.unit)


def attribution_robustness(a: Ascent, e: Explanation, *, distance: Callable[[Array, Array], Array] | None = None,
                           at: str = "clean") -> Penalty:
    """distance(A(x), A(z)) at the neighbour z where it is largest (FAR, Ivankay et al. 2021); needs a key.

    Args:
      e: the attribution A of the label, its noise as in `interpretability`.
      distance: of two maps, None meaning (1 - Pearson correlation) / 2.
      at: "clean" is their AAT; "attacked" AdvAAT, whose ascent climbs the cross entropy as well.

    Raises ValueError for an unknown `at`.

    >>> from xmanip_jax import explain
    >>> square = lambda params, state, x: params * x ** 2
    >>> p = attribution_robustness(Ascent(0.1, 0.1, 1), explain.gradient_x_input())
    >>> bool(p(square, 1.0, None, jnp.array([0.2, 0.8]), 0, jax.random.key(0)) >= 0)
    True
    """
    if at not in ("clean", "attacked"):
        raise ValueError(f"at is one of clean, attacked, got {at!r}")
    apart = distance or (lambda a, b: (1 - alignment(a - a.mean(), b - b.mean())) / 2)

    def core(f, x, y, key):
        noise = noise_of(key)
        map = lambda z: e(f, z, y, key=noise)
        here = map(x)
        loss = lambda z: cross_entropy(f(z), y) if at == "attacked" else 0.0
        z = ascend(lambda z: loss(z) + apart(jax.lax.stop_gradient(here), map(z)), x, a, key=key)
        there, logits = explain.with_logits(e)(f, z, y, key=noise)
        return (apart(here, there), f(x)) if at == "clean" else (apart(here, there), logits, z)

    return penalty(core, moves=at == "attacked", unit=a.unit)
