"""Checks of numbers that many functions take."""

import jax

from .types import ArrayLike

__all__ = ["check_count", "check_positive"]


def check_count(**counts: int) -> None:
    """Raises ValueError naming the count that is not a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a positive integer, got {value}")


def check_positive(**values: ArrayLike) -> None:
    """Raises ValueError naming the value that is known and not positive."""
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise ValueError(f"{name} is positive, got {value}")
