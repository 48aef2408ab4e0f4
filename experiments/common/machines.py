"""The devices that share a batch, and the processes that share a run.

A run is a list of parts, each a file of the run folder, which all processes see. Each process computes its share of the
parts on its own devices and waits for the others' files; all then know everything, and the first writes the result. So
no numbers are sent, a part does not depend on how many processes there are, and what a killed process leaves is what
any killed run leaves. A training is one batch over the devices of all processes instead: gradients have to meet.
"""

import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from xmanip_jax import devices as on

_asked: dict[str, int | None] = {"devices": None}  # of the command that runs


def begin(devices: int | None, process: str | None) -> None:
    """A command begins, with its options --devices and --process; the other processes than the first say nothing.

    Raises ValueError for a number of devices that this process has not, and for what names no process.
    """
    if process is not None:
        _join(process)
    if devices is not None and not 1 <= devices <= jax.local_device_count():
        raise ValueError(f"--devices {devices}: there are 1 to {jax.local_device_count()} here, of the kind "
                         f"{jax.devices()[0].device_kind}")
    _asked["devices"] = devices


def _join(process):
    if process == "auto":
        options = {}
    elif found := re.fullmatch(r"(\d+)/(\d+)@(\S+:\d+)", process):
        rank, count, address = found.groups()
        if int(rank) >= int(count):
            raise ValueError(f"--process {process}: of {count} processes the last is {int(count) - 1}")
        options = {"coordinator_address": address, "num_processes": int(count), "process_id": int(rank)}
    else:
        raise ValueError(f"--process is auto, or RANK/COUNT@HOST:PORT as in 0/2@localhost:1234, got {process!r}")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--process {process}: {str(error).strip().splitlines()[0]}") from None
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the rest of the process)


def first() -> bool:
    """Whether this process writes the result."""
    return jax.process_index() == 0


def own(batch: int) -> list[jax.Device]:
    """The devices of this process that share a batch of this size: --devices or one, as many of them as divide it."""
    most = _asked["devices"] or 1
    return jax.local_devices()[:max(n for n in range(1, most + 1) if batch % n == 0)]


def everywhere() -> list[jax.Device]:
    """Those that share a batch of a training: as many as --devices of each process, or all."""
    count = _asked["devices"] or jax.local_device_count()
    return [d for i in range(jax.process_count()) for d in jax.local_devices(i)[:count]]


def spread(tree: Any) -> Any:
    """Arrays [b, ...] with their first axis split over `own` devices, which drivers take as they are.

    Without --devices they stay as they lie.
    """
    return on.spread(tree, own(len(jax.tree.leaves(tree)[0]))) if _asked["devices"] else tree


def mine(path: Path, index: int) -> bool:
    """Whether part `index` of a run, kept in this file, is this process's to compute."""
    return (index + zlib.crc32(path.stem.rstrip("0123456789").encode())) % jax.process_count() == jax.process_index()


def wait_for(path: Path) -> None:
    """Return once another process has written the file. JAX ends this process where another one has died."""
    while not path.exists():
        time.sleep(0.1)


def agreed(do: Callable[[], Any]) -> None:
    """`do` in the first process, before the others go on; where it raises ValueError, all do."""
    said = b""
    try:
        if first():
            do()
    except ValueError as error:
        if jax.process_count() == 1:
            raise
        said = str(error).encode()[:1000]
    if jax.process_count() > 1:
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(said.ljust(1000, b"\0"), np.uint8))
        if text := bytes(np.asarray(told)).rstrip(b"\0").decode(errors="replace"):
            raise ValueError(text)
