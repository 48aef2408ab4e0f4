"""Signs that an attack says more about its own weakness than about the defence (after Carlini et al. 2019)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..devices import fetched
from .change import Changed

__all__ = ["Flag", "Flags", "flags"]

ROUNDING = 1e-3  # changes below are rounding, and no share is taken of less


class Flag(NamedTuple):
    """raised: whether value, a share in [0, 1], is above limit."""

    raised: bool
    value: float
    limit: float


class Flags(NamedTuple):
    """The signs of a weak attack, one `Flag` each; `flags` says what each compares."""

    zero_gradient: Flag
    gradient_free_wins: Flag
    restarts_help: Flag
    surrogate_only: Flag
    random_maps: Flag
    budget_helps: Flag


def flags(found: Changed, *blind: Changed, longer: Changed | None = None, zero_gradient: float = 0.05,
          gradient_free_wins: float = 0.1, restarts_help: float = 0.1, surrogate_only: float = 0.25,
          random_maps: float = 0.25, budget_helps: float = 0.02) -> Flags:
    """Whether the changes that gradient ascent found, however small, can be trusted to be the largest.

    Args:
      found: of `largest_change`, at least 2 restarts.
      blind: of the same images, by searches that do not see the model's gradient: `random_search`, `transfer`.
      longer: of the same images, or the first of them, by the same search with more gradients, ten times as many say.
      the others: the limits of the flags.

    Each flag is a mean over the images; shares are of the largest mean change that any of the searches found.
      zero_gradient: the share of steps at which the gradient was zero in every pixel, or undefined.
      gradient_free_wins: what the blind searches found beyond the ascent.
      restarts_help: what the second half of the restarts found beyond the first half.
      surrogate_only: what the surrogate's map changed beyond the model's own.
      random_maps: the change by noise of a hundredth of the ball, or the share of images whose clean map is constant if
        larger: such maps change without an attack, and a change says nothing.
      budget_helps: what `longer` found beyond the ascent, of its own mean change; nan, not raised, without `longer`.

    Returns Flags of Flag(raised, value, limit), on the host.

    Raises ValueError for a single restart, for results of other images and for a `longer` that took no more gradients.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> pixels, e = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1), explain.gradient()
    >>> search = attack.largest_change(e, epsilon=0.1, steps=20, restarts=2, surrogate=smooth.none())
    >>> blind = attack.random_search(e, epsilon=0.1, steps=40)
    >>> net = lambda x: jnp.stack([jnp.sum(x * jnp.round(9 * x)), 0.0])  # its gradient is a staircase
    >>> found, free = (s(net, pixels, key=jax.random.key(0)) for s in (search, blind))
    >>> [name for name, flag in attack.flags(found, free)._asdict().items() if flag.raised]
    ['zero_gradient', 'gradient_free_wins', 'restarts_help']
    """
    found, *blind = fetched((found, *blind))  # type: ignore[assignment]
    if len(found.by_restart) < 2:
        raise ValueError("flags compare restarts: give largest_change at least 2")
    for other in blind:
        if not np.array_equal(other.clean.pixels, found.clean.pixels):
            raise ValueError("the searches saw different images")
    more = _more(found, longer) if longer else float("nan")
    best = np.stack([np.asarray(f.change, np.float64) for f in (found, *blind)]).max(0)
    change, whole = np.asarray(found.change, np.float64), max(best.mean(), ROUNDING)
    half = np.asarray(found.by_restart[:len(found.by_restart) // 2], np.float64).max(0)
    beyond = lambda more, less: float(np.maximum(np.asarray(more) - less, 0).mean() / max(whole, np.mean(more)))
    flat = np.ptp(np.asarray(found.clean.heatmap).reshape(len(change), -1), axis=1) == 0
    noise = np.nan_to_num(np.asarray(found.by_noise, np.float64))
    values = (float(jnp.mean(found.zero_gradient)), beyond(best, change), beyond(found.by_restart.max(0), half),
              beyond(found.under_surrogate, change), float(max(flat.mean(), min(noise.mean() / whole, 1))), more)
    limits = zero_gradient, gradient_free_wins, restarts_help, surrogate_only, random_maps, budget_helps
    return Flags(*(Flag(v > limit, v, limit) for v, limit in zip(values, limits, strict=True)))


def _more(found, longer):
    """The share of the change that only the longer search found."""
    n = len(longer.change)
    if not np.array_equal(longer.clean.pixels, found.clean.pixels[:n]):
        raise ValueError("the searches saw different images")
    if longer.evaluations <= found.evaluations:
        raise ValueError(f"longer is a search with more gradients than found's {found.evaluations}, got "
                         f"{longer.evaluations}")
    change = np.asarray(longer.change, np.float64)
    return float(np.maximum(change - np.asarray(found.change[:n], np.float64), 0).mean() / max(change.mean(), ROUNDING))
