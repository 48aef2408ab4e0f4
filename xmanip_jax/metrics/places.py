"""What the axes of a map are: places, and at most one axis of channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import AnyArray, Array, ArrayLike, Channels, Nested, Num, Shaped

__all__ = ["along_channels", "channel_axis", "over_channels", "wide", "widest"]


def channel_axis(ndim: int, channels: Channels = "auto") -> int | None:
    """The axis, counted from 0, that holds the channels of a map or an input of `ndim` axes; None where none does.

    channels: an axis; None, every entry is a place of its own; "auto", the last of three or more axes, none of one or
    two. So [h, w, c] and [d, h, w, c] have channels, [n] and [h, w] have none, and a sequence [t, c], which no shape
    tells from [h, w], has them when told: -1. Channels first are 0.

    Raises ValueError for what is no axis, and where no axis would be left for places.

    >>> channel_axis(4), channel_axis(2), channel_axis(2, -1), channel_axis(3, 0)
    (3, None, 1, 0)
    """
    if ndim < 1:
        raise ValueError("a map has at least one axis, got a single number")
    if channels is None or (channels == "auto" and ndim < 3):
        return None
    axis = -1 if channels == "auto" else channels
    if not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise ValueError(f'channels is an axis of {ndim}, None or "auto", got {channels!r}')
    if ndim == 1:
        raise ValueError(f"a map of one axis has places only: channels is None, got {channels!r}")
    return axis % ndim


def over_channels(map: Num[AnyArray, "*map"], channels: Channels = "auto") -> Num[Array, "*places"]:
    """The sum over channels, see `channel_axis`: one value for each place.

    Raises ValueError where nothing is said and the shape is that of an image with channels first.
    """
    if channels == "auto" and map.ndim == 3 and map.shape[0] in (1, 3) and map.shape[1] == map.shape[2] >= 8:
        raise ValueError(f"the shape {map.shape} is that of an image with channels first, but the last axis would be "
                         f"summed over: say channels=0, or channels=-1 if there are {map.shape[2]} channels")
    axis = channel_axis(map.ndim, channels)
    return map if axis is None else map.sum(axis)


def along_channels(places: Shaped[AnyArray, "*places"], ndim: int,
                   channels: Channels = "auto") -> Shaped[Array, "*map"]:
    """One value for each place, broadcast against a map or an input of `ndim` axes."""
    axis = channel_axis(ndim, channels)
    return places if axis is None else jnp.expand_dims(places, axis)


def wide(map: Shaped[ArrayLike, "*shape"] | Nested) -> Num[Array, "..."]:
    """In float32, or in its own type where that is wider: sums over half precision overflow and lose digits."""
    values = jnp.asarray(map)
    return values.astype(widest(values.dtype, jnp.float32))


def widest(a: Any, b: Any) -> np.dtype:
    """The type that two types meet in: said here, and so allowed where arrays may not promote by themselves."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)
