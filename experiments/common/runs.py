"""A run folder: what was asked, what is finished, and the results, each file written whole or not at all."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from common import compiled_programs, machines, program
from common.files import RunError, keep_arrays, read_arrays, read_json, write_json
from xmanip_jax import data

VERSIONED = ("jax", "jaxlib", "optax", "numpy", "flax", "torch", "xmanip_jax")
_MARK = "part of"
# Settings that change nothing of the results: any may differ when a run goes on.
_HOW = ("out", "resume", "debug", "devices", "process", "memory")
_LATER: dict[str, Any] = {"images": None, "network": None, "precision": None}  # what older folders ran with
_RENAMED = {"rate": "learning_rate", "base_rate": "base_learning_rate", "judged": "count", "folder": "images"}
_RENAMED_VALUES = {"lrp_dombrowski2019": "lrp"}
_DEBUG = ("debug", Annotated[bool, tyro.conf.arg(help="Show the whole traceback of an error.")],
          dataclasses.field(default=False))


@dataclasses.dataclass(frozen=True)
class Run:
    """The options of every command that keeps a run folder; --help lists them last.

    A new one goes here; where it changes nothing of the results, its name goes into _HOW, else what runs did without it
    into _LATER.
    """

    out: Path | None = None
    """The run folder; default: a new one in runs/, named for what is run and the time."""
    resume: bool = False
    """Go on with the run in --out."""
    devices: int | None = None
    """Number of this machine's devices over which each batch is split; default: one, and in training all."""
    process: str | None = None
    """Share the run, and its folder --out, with other processes of the same command: RANK/COUNT@HOST:PORT, as in
    0/2@localhost:1234 and 1/2@localhost:1234, or auto under Slurm, Open MPI and on TPUs."""


@dataclasses.dataclass(frozen=True)
class SeededRun(Run):
    """Of those that draw from one seed."""

    seed: int = 0
    """Seed of everything random."""


@dataclasses.dataclass(frozen=True)
class Computed(SeededRun):
    """Of those whose drivers take a memory and a precision."""

    memory: str | None = None
    """Memory of what is computed at once, 2GiB or 500MB for example: so many images of a batch, and points of an
    averaged explanation, are taken together as fit; default: no limit. The results are the same up to rounding."""
    precision: Literal["float32", "tf32", "bf16", "highest"] | None = None
    """Precision in which networks multiply, but for certificates: float32 and highest are exact, tf32 and bf16 coarser;
    default: what JAX does on this device, float32 on CPU."""


