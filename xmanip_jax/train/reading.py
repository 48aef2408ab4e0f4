"""Batches that are read while the steps before them run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["ahead"]


def ahead(read: Callable[[int], Any], steps: Iterable[int], depth: int = 2) -> Iterator[tuple[int, Any]]:
    """(i, read(i)) for each i of `steps`, in order; a thread reads up to `depth` of them before they are asked for.

    An error of read is raised when its turn comes. Memory: depth + 1 results.

    >>> list(ahead(lambda i: i ** 2, range(3)))
    [(0, 0), (1, 1), (2, 4)]
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque = deque()
        try:
            for i in steps:
                waiting.append((i, thread.submit(read, i)))
                if len(waiting) > depth:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _next(waiting):
    i, found = waiting.popleft()
    return i, found.result()
