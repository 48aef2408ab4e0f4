"""What drivers compile and run: programs over a batch, in parts that fit a memory, in a precision."""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import memory as budgets
from .devices import fetched, placed
from .memory import Attempt, Budget, Choice, Chosen, TooLarge, attempting, chosen, fewer, needed, shown
from .precision import fraction_bits, multiplying, rounding
from .rewrite.products import with_products

__all__ = ["Machine", "Part", "Program", "first_example", "in_parts"]

first: ContextVar[int] = ContextVar("first", default=0)


class Program:
    """`f` over a batch, as `jax.jit(jax.vmap(f, in_axes=axes))`, with the precision and the memory of its driver.

    >>> Program(lambda w, x: w * x, None, 0)(2.0, jnp.ones(2))
    Array([2., 2.], dtype=float32)
    """

    def __init__(self, f: Callable[..., Any], *in_axes: Any, axes: tuple | None = None,
                 donate_argnums: int | Sequence[int] = ()) -> None:
        self.averaged = 0  # the most points of an average in it, known once it was traced
        self._jitted = jax.jit(self._made(jax.vmap(f, in_axes=axes or in_axes)), donate_argnums=donate_argnums)

    def _made(self, over):
        def run(*args):
            bits, seen = chosen.value.rounded, []
            token = budgets.seen.set(seen)
            try:
                program = with_products(over, bits and rounding(bits), order=jax.default_backend() == "cpu")
                return program(*args)
            finally:
                budgets.seen.reset(token)
                self.averaged = max([self.averaged, *seen])

        return run

    def __call__(self, *args: Any) -> Any:
        with chosen(chosen.value or Chosen()):
            if now := budgets.attempt.get():
                now.admit(self, self._jitted, args)
            return self._jitted(*args)

    def takes(self, *args: Any) -> int:
        """Bytes, see `memory.stated`; args: arrays or jax.ShapeDtypeStruct."""
        with chosen(chosen.value or Chosen()):
            return budgets.stated(self._jitted, args)


class Machine:
    """Where and how a driver computes: what its options devices, memory and precision say, checked."""

    def __init__(self, devices: Sequence[jax.Device] | None, memory: int | str | Budget | None,
                 precision: str | None) -> None:
        self.devices, self.group, self.precision = devices, len(devices or [0]), precision
        self.budget = memory if isinstance(memory, Budget | None) else Budget(memory)
        self.bits = fraction_bits(precision)
        self.fits: dict[int, tuple[int, int | None]] = {}  # by the size of a batch: examples, and points, at once


class Part(NamedTuple):
    """Which examples of a batch are computed now: examples [start, stop) of `of`, part `number` of `parts`."""

    start: int
    stop: int
    of: int
    number: int
    parts: int


def in_parts(run: Callable[[Any, Part], Any], batch: Any, machine: Machine, axes: Any = 0, *, size: int | None = None,
             tell: bool = True) -> Any:
    """run(part of the batch, which) -> results, for parts that fit the machine's memory; joined.

    Args:
      batch: a tree of [n, ...]; the last part is filled up with the last example, and cut again.
      axes: of the examples in the results, a tree of which each leaf holds for what is below it; None: the same in
        every part.
      size: the most examples at once;  tell: the budget what fits.

    The whole batch is tried first. What does not fit says what it takes before anything of it runs: then fewer
    examples are tried, by the line through two trials; with one example, fewer points of an average at once, a power
    of two, by the same line. The next batch of the same size starts with what fitted.

    Raises ValueError, with what one example needs, where that does not fit.
    """
    pixels = jax.tree.leaves(batch)[0]
    n, over = len(pixels), placed(pixels, None)
    group = machine.group if over is None else len(over.device_set)  # type: ignore[union-attr]
    with multiplying(machine.precision):
        size, points = machine.fits.get(n, (min(size or n, n), None))
        took: dict[tuple[Any, bool], dict[int, int]] = {}  # by program and whether points or examples are counted
        while True:
            size = _even(n, size, group)
            try:
                results = _run(run, batch, machine, axes, size, points, tell)
                machine.fits[n] = size, points
                return results
            except TooLarge as error:
                size, points = _smaller(size, points, error, took, machine.budget, group)


def _run(run, batch, machine, axes, size, points, tell):
    n = len(jax.tree.leaves(batch)[0])
    told = lambda takes, averaged: tell and machine.budget.told and machine.budget.told(
        Choice(min(size, n), n, points, averaged, takes, machine.budget.bytes))
    now, results = machine.budget and Attempt(machine.budget, told), []
    with chosen(Chosen(points, machine.bits)), attempting(now):
        for index, start in enumerate(range(0, n, size)):
            stop = min(start + size, n)
            rows = np.minimum(np.arange(start, start + size), n - 1)
            token = first.set(start)
            try:
                part = batch if size == n else jax.tree.map(lambda v, rows=rows: v[rows], batch)
                found = run(part, Part(start, stop, n, index, math.ceil(n / size)))
            finally:
                first.reset(token)
            results.append(found if size == n else fetched(found))
    if now:
        now.say()
    if size == n:
        return results[0]

    def joined(axis, *parts):
        if axis is None:
            return parts[0]
        whole = lambda *v: jnp.asarray(np.concatenate(v, axis)[(slice(None),) * axis + (slice(n),)])
        return jax.tree.map(whole, *parts)

    return jax.tree.map(joined, axes, *results, is_leaf=lambda axis: axis is None)


def _even(n, size, group):
    """`size` or less, so that parts are about equal: a multiple of the number of devices."""
    parts = math.ceil(n / max(size, 1))
    return math.ceil(math.ceil(n / parts) / group) * group


def _smaller(size, points, error, took, budget, group):
    """(examples, points of an average) to try next, after what did not fit."""
    limit, averaged = budget.usable, error.program.averaged
    last = points is not None or size == group
    count = min(points or averaged, averaged) if last else size // group
    known = took.setdefault((error.program, last), {})
    known[count] = error.takes
    if not last:
        return fewer(count, known, limit) * group, None
    if count <= 1:
        raise ValueError(f"memory of {shown(budget.bytes)} is too small: one example needs "
                         f"{shown(needed(error.takes))}") from None
    return size, 2 ** int(math.log2(fewer(count, known, limit)))


def first_example() -> int:
    """The number in its batch of the first example of the part that is computed now."""
    return first.get()

