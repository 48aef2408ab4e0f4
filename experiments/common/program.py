"""How an experiment ends early: Ctrl-C and errors are one line, from the first import on.

A front door imports this module before anything else: JAX and its neighbours take seconds to import.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

CURSOR = "\x1b[?25h\n"
WHOLE = threading.Lock()  # held while a file is written: Ctrl-C waits for it
_STARTING = lambda: "nothing was computed yet, the same command starts anew"
_now = {"name": Path(sys.argv[0]).stem, "kept": _STARTING}


def begin(name: str) -> None:
    """A command begins: its name stands before every error, and nothing is computed yet."""
    _now.update(name=name, kept=_STARTING)


def keeping(kept: Callable[[], str]) -> None:
    """What Ctrl-C says of the results so far; of several calls in one command the first counts, the outer folder."""
    if _now["kept"] is _STARTING:
        _now["kept"] = kept


def interrupted() -> str:
    """What Ctrl-C says."""
    return f"{_now['name']}: interrupted; {_now['kept']()}"


def line(error: BaseException) -> str:
    """An error as one line: its own where it is one of ours, else its type and where to see all of it."""
    first, *more = [text for text in str(error).splitlines() if text.strip()] or [""]
    if isinstance(error, ModuleNotFoundError) and "pip install" not in first:
        return f"{error.name} is missing: pip install 'xmanip-jax[experiments]'"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    if isinstance(error, ValueError | OSError | ImportError) and first and not more:
        return first
    return f"{': '.join(filter(None, (type(error).__name__, first.strip())))} (--debug shows everything)"


def watch() -> None:
    """From now on SIGINT ends the process at once, with one line and exit code 130, and uncaught errors are one line.

    Python's own way, an exception in the main thread, waits until compiled code returns, is swallowed inside callbacks
    of JAX, and unwinds into the destructors of threads that are still busy, which may crash.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_leave_when_asked, args=(read,), daemon=True).start()
    if "--debug" not in sys.argv:
        sys.excepthook = lambda kind, error, trace: print(f"{_now['name']}: {line(error)}", file=sys.stderr)


def _leave_when_asked(read):
    while signal.SIGINT not in os.read(read, 64):
        pass
    with WHOLE:
        # A progress bar on a terminal has hidden the cursor, and stands in its line.
        os.write(2, f"{CURSOR if os.isatty(1) else ''}{interrupted()}\n".encode())
        os._exit(130)


_main = getattr(sys.modules["__main__"], "__file__", None)
FRONT_DOOR = bool(_main) and Path(_main).resolve().parent == Path(__file__).resolve().parent.parent  # is the program
if FRONT_DOOR:
    watch()
