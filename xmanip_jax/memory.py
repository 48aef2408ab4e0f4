"""How much memory a driver may take, and what fits: how many examples, and points of an average, at once.

    attacked = attack.manipulation(e, memory="2GiB")
    attacked = attack.manipulation(e, memory=memory.Budget("2GiB", told=print))  # and says what it chose

XLA states what a compiled program takes. Each program of a driver is asked before it runs, for the part of the batch at
hand; the executable that is asked is the one that runs.
"""

import contextlib
import os
import re
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax

__all__ = ["Budget", "Choice", "available", "parsed", "shown", "stated"]

_UNITS = {"b": 1} | {f"{p}b": 1000**k for k, p in enumerate("kmgt", 1)} | {
    f"{p}ib": 1024**k for k, p in enumerate("kmgt", 1)}
_EXPECTED = 'a positive number of bytes, or a text such as "2GiB", "500 MB"'


class Choice(NamedTuple):
    """What a driver does at once, so that it stays within a budget.

    As text: "1 of 8 examples and 15 of 30 points of an average at once take 1.4 GiB of 2.0 GiB".
    """

    examples: int
    of: int
    points: int | None  # of each average; None: as many as the explanation says
    averaged: int  # the most points that an average has; 0: there is none
    takes: int  # bytes, of the largest program, as XLA states them
    memory: int  # bytes of the budget

    def __str__(self) -> str:
        average = f" and {self.points} of {self.averaged} points of an average" if self.points else ""
        return (f"{self.examples} of {self.of} example{'s' * (self.of > 1)}{average} at once take{'s' * (not average)} "
                f"{shown(self.takes)} of {shown(self.memory)}")


class Budget:
    """Memory for a driver, in the place of a number: `told(choice)` is called with what fits, before the work is done.

    memory: see `parsed`. Raises ValueError for more than is `available`.
    """

    def __init__(self, memory: int | str, told: Callable[[Choice], Any] | None = None) -> None:
        self.bytes, self.told = parsed(memory), told
        self.usable = self.bytes - reserve(self.bytes)  # for programs, as XLA states them
        if self.bytes > (free := available()):
            raise ValueError(f"memory of {shown(self.bytes)} is more than is free: at most {shown(free)} fits")


def parsed(memory: int | str) -> int:
    """Bytes of a number, or of a text with a unit: kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.

    Raises ValueError for anything else, zero and less included.

    >>> parsed("2GiB"), parsed("1.5 MB"), parsed(4096)
    (2147483648, 1500000, 4096)
    """
    if isinstance(memory, str):
        found = re.fullmatch(r"(\d+\.?\d*)\s*([a-z]*)", memory.strip().lower())
        unit = found and _UNITS.get(found[2] or "b")
        size = int(float(found[1]) * unit) if found and unit else 0
    else:
        size = memory if isinstance(memory, int) and not isinstance(memory, bool) else 0
    if size < 1:
        raise ValueError(f"memory is {_EXPECTED}, got {memory!r}")
    return size


def reserve(memory: int) -> int:
    """Bytes of a memory that are left to what XLA does not state: the compiler, its code, workspaces of products.

    >>> shown(reserve(parsed("8GiB"))), shown(reserve(parsed("1GiB")))
    ('512.0 MiB', '256.0 MiB')
    """
    return min(memory // 4, 2**29)


def needed(takes: int) -> int:
    """The least memory whose usable part holds a program.

    >>> needed(3072), needed(2**32) == 2**32 + 2**29
    (4096, True)
    """
    return min(-(-takes * 4 // 3), takes + 2**29)


def shown(size: int) -> str:
    """Bytes as text, rounded down.

    >>> shown(3 * 2**29), shown(2000)
    ('1.5 GiB', '1.9 KiB')
    """
    unit = next((u for u in ("TiB", "GiB", "MiB", "KiB") if size >= _UNITS[u.lower()]), "B")
    return f"{size} B" if unit == "B" else f"{int(10 * size / _UNITS[unit.lower()]) / 10} {unit}"


def available() -> int:
    """Bytes that are free for computations on the default device: of the host for CPU, within a container's limit."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, TypeError):
        free = 1024 * int(re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text())[1])  # type: ignore[index]
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit, "max"
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def stated(jitted: Any, args: tuple) -> int:
    """Bytes that a jitted function takes, as XLA states them: arguments, results and values in between.

    What a result shares with an argument that it takes the place of counts once. Over several devices: of each.

    >>> import jax.numpy as jnp
    >>> stated(jax.jit(lambda x: 2 * x), (jax.ShapeDtypeStruct((10, 100), jnp.float32),))
    8000
    """
    found = jitted.lower(*args).compile().memory_analysis()
    return (found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
            - found.alias_size_in_bytes)


class Chosen(NamedTuple):
    """What programs are made with; hashable, and part of what jit knows a program by."""

    points: int | None = None  # of an average at once
    rounded: Hashable = None  # of the operands of products, see precision.py


chosen = jax.make_user_context(None)  # a Chosen inside the programs of drivers
seen: ContextVar[list[int] | None] = ContextVar("seen", default=None)


def points_at_once(n: int, chunk: int | None) -> int | None:
    """How many of the n points of an average are computed at once: chunk, None meaning all, or fewer by a driver.

    A driver's number is lowered to a divisor of n that is near.
    """
    if (noted := seen.get()) is not None:
        noted.append(min(n, chunk or n))
    most = chosen.value and chosen.value.points
    if most is None or (chunk or n) <= most:
        return chunk
    whole = next(k for k in range(most, 0, -1) if n % k == 0)
    return whole if 2 * whole >= most else most


class TooLarge(Exception):
    """A program that does not fit."""

    def __init__(self, program: Any, takes: int) -> None:
        super().__init__(program, takes)
        self.program, self.takes = program, takes


class Attempt:
    """One part of a batch, and what its programs take."""

    def __init__(self, budget: Budget, tell: Callable[[int, int], Any]) -> None:
        self.budget, self.tell, self.told = budget, tell, 0
        self.taken: dict[Any, int] = {}  # by program

    def admit(self, program: Any, jitted: Any, args: tuple) -> None:
        """Raises TooLarge for a program over the budget. One that comes again says that all before it have run."""
        if program in self.taken:
            return self.say()
        self.taken[program] = stated(jitted, args)
        if self.taken[program] > self.budget.usable:
            raise TooLarge(program, self.taken[program])

    def say(self) -> None:
        """Tell what fits, unless it was told."""
        if (takes := max(self.taken.values())) > self.told:
            self.told = takes
            self.tell(takes, max(program.averaged for program in self.taken))


attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


@contextlib.contextmanager
def attempting(now: Attempt | None) -> Iterator[None]:
    """Programs inside are admitted by `now`."""
    token = attempt.set(now)
    try:
        yield
    finally:
        attempt.reset(token)


def fewer(count: int, took: dict[int, int], budget: int) -> int:
    """The next number to try, below `count`, from what some numbers took: on the line through two, or in proportion.

    A half where what they took does not grow.

    >>> fewer(8, {8: 1000}, 500), fewer(8, {8: 1000, 4: 600}, 500)
    (4, 3)
    """
    low, *more = sorted(took)
    if more:
        slope = (took[more[0]] - took[low]) / (more[0] - low)
        guess = low + (budget - took[low]) // slope if slope > 0 else count // 2
    else:
        guess = low * budget // took[low]
    return max(1, min(int(guess), count - 1))
