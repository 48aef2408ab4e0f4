"""Files of a run: written whole or not at all, and read with an error that names the file and the way out.

Where several processes share a run, the first of them writes its files; parts are written by whom they belong to.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from common import machines, program
from xmanip_jax import plot


class RunError(ValueError):
    """A run folder that cannot be used as asked."""


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises RunError where there is none, or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path.parent} holds no {path.name}: is it a run folder?") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged, it holds no JSON ({error}): restore it, or choose another --out") from None


def read_arrays(path: Path, way_out: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz; RunError with the way out where it is damaged, whatever the bytes make a reader raise."""
    try:
        with open(path, "rb") as file, np.load(file) as found:
            return dict(found)
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise RunError(f"{path} is damaged ({reason}): {way_out}") from None


def write_json(path: Path, value) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    _result(path, lambda f: f.write(text.encode()))


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz atomically."""
    _result(path, lambda f: np.savez_compressed(f, **arrays))


def keep_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz atomically, in whichever process of a run computed it."""
    _atomic(path, lambda f: np.savez_compressed(f, **arrays))


def save_figure(figure, path: Path) -> None:
    """Write a figure atomically, as .png."""
    _result(path, lambda f: plot.save(figure, f))


def _result(path, write):
    """What every process of a run knows, the first writes; for the others it is there afterwards, too."""
    if machines.first():
        _atomic(path, write)
    else:
        machines.wait_for(path)


def _atomic(path, write):
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with program.WHOLE:
        try:
            with open(partial, "wb") as f:
                write(f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror}): what is finished is kept, make room and add "
                           "--resume") from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
