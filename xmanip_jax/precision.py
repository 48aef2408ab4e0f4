"""In which precision networks multiply: one switch for drivers.

| | numbers that are multiplied | where |
|---|---|---|
| "float32", "highest" | float32, added up in float32 | everywhere; what CPUs do unless told otherwise |
| "tf32" | 10 bits of the fraction, added up in float32 | GPUs that have it; on CPU its rounding is emulated |
| "bf16" | 7 bits of the fraction (bfloat16), added up in float32 | operands are rounded, on every platform |

None leaves it to JAX (`jax_default_matmul_precision`): GPUs and TPUs then multiply in TF32 and bfloat16. Everything but
products (dense layers, convolutions, their derivatives) stays in the type of its arrays. Float64 is not rounded.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["PRECISIONS", "check", "fraction_bits", "multiplying", "rounding"]

PRECISIONS = ("float32", "tf32", "bf16", "highest")
_NATIVE = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "default", "highest": "highest"}
_BITS = {"tf32": 10, "bf16": 7}


def check(precision: str | None) -> None:
    """Raises ValueError for what is no precision."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, or None for what JAX does by default, "
                         f"got {precision!r}")


@contextlib.contextmanager
def multiplying(precision: str | None) -> Iterator[None]:
    """What is traced inside multiplies so, as far as the platform can: see `fraction_bits` for what it cannot.

    >>> with multiplying("highest"):
    ...     print(jax.make_jaxpr(jnp.dot)(1.0, jnp.ones(())).eqns[0].primitive)
    mul
    """
    check(precision)
    with contextlib.nullcontext() if precision is None else jax.default_matmul_precision(_NATIVE[precision]):
        yield


def fraction_bits(precision: str | None) -> int | None:
    """The bits of the fraction to which operands have to be rounded, where the platform does not do it; None: none.

    bf16 is rounded everywhere, TF32 where the default device is no GPU.
    """
    check(precision)
    native = precision == "tf32" and jax.default_backend() == "gpu"
    return None if native or precision is None else _BITS.get(precision)


def rounding(bits: int) -> Callable[[Any], Any]:
    """An array of float32 -> its values rounded to `bits` of the fraction; other types stay.

    >>> rounding(7)(jnp.float32(1.003)), rounding(10)(jnp.float32(1.003))
    (Array(1., dtype=float32), Array(1.0029297, dtype=float32))
    """

    def rounded(v):
        return jax.lax.reduce_precision(v, 8, bits) if jnp.result_type(v) == jnp.float32 else v

    return rounded
