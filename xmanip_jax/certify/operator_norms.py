"""Spectral norms of linear layers that are never below the truth."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import epsilon
from ..types import AnyArray, Array, ArrayLike, Float

__all__ = ["convolution_norm", "matrix_norm"]


def matrix_norm(w: Float[ArrayLike, "rows columns"]) -> Float[Array, ""]:
    """The largest singular value of Float[..., m, n], the largest over the leading axes, rounded up.

    >>> round(float(matrix_norm(jnp.diag(jnp.array([1.0, -2.0])))), 3)
    2.0
    """
    w = jnp.asarray(w)
    return _up(jnp.linalg.norm(w, 2, axis=(-2, -1)).max(), sum(w.shape[-2:]))


def convolution_norm(kernel: Float[ArrayLike, "*window in out"], size: tuple[int, ...],
                     strides: tuple[int, ...] | None = None, groups: int = 1) -> Float[Array, ""]:
    """An upper bound of the spectral norm of a zero-padded convolution, for every padding; tight for large images.

    The convolution of an image on a torus of at least size + kernel - 1 positions has no wrap-around, and the padded,
    cropped, strided one is some of its outputs. The torus has a closed form: the largest singular value over the
    frequencies (Sedghi et al. 2019), those that a stride makes equal side by side. Power iteration would be a lower
    bound; the norms of the kernel as a vector or as a matrix are no bounds.

    Args:
      kernel: Float[*window, in / groups, out];  size: of the image, one number for each axis of the window;
      strides: None meaning 1;  groups: of channels, as in a depthwise convolution.

    Raises ValueError for counts that do not match.

    >>> float(convolution_norm(jnp.ones((3, 3, 1, 1)), (32, 32)).round(3))
    9.0
    """
    kernel = jnp.asarray(kernel)
    *window, fan_in, out = kernel.shape
    strides = (1,) * len(window) if strides is None else tuple(strides)
    if not len(window) == len(size) == len(strides):
        raise ValueError(f"a kernel with {len(window)} axes of space has as many sizes and strides, got {size} and "
                         f"{strides}")
    if out % groups:
        raise ValueError(f"{out} output channels do not divide into {groups} groups")
    torus = [-(-(n + k - 1) // s) * s for n, k, s in zip(size, window, strides, strict=True)]
    axes = tuple(range(len(window)))
    spectrum = jnp.fft.fftn(kernel, torus, axes)
    # Frequencies m torus / stride + j look alike after the stride: [m, j] for every axis, then all m beside the inputs.
    split = list(itertools.chain(*((s, n // s) for n, s in zip(torus, strides, strict=True))))
    spectrum = spectrum.reshape(*split, fan_in, groups, out // groups)
    rank = len(window)
    aliases, kept = [2 * a for a in axes], [2 * a + 1 for a in axes]
    spectrum = spectrum.transpose(*kept, 2 * rank + 1, *aliases, 2 * rank, 2 * rank + 2)
    matrices = spectrum.reshape(-1, math.prod(strides) * fan_in, out // groups)
    found = jnp.linalg.norm(matrices, 2, axis=(-2, -1)).max() / math.sqrt(math.prod(strides))
    return _up(found, sum(matrices.shape[1:]) + math.ceil(np.log2(math.prod(torus))))


def _up(norm, terms):
    return norm * (1 + 8 * terms * epsilon(norm))


def layer_norm(params: Mapping[str, Any], w: Float[AnyArray, "..."], shape: tuple[int, ...]) -> Float[Array, ""] | None:
    """The norm of conv_general_dilated with weights w on an input of `shape`; None if it dilates its input."""
    numbers = params["dimension_numbers"]
    if any(d != 1 for d in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        return None
    out, fan_in, *space = numbers.rhs_spec
    kernel = jax.lax.transpose(w, (*space, fan_in, out))
    dilation = [(0, 0, d - 1) for d in params["rhs_dilation"]] + [(0, 0, 0)] * 2
    kernel = jax.lax.pad(kernel, jnp.zeros((), kernel.dtype), dilation)
    size = tuple(shape[a] for a in numbers.lhs_spec[2:])
    return convolution_norm(kernel, size, params["window_strides"], params["feature_group_count"])
