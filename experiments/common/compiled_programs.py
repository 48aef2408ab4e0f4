"""The programs that XLA has compiled, kept on disk, so that the same command starts sooner the next time."""

import os
import warnings
from pathlib import Path

import jax

MOST = 2 * 2**30  # bytes


def keep() -> Path | None:
    """Turn JAX's persistent compilation cache on, in a folder of the user's that nobody else can read or write.

    The folder is $XDG_CACHE_HOME/xmanip_jax/xla, by default in ~/.cache. JAX_COMPILATION_CACHE_DIR names another one,
    which is then as JAX uses it, and JAX_ENABLE_COMPILATION_CACHE=false turns it off. Where the folder cannot be
    written, or is not the user's own, programs are compiled anew every time.

    Returns the folder, None without one.
    """
    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir:
        return None
    try:
        place = _private(_home() / "xmanip_jax" / "xla")
        _pruned(place, MOST)
    except (OSError, RuntimeError):  # no home, a full or read-only disk, another user's folder
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)  # a command compiles dozens of small ones
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    return place


def _home():
    """The user's folder of what can be made again; a relative one is not heeded, as the standard says."""
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return told if told.is_absolute() else Path.home() / ".cache"


def _private(folder):
    """The folder, made if need be, of mode 0700; OSError where it is another user's or cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another user's")
    probe = folder / f".{os.getpid()}"
    probe.touch()
    probe.unlink()
    return folder


def _pruned(folder, most):
    """Delete the files that were written first until those that stay are `most` bytes together."""
    files = sorted((f for f in folder.iterdir() if f.is_file()), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > most:
            file.unlink(missing_ok=True)
