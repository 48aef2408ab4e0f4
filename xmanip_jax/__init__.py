"""Manipulate, measure and defend the explanations of neural networks, in JAX.

Modules are loaded when they are first used, `xmanip_jax.explain` as much as `from xmanip_jax import explain`. The core
needs jax, optax and numpy only; `models`, `data`, `checkpoint` and `plot` need the extras of the same names.
"""

import importlib

__version__ = "0.1.0"

_MODULES = ("attack", "certify", "checkpoint", "data", "defend", "explain", "fool", "geometry", "memory", "metrics",
            "models", "objectives", "plot", "precision", "rewrite", "smooth", "train")
_EXTRAS = ("checkpoint", "data", "models", "plot")


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*_MODULES, "__version__"]
