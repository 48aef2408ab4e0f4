"""A run folder: what was asked, what is finished, and the results, each file written whole or not at all."""

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

VERSIONED = ("jax", "jaxlib", "optax", "numpy", "flax", "torch", "xmanip_jax")


class RunError(ValueError):
    """A run folder that cannot be used as asked."""


def command(name: str, config: type, main: Callable[[Any], None], about: str, arguments: Sequence[str] | None) -> None:
    """A script's command line: `main` of the dataclass `config`; every foreseeable error is one line on stderr."""
    try:
        asked = tyro.cli(config, description=about, args=arguments)
        if getattr(asked, "resume", False) and asked.out is None:
            raise RunError("--resume needs the run folder: --out")
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it raises, with its whole stack
        main(asked)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{name}: {error}")


def check_positive(config: Any, *names: str) -> None:
    """Refuse an option that is not positive, or holds a number that is not; None is not given."""
    for name in names:
        value = getattr(config, name)
        if not all(v is None or v > 0 for v in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")


def check_known(kind: str, asked: str | Sequence[str], known: Collection[str]) -> None:
    """Refuse a name that is not known."""
    for name in (asked,) if isinstance(asked, str) else asked:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def begin(name: str, config: Any) -> tuple[Path, dict]:
    """The folder of a run, --out or runs/<name>-<time>, by `open_run`; and the settings noted in it.

    Files that an option names (weights, patterns), or the weights in a folder that it names, are `same_inputs`.
    """
    out = config.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    open_run(out, settings(config), resume=config.resume)
    named = [v for k, v in vars(config).items() if isinstance(v, Path) and k != "out"]
    files = [f for v in named for f in ([v] if v.is_file() else sorted(v.glob("*.safetensors")))]
    same_inputs(out, {str(f): np.fromfile(f, np.uint8) for f in files}, "files")
    return out, json.loads((out / "config.json").read_text())


def same_inputs(out: Path, read: Mapping[str, Any], name: str = "inputs") -> None:
    """Note what a run reads, in its folder; when it goes on, it must read the same: parts that are kept belong to it.

    read: {what a reader knows it by, a file's name for example: its arrays, a tree}, in order;  name: of the note.

    Raises RunError with the first that differs.
    """
    note, now = out / f"{name}.json", [[key, _digest(value)] for key, value in read.items()]
    if not note.exists():
        write_json(note, now)
    for old, new in zip_longest(json.loads(note.read_text()), now, fillvalue=("nothing", "")):
        if list(old) != list(new):
            differs = f"other contents of {new[0]}" if old[0] == new[0] else f"{new[0]} in the place of {old[0]}"
            raise RunError(f"{out} cannot go on with other inputs ({differs}): restore them, or choose another --out")


def _digest(tree):
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        v = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {v.dtype} {v.shape}".encode())
        found.update(v.view(np.uint8).data if v.size else b"")
    return found.hexdigest()[:16]


def settings(config: Any) -> dict:
    """What of a configuration makes the results: all but where they go."""
    found = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "resume")}
    return json.loads(json.dumps(found, default=str))


def open_run(out: Path, config: dict, *, resume: bool) -> Path:
    """Create the folder and note the configuration in it; with `resume`, go on in a folder of the same one.

    The folder is this process's until it ends, however it ends: a lock of the system, nothing that can be left behind.

    Raises RunError, before any computation, when the folder cannot be written, is another process's, already holds a
    run, or holds another.
    """
    noted = out / "config.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _lock(out)
        if not noted.exists():
            write_json(noted, config)
    except OSError as error:
        raise RunError(f"the output folder {out} cannot be written: {error.strerror}") from None
    before = json.loads(noted.read_text())
    if before != config:
        changed = sorted(k for k in before.keys() | config.keys() if before.get(k) != config.get(k))
        raise RunError(f"{out} holds a run with other settings ({', '.join(changed)} differ): choose another --out")
    if not resume and any(out.glob("parts/*.npz")):
        raise RunError(f"{out} already holds results: pass --resume to go on, or choose another --out")
    return out


def _lock(out):
    held = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)  # stays open: closing it would unlock
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.pread(held, 20, 0).decode() or "unknown"
        os.close(held)
        raise RunError(f"{out} is in use by another run (process {owner}): wait for it, or choose another --out"
                       ) from None
    os.ftruncate(held, 0)
    os.pwrite(held, str(os.getpid()).encode(), 0)


def write_json(path: Path, value) -> None:
    """Write JSON atomically."""
    _atomic(path, lambda f: f.write((json.dumps(value, indent=2) + "\n").encode()))


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz atomically."""
    _atomic(path, lambda f: np.savez_compressed(f, **arrays))


def finished(out: Path, index: int, compute: Callable[[], dict[str, np.ndarray]], *,
             name: str = "") -> dict[str, np.ndarray]:
    """Part `index` of a run, or of that of its pieces that `name` says: read if it is there, else computed and kept."""
    path = out / "parts" / f"{name}{'-' * bool(name)}{index:05d}.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_arrays(path, {name: np.asarray(value) for name, value in compute().items()})
    with np.load(path) as part:
        return dict(part)


def keeping(out: Path, name: str, seconds: str) -> Callable[..., dict[str, np.ndarray]]:
    """keep(index, compute): `finished` with the time that an example of the part took as one more array, `seconds`."""

    def keep(index, compute):
        return finished(out, index, lambda: _timed(compute, seconds), name=name)

    return keep


def _timed(compute, name):
    start = time.perf_counter()
    arrays = {key: np.asarray(value) for key, value in compute().items()}
    count = len(next(iter(arrays.values())))
    return arrays | {name: np.full(count, (time.perf_counter() - start) / count)}


def environment() -> dict:
    """What a reader needs to repeat the numbers: versions, commit, device."""
    modules = {name: sys.modules.get(name) for name in VERSIONED}
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True,
                         text=True, check=False)
    return {"python": platform.python_version(), "commit": git.stdout.strip() or "unknown",
            "versions": {name: m.__version__ for name, m in modules.items() if m is not None},
            "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} host cores"}


def _atomic(path, write):
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
