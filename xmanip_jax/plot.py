"""Figures: photographs beside their heat maps. Needs matplotlib, the extra `plot`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .types import ArrayLike

__all__ = ["manipulation", "manipulations", "save"]

_MAP_STYLE = {"cmap": "inferno", "vmin": 0.0}


def manipulation(arrays: Mapping[str, ArrayLike], index: int = 0, *, caption: Mapping[str, str] | None = None,
                 amplify: float | None = None):
    """One manipulated image: original, manipulated and target with their heat maps, and the amplified difference.

    Args:
      arrays: x, x_adv, x_target: pixels Float[b, h, w, c] in [0, 1]; map_original, map_adv, map_target: Float[b, h, w].
      index: which of the batch.
      caption: lines under the titles, by "original", "manipulated", "target" and "difference".
      amplify: factor of the difference; default so that its 99.5th percentile fills the range.

    Returns a matplotlib Figure: images above, heat maps below, each map up to its own 99.5th percentile.
    """
    a = {name: np.asarray(arrays[name][index]) for name in _NEEDED}
    caption = caption or {}
    difference = a["x_adv"] - a["x"]
    amplify = amplify or float(np.clip(0.5 / max(np.quantile(np.abs(difference), 0.995), 1e-6), 1, 255).round())
    pairs = [("original", a["x"], a["map_original"]), ("manipulated", a["x_adv"], a["map_adv"]),
             ("target", a["x_target"], a["map_target"]),
             ("difference", np.clip(0.5 + amplify * difference, 0, 1), np.abs(difference).sum(-1))]
    figure, axes = _grid(2, 4, width=11.0)
    for column, (name, image, map) in zip(axes.T, pairs, strict=True):
        _image(column[0], image)
        _map(column[1], map)
        column[0].set_title(_title(name, caption.get(name)), fontsize=10)
    axes[0, 3].set_title(_title(f"difference x {amplify:g}", caption.get("difference")), fontsize=10)
    for axis, label in zip(axes[:, 0], ("image", "explanation"), strict=True):
        axis.set_ylabel(label, fontsize=11)
    axes[1, 3].set_xlabel("size of the change", fontsize=9)
    return figure


def manipulations(arrays: Mapping[str, ArrayLike], indices=None):
    """Several manipulated images, a row each: original, manipulated and target, each followed by its heat map.

    arrays: as in `manipulation`; indices: which of the batch, default the first six.
    """
    indices = range(min(6, len(arrays["x"]))) if indices is None else indices
    figure, axes = _grid(len(indices), 6, width=11.0)
    names = [("x", "original"), ("map_original", ""), ("x_adv", "manipulated"), ("map_adv", ""),
             ("x_target", "target"), ("map_target", "")]
    for row, i in zip(axes, indices, strict=True):
        for axis, (name, _) in zip(row, names, strict=True):
            (_map if name.startswith("map") else _image)(axis, np.asarray(arrays[name][i]))
    for axis, (_, title) in zip(axes[0], names, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def save(figure, path: Path, *, dpi: int = 110) -> None:
    """Write a figure and release its memory."""
    figure.savefig(path, dpi=dpi, bbox_inches="tight", facecolor="white")
    figure.clear()


_NEEDED = ("x", "x_adv", "x_target", "map_original", "map_adv", "map_target")


def _grid(rows, columns, *, width):
    from matplotlib.figure import Figure  # no global state, no window

    figure = Figure(figsize=(width, width / columns * rows * 1.08), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _image(axis, image):
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)


def _map(axis, map):
    axis.imshow(map, vmax=max(float(np.quantile(map, 0.995)), 1e-12), **_MAP_STYLE)


def _title(name, line):
    return f"{name}\n{line}" if line else name
