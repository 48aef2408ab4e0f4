"""Tokens back on the image: which of a row of tokens are places of a grid, and which stand in front of it."""

import math
from collections.abc import Sequence

from ..types import Array, Float

__all__ = ["on_grid", "token_grid"]


def token_grid(tokens: int, shape: Sequence[int], grid: Sequence[int] | None = None,
               class_tokens: int | None = None) -> tuple[tuple[int, ...], int]:
    """(the grid that tokens are places of, how many tokens stand in front of it).

    shape: of the input, whose proportions a grid that is not given has; a row or a sequence keeps its own length.
    class_tokens: None is none, or one if the numbers say so.

    Raises ValueError where the tokens do not make the grid, and where none is found.

    >>> token_grid(197, (224, 224, 3)), token_grid(64, (32, 32, 3)), token_grid(10, (28, 28), (3, 3))
    (((14, 14), 1), ((8, 8), 0), ((3, 3), 1))
    """
    fronts = (0, 1) if class_tokens is None else (class_tokens,)
    if grid is not None:
        for front in fronts:
            if math.prod(grid) + front == tokens:
                return tuple(grid), front
        beside = " or ".join(map(str, fronts))
        raise ValueError(f"a grid of {_times(grid)} = {math.prod(grid)} places and {beside} class tokens are not the "
                         f"{tokens} tokens there are: give another grid= or class_tokens=")
    for front in fronts:
        found = _proportional(tokens - front, tuple(shape))
        if found:
            return found, front
    without = f"{tokens - class_tokens} tokens without {class_tokens} class tokens" if class_tokens else (
        f"{tokens} tokens" + f", nor {tokens - 1} beside a class token," * (class_tokens is None))
    raise ValueError(f"no grid in the proportions of the input {_times(shape)} has {without}: there may be no class "
                     "token, or several; give grid=(rows, columns) and class_tokens=")


def _proportional(n, shape):
    """The grid of n places in the proportions of an input, or None."""
    if len(shape) <= 2 and n == shape[0]:
        return (n,)
    if len(shape) == 1 or n < 1:
        return None
    first = len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)
    places = shape if len(shape) == 2 else shape[1:] if first else shape[:-1]
    scale = (n / math.prod(places)) ** (1 / len(places))
    found = tuple(round(size * scale) for size in places)
    return found if math.prod(found) == n and all(
        abs(size * scale - k) < 1e-6 * k for size, k in zip(places, found, strict=True)) else None


def on_grid(values: Float[Array, "..."], grid: tuple[int, ...], front: int) -> Float[Array, "..."]:
    """Without the tokens in front, on the grid."""
    return values[front:].reshape(*grid, *values.shape[1:])


def _times(shape):
    return " x ".join(map(str, shape))