def command(name: str, config: type, main: Callable[[Any], None], about: str, arguments: Sequence[str] | None) -> None:
    """A script's command line: `main` of the dataclass `config`; every error is one line on stderr, unless --debug."""
    program.begin(name)
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it raises, with its whole stack
    try:
        asked = _asked(config, about, arguments)
        if isinstance(asked, Run) and asked.resume and asked.out is None:
            raise RunError("--resume needs the run folder: --out")
        if isinstance(asked, SeededRun) and asked.seed < 0:
            raise RunError(f"--seed is not negative, got {asked.seed}")
        if isinstance(asked, Run) and asked.process and asked.out is None:
            raise RunError("--process needs the run folder that all processes share: --out")
        machines.begin(getattr(asked, "devices", None), getattr(asked, "process", None))
        if debug:
            jax.config.update("jax_traceback_filtering", "off")
        if program.FRONT_DOOR:
            compiled_programs.keep()
        main(asked)
    except KeyboardInterrupt:
        print(program.interrupted(), file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        sys.exit(f"{name}: {program.line(error)}")


def _asked(config, about, arguments):
    """The options of a command line. What tyro says of wrong ones, in a box, becomes one line."""
    options = dataclasses.make_dataclass(config.__name__, [_DEBUG], bases=(config,), frozen=True)
    options.__doc__ = config.__doc__
    shared = {f.name for f in dataclasses.fields(Computed)}
    options.__dataclass_fields__ = dict(sorted(options.__dataclass_fields__.items(), key=lambda f: f[0] in shared))
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, description=about, args=arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise RunError(f"{_unboxed(box.getvalue()).rstrip('.')} (--help lists the options)") from None


def _unboxed(box):
    """The first section of a message in a box, without its title, and the option that it proposes."""
    lines = [text.strip(" \u2502\u256d\u256e\u2570\u256f\u2500|") for text in box.splitlines()[1:]]
    said = " ".join(text for text in lines if text and set(text) != {"-"})
    proposed = re.search(r"Perhaps you meant:.*?(--[\w-]+)", said)
    first = re.split(r"Perhaps you meant:|Argument helptext:|For full helptext|=====", said)[0].strip()
    return first + (f", perhaps you meant {proposed[1]}" if proposed else "")


def choices(about: str, known: Collection[str]) -> Any:
    """The help of an option that takes names, each of which it lists; `check_known` refuses others.

    For what are few and fixed, a Literal does both.
    """
    return tyro.conf.arg(help=f"{about}: {', '.join(known)}.")


def check_positive(config: Any, *names: str) -> None:
    """Refuse an option that is not positive and finite, or holds a number that is not; None is not given."""
    for name in names:
        value = getattr(config, name)
        of = value if isinstance(value, tuple) else (value,)
        if not all(v is None or v > 0 for v in of):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
        if math.inf in of:
            raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")


def check_some(config: Any, *names: str) -> None:
    """Refuse an option that takes one value or more and got none."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"--{name.replace('_', '-')} takes one value at least")


def check_known(kind: str, asked: str | Sequence[str], known: Collection[str]) -> None:
    """Refuse a name that is not known."""
    for name in (asked,) if isinstance(asked, str) else asked:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def begin(name: str, config: Any) -> tuple[Path, dict]:
    """The folder of a run, --out or runs/<name>-<time>, by `open_run`; and the settings noted in it.

    Files that an option names (weights, patterns, FILE.py:NAME), or the weights in a folder that it names, are
    `same_inputs`.
    """
    out = config.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    machines.agreed(lambda: open_run(out, settings(config), resume=config.resume))
    program.keeping(lambda: f"what is finished is kept: add --out {out} --resume to go on" if computed(out) else
                    f"nothing was finished yet, --out {out} starts anew")
    named = [v for k, v in vars(config).items() if isinstance(v, Path) and k != "out"]
    named += [Path(v.rpartition(":")[0]) for v in vars(config).values() if isinstance(v, str) and ".py:" in v]
    files = [f for v in named for f in ([v] if v.is_file() else sorted(v.glob("*.safetensors")))]
    same_inputs(out, {str(f): np.fromfile(f, np.uint8) for f in files}, "files")
    return out, read_json(out / "config.json")


def same_inputs(out: Path, read: Mapping[str, Any] | Iterable[tuple[str, Any]], name: str = "inputs") -> None:
    """Note what a run reads, in its folder; when it goes on, it must read the same: parts that are kept belong to it.

    read: {what a reader knows it by, a file's name for example: its arrays, a tree}, in order, or such pairs one by
    one;  name: of the note.

    Raises RunError with the first that differs.
    """
    pairs = read.items() if isinstance(read, Mapping) else read
    note, now = out / f"{name}.json", [[key, _digest(value)] for key, value in pairs]
    if not note.exists():
        write_json(note, now)
    before = read_json(note)
    if not isinstance(before, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in before):
        raise RunError(f"{note} is not what a run notes of its inputs: restore it, or choose another --out")
    for old, new in zip_longest(before, now, fillvalue=("nothing", "")):
        if list(old) != list(new):
            differs = f"other contents of {new[0]}" if old[0] == new[0] else f"{new[0]} in the place of {old[0]}"
            raise RunError(f"{out} cannot go on with other inputs ({differs}): restore them, or choose another --out")


def _digest(tree):
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        whole = leaf if isinstance(leaf, data.Folder) else np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {whole.dtype} {whole.shape}".encode())
        for part in whole if whole is leaf else [whole]:  # a folder is read image by image
            v = np.ascontiguousarray(part)
            found.update(v.view(np.uint8).data if v.size else b"")
    return found.hexdigest()[:16]


def settings(config: Any) -> dict:
    """What of a configuration makes the results: all but where they go."""
    found = {k: v for k, v in dataclasses.asdict(config).items() if k not in _HOW}
    return json.loads(json.dumps(found, default=str))


def open_run(out: Path, config: dict, *, resume: bool) -> Path:
    """Create the folder and note the configuration in it; with `resume`, go on in a folder of the same one.

    A folder in which nothing was computed is as good as none. The folder is this process's until it ends, however it
    ends: a lock of the system, nothing that can be left behind.

    Raises RunError, before any computation, when the folder cannot be written, is another process's, already holds a
    run, holds another, or is damaged.
    """
    noted = out / "config.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _lock(out)
        if not computed(out):
            for note in (*out.glob("inputs*.json"), *out.glob("files.json")):
                note.unlink()
            write_json(out / ".run.json", uuid.uuid4().hex)
            write_json(noted, config)
    except OSError as error:
        raise RunError(f"the output folder {out} cannot be written ({error.strerror}): choose another --out"
                       ) from None
    if not noted.exists():
        raise RunError(f"{out} holds results, but no config.json that says what of: choose another --out")
    before = read_json(noted)
    if not isinstance(before, dict):
        raise RunError(f"{noted} holds no settings of a run: choose another --out")
    before = _current(before, config)
    if before.keys() != config.keys():
        only = ", ".join(sorted(before.keys() ^ config.keys()))
        raise RunError(f"{out} holds a run of another study or version ({only}: not settings of both): choose another "
                       "--out")
    if changed := sorted(k for k in config if before[k] != config[k]):
        raise RunError(f"{out} holds a run with other settings ({', '.join(changed)} differ): choose another --out")
    if not resume and computed(out):
        raise RunError(f"{out} already holds results: pass --resume to go on, or choose another --out")
    return out


def computed(out: Path) -> bool:
    """Whether a run folder, or one of the trainings in it, holds anything that took time."""
    kept = (f for place in ("", "*/") for name in ("results.json", "arrays.npz", "parts/*.npz", "checkpoints/*")
            for f in out.glob(place + name) if f.parent.name != "checkpoints" or f.name.isdigit())
    return next(kept, None) is not None


def _current(before, now):
    """The settings noted of a run by today's names, with what older runs do not note of those asked for now."""
    names = _RENAMED | ({"images": "train_images"} if isinstance(before.get("images"), int) else {})
    later = {name: value for name, value in _LATER.items() if name in now}
    return later | {names.get(name, name): _today(value) for name, value in before.items()}


def _today(value):
    """A setting's value, or a list of them, by today's name."""
    if isinstance(value, list):
        return [*map(_today, value)]
    return _RENAMED_VALUES.get(value, value) if isinstance(value, str) else value


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


def finished(out: Path, index: int, compute: Callable[[], dict[str, np.ndarray]], *,
             name: str = "") -> dict[str, np.ndarray]:
    """Part `index` of a run, or of that of its pieces that `name` says: read if it is there, else computed and kept.

    Where several processes share the run, by the one whose share it is; the others wait.

    Raises RunError for a part that is damaged, or was not made by this run for this place.
    """
    path = out / "parts" / f"{name}{'-' * bool(name)}{index:05d}.npz"
    mark = {_MARK: np.array(f"{run} {path.name}")} if (run := _run(out)) else {}
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        if machines.mine(path, index):
            keep_arrays(path, {name: np.asarray(value) for name, value in compute().items()} | mark)
        else:
            machines.wait_for(path)
    way_out = "delete it, and --resume computes it again"
    arrays = read_arrays(path, way_out)
    if mark and str(arrays.pop(_MARK, "")) != str(mark[_MARK]):
        raise RunError(f"{path} is not a part of this run: {way_out}")
    return arrays


def _run(out):
    """What the parts of a run are marked with; None for a folder from before they were."""
    note = out / ".run.json"
    return read_json(note) if note.exists() else None


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
