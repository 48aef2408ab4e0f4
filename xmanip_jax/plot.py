"""Figures: photographs beside their heat maps, and numbers compared. Needs matplotlib, the extra `plot`."""

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .extras import missing
from .types import AnyArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison", "explanations", "gallery", "manipulation", "manipulations", "save", "scatter", "sweep"]

Scale = Literal["own", "shared"]  # each map's colours up to its own 99.5th percentile, or up to that of all

_COLORS_OF_MAPS = {False: "inferno", True: "RdBu_r"}  # heat maps, signed maps
_OPAQUE = 0.85  # of a map over its photograph, where it is largest
_LEAST = 1e-12  # where colours end, for what is 0 everywhere


def explanations(image: AnyArray, maps: Mapping[str, AnyArray], *, overlay: bool = False, signed: bool = False,
                 scale: Scale = "own") -> "Figure":
    """One photograph and its explanations, side by side, each with a colour bar.

    Args:
      image: pixels Float[h, w, c] in [0, 1].
      maps: {name: heat map Float[h', w'] of any size, or, signed, map Float[h', w'] or Float[h', w', c]}.
      overlay: each map over the photograph in grey, the more opaque the larger it is there.
      signed: red where positive, blue where negative, white at 0; channels are summed.
      scale: "own", the colours of each map end at its own 99.5th percentile of sizes; "shared", at that of all maps.

    Returns a matplotlib Figure.

    Raises ValueError for a heat map with negative values or with channels, and for a map of other shapes.

    >>> import numpy as np
    >>> image, map = np.zeros((8, 8, 3)), np.linspace(-1, 1, 64).reshape(8, 8)
    >>> figure = explanations(image, {"gradient": map}, signed=True)
    >>> explanations(image, {"gradient": map})
    Traceback (most recent call last):
        ...
    ValueError: gradient is no heat map, values reach -1: pass explain.heatmap(map), or signed=True
    """
    shown = {name: _checked(name, np.asarray(map), signed) for name, map in maps.items()}
    panels = [(image, map) if overlay else map for map in shown.values()]
    return gallery({"": [image, *panels]}, ["photograph", *map(_words, shown)], scale=scale, signed=signed, bars=True,
                   side=2.6)


def manipulation(arrays: Mapping[str, AnyArray], index: int = 0, *, caption: Mapping[str, str] | None = None,
                 amplify: float | None = None, overlay: bool = False, scale: Scale = "own") -> "Figure":
    """One manipulated image: original, manipulated and target with their heat maps, and the amplified difference.

    Args:
      arrays: x, x_adv, x_target: pixels Float[b, h, w, c] in [0, 1]; map_original, map_adv, map_target: Float[b, h, w].
      index: which of the batch.
      caption: lines under the titles, by "original", "manipulated", "target" and "difference".
      amplify: factor of the difference; default so that its 99.5th percentile fills the range.
      overlay: the heat maps over their photographs; see `explanations`.
      scale: of the three heat maps, "own" or "shared"; see `explanations`.

    Returns a matplotlib Figure: images above; below, with colour bars, the heat maps and, in pixel values of 255, the
    largest change of any channel.
    """
    a = {name: np.asarray(arrays[name][index]) for name in _NEEDED}
    caption = caption or {}
    difference = a["x_adv"] - a["x"]
    amplify = amplify or float(np.clip(0.5 / max(np.quantile(np.abs(difference), 0.995), 1e-6), 1, 255).round())
    images = {"original": a["x"], "manipulated": a["x_adv"], "target": a["x_target"],
              f"difference x {amplify:g}": np.clip(0.5 + amplify * difference, 0, 1)}
    maps = [a[name] for name in ("map_original", "map_adv", "map_target")]
    tops, size = _tops(maps, scale), 255 * np.abs(difference).max(-1)
    largest = max(float(size.max()), _LEAST)
    figure, axes = _grid(2, 4, width=11.0)
    for axis, (name, image) in zip(axes[0], images.items(), strict=True):
        _image(axis, image)
        axis.set_title("\n".join(filter(None, (name, caption.get(name.split()[0])))), fontsize=10)
    for axis, image, map, top in zip(axes[1], images.values(), maps, tops, strict=False):
        _bar(axis, _panel(axis, (image, map) if overlay else map, top))
    _bar(axes[1, 3], _panel(axes[1, 3], size, largest), "{:.3g}", "largest change of a channel, of 255")
    for axis, label in zip(axes[:, 0], ("image", "heat map"), strict=True):
        axis.set_ylabel(label, fontsize=11)
    return figure


def manipulations(arrays: Mapping[str, AnyArray], indices: Sequence[int] | None = None, *,
                  labels: Sequence[str] | None = None, overlay: bool = False, scale: Scale = "own") -> "Figure":
    """Several manipulated images, a row each: original, manipulated and target, each followed by its heat map.

    Args:
      arrays, overlay, scale: as in `manipulation`; the scale is that of a row.
      indices: which of the batch, default the first six.
      labels: a text for each image of the batch, a class for example, which stands after its index beside the row.

    Returns a matplotlib Figure.
    """
    chosen = range(min(6, len(arrays["x"]))) if indices is None else indices
    pairs = [("x", "map_original"), ("x_adv", "map_adv"), ("x_target", "map_target")]
    rows = {}
    for i in chosen:
        beside = [(np.asarray(arrays[image][i]), np.asarray(arrays[map][i])) for image, map in pairs]
        rows[f"{i}: {labels[i]}" if labels else str(i)] = [
            panel for image, map in beside for panel in (image, (image, map) if overlay else map)]
    return gallery(rows, ["original", "", "manipulated", "", "target", ""], scale=scale)


def gallery(rows: Mapping[str, Sequence], titles: Sequence[str], *, notes: Mapping[str, Sequence[str]] | None = None,
            scale: Scale = "shared", signed: bool = False, bars: bool = False, side: float = 1.7) -> "Figure":
    """A grid of photographs and heat maps: a row for each explanation of one photograph, say.

    Args:
      rows: from the row's label to its panels: pixels Float[h, w, c] in [0, 1], maps Float[h', w'], or pairs (pixels,
        map): the map over the photograph in grey.
      titles: of the columns.
      notes: from the row's label to a text in the corner of each panel; "" for none.
      scale: "shared", the colours of all maps of a row end at their 99.5th percentile; "own", each at its own.
      signed: maps have signs; see `explanations`.
      bars: a colour bar under each map.
      side: of a panel, in inches; less where the figure would be wider than 12.

    Returns a matplotlib Figure.
    """
    side = min(side, 12.0 / len(titles))
    height = (side + 0.35 * bars) * len(rows) + 0.2 * (1 + max(title.count("\n") + 1 for title in titles))
    figure, axes = _bare(*_figure(len(rows), len(titles), width=side * len(titles) + 0.4, height=height))
    figure.get_layout_engine().set(w_pad=0.06 if bars else 0.02, h_pad=0.02, wspace=0, hspace=0)
    for line, (label, panels) in zip(axes, rows.items(), strict=True):
        tops = iter(_tops([m for m in map(_map_of, panels) if m is not None], scale))
        texts = (notes or {}).get(label, [""] * len(panels))
        for axis, panel, text in zip(line, panels, texts, strict=True):
            if _map_of(panel) is None:
                _image(axis, np.asarray(panel))
            else:
                drawn = _panel(axis, panel, next(tops), signed)
                if bars:
                    _bar(axis, drawn)
            if text:
                axis.text(0.03, 0.03, text, transform=axis.transAxes, fontsize=7.5, color="white",
                          bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"})
        line[0].set_ylabel(textwrap.fill(_words(label), 12), fontsize=10, parse_math=False)  # a file's name, say
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def comparison(numbers: Mapping[str, Mapping[str, AnyArray]], measures: Mapping[str, str], *,
               log: Collection[str] = (), columns: int = 3) -> "Figure":
    """Box plots, a panel for each measure and a box for each group, as Dombrowski et al. 2019 show theirs (figure 3).

    Boxes reach from the 25th to the 75th percentile, whiskers from the 10th to the 90th, the line is the median.

    Args:
      numbers: from the group (an explanation, a network, a defence) to its measures, each Float[n]; nan is left out.
      measures: from the measure's name to its panel's title, in the order of the panels.
      log: the measures with a logarithmic axis.
      columns: panels side by side.

    Returns a matplotlib Figure.
    """
    columns = min(columns, len(measures))
    rows = -(-len(measures) // columns)
    figure, axes = _figure(rows, columns, width=max(3.4, 0.45 * len(numbers) + 1.2) * columns, height=2.3 * rows + 1)
    thin = {"color": "black", "linewidth": 0.9}
    for axis, (name, title) in zip(axes.flat, measures.items(), strict=False):
        axis.set_yscale("log" if name in log else "linear")
        boxes = axis.bxp([_box(group[name]) for group in numbers.values()], showfliers=False, widths=0.6,
                         patch_artist=True, medianprops={**thin, "linewidth": 1.6}, whiskerprops=thin, capprops=thin)
        for i, box in enumerate(boxes["boxes"]):
            box.set(facecolor=f"C{i % 10}", alpha=0.75)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", linewidth=0.4, alpha=0.6)
        axis.tick_params(which="both", labelsize=8)
        axis.set_xticks(range(1, 1 + len(numbers)), [])
    for axis in _lowest(axes, len(measures)):
        axis.set_xticklabels(map(_words, numbers), fontsize=9, **_SLANTED)
    return figure


def sweep(panels: Mapping[str, Mapping[str, Mapping[float | str, tuple[float, float, float]]]], *, xlabel: str,
          ylabel: str, columns: int = 3) -> "Figure":
    """Curves with bands over a positive parameter, and reference points beside them: a panel for each group.

    Args:
      panels: from the panel's title to its curves, from the curve's label to its points, from a position to
        (value, low, high). Numbers are positions on the logarithmic axis; a string names a reference, drawn at the
        right. All panels have the same curves and positions; a curve may lack some positions.
      xlabel, ylabel: of all panels.
      columns: panels side by side.

    Returns a matplotlib Figure with one legend above the panels.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, width=max(8.0, 3.9 * columns), height=2.1 * rows + 1.7, sharey=True)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        place = _places(axis, {at: None for curve in curves.values() for at in curve})
        for i, (label, curve) in enumerate(curves.items()):
            color, beside = _COLORS[i % len(_COLORS)], 1.12 ** (i - (len(curves) - 1) / 2)
            _curve(axis, {at: v for at, v in curve.items() if not isinstance(at, str)}, color, label)
            _points(axis, {beside * place[at]: v for at, v in curve.items() if isinstance(at, str)}, color)
        axis.set_title(_words(title), fontsize=10)
        axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    for axis in _lowest(axes, len(panels)):
        axis.set_xticklabels([at if isinstance(at, str) else f"{at:g}" for at in place], fontsize=8, **_SLANTED)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    return figure


def scatter(panels: Mapping[str, Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]]], *,
            xlabel: str, ylabel: str) -> "Figure":
    """Named points with intervals in both directions, a panel beside the other; the same name has the same colour.

    panels: {title: {name: (x, y)}}, x and y each (value, low, high).

    >>> figure = scatter({"epsilon 0.1": {"plain": ((0.97, 0.96, 0.98), (0.7, 0.6, 0.8))}}, xlabel="accuracy",
    ...                  ylabel="change")
    >>> len(figure.axes)
    1
    """
    figure, axes = _figure(1, len(panels), width=1 + 3.6 * len(panels), height=4.2, sharex=True)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
        for name, pair in panel.items():
            (x, *xs), (y, *ys) = pair
            color, marker = _COLORS[names.index(name) % len(_COLORS)], "os^Dv"[names.index(name) // len(_COLORS)]
            axis.errorbar(x, y, xerr=[[x - xs[0]], [xs[1] - x]], yerr=[[y - ys[0]], [ys[1] - y]], color=color,
                          marker=marker, markersize=5, capsize=2, linewidth=1, linestyle="none", label=name)
        axis.set_title(title, fontsize=10)
        axis.grid(linewidth=0.4, alpha=0.6)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure


def save(figure: "Figure", path: Path, *, dpi: int = 110) -> None:
    """Write a figure and release its memory."""
    figure.savefig(path, dpi=dpi, bbox_inches="tight", facecolor="white")
    figure.clear()


_NEEDED = ("x", "x_adv", "x_target", "map_original", "map_adv", "map_target")


_COLORS = ("C0", "C3", "grey", "C2", "C1", "black", "C4", "C5")
_SLANTED = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def _figure(rows, columns, *, width, height, **shared):
    try:
        from matplotlib.figure import Figure  # no global state, no window
    except ImportError as error:
        raise missing("plot", "plot", error) from error

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def _bare(figure, axes):
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _grid(rows, columns, *, width):
    return _bare(*_figure(rows, columns, width=width, height=width / columns * rows * 1.08))


def _image(axis, image):
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)


def _map_of(panel):
    """The map of a panel of `gallery`, or None for a photograph."""
    map = np.asarray(panel[1] if isinstance(panel, tuple) else panel)
    return map if map.ndim == 2 else None


def _panel(axis, panel, top, signed=False):
    """Draws a map, or the pair (photograph, map): the map over it. Returns what a colour bar is of."""
    map, opaque = _map_of(panel), None
    height, width = map.shape
    if isinstance(panel, tuple):
        image = np.asarray(panel[0])
        height, width = image.shape[:2]
        axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1)
        opaque = _OPAQUE * np.clip(np.abs(map) / top, 0, 1)
    return axis.imshow(map, cmap=_COLORS_OF_MAPS[signed], vmin=-top if signed else 0.0, vmax=top, alpha=opaque,
                       extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _bar(axis, drawn, number="{:.1e}", label=""):
    """A colour bar under a panel, as wide as it."""
    from matplotlib.cm import ScalarMappable

    colors = ScalarMappable(drawn.norm, drawn.cmap)  # without the opacity of a map over a photograph
    bar = axis.figure.colorbar(colors, cax=axis.inset_axes((0, -0.07, 1, 0.035)), orientation="horizontal")
    ends = dict.fromkeys((drawn.norm.vmin, 0.0, drawn.norm.vmax))
    bar.set_ticks(list(ends), labels=[number.format(end) if end else "0" for end in ends], fontsize=7.5)
    first, *_, last = bar.ax.get_xticklabels()
    first.set_ha("left")
    last.set_ha("right")
    bar.set_label(label, fontsize=9)


def _tops(maps, scale):
    """Where the colours of each map end: at its own 99.5th percentile of sizes, or at that of all."""
    if scale not in ("own", "shared"):
        raise ValueError(f"scale is 'own' or 'shared', got {scale!r}")
    sizes = [np.abs(map).ravel() for map in maps]
    of = [np.concatenate(sizes)] * len(sizes) if scale == "shared" and sizes else sizes
    return [max(float(np.quantile(size, 0.995)), _LEAST) for size in of]


def _checked(name, map, signed):
    """A map without channels; a heat map has no negative values."""
    found = map.sum(-1) if signed and map.ndim == 3 else map
    if found.ndim != 2 and signed:
        raise ValueError(f"{name} is no map of one image, [h, w] or [h, w, c]: its shape is {map.shape}")
    if found.ndim != 2 or (found.min() < 0 and not signed):
        why = f"shape {map.shape}" if map.ndim != 2 else f"values reach {map.min():.3g}"
        raise ValueError(f"{name} is no heat map, {why}: pass explain.heatmap(map), or signed=True")
    return found


def _lowest(axes, used):
    """The lowest used panel of each column; the unused ones are removed."""
    for axis in axes.flat[used:]:
        axis.remove()
    return axes.flat[max(used - axes.shape[1], 0):used]


def _box(values):
    values = np.asarray(values, float).ravel()
    names = ("whislo", "q1", "med", "q3", "whishi")
    return dict(zip(names, np.nanpercentile(values, (10, 25, 50, 75, 90)), strict=True))


def _places(axis, positions):
    """{position: where it is on the axis}: numbers where they are, names behind them, ticks at all of them."""
    numbers = sorted(at for at in positions if not isinstance(at, str))
    names = [at for at in positions if isinstance(at, str)]
    last = max(numbers, default=1.0)
    places = {at: at for at in numbers} | {name: last * 2.8 ** (i + 1.2) for i, name in enumerate(names)}
    axis.set_xscale("log")
    axis.set_xticks(list(places.values()), [""] * len(places))
    axis.set_xticks([], minor=True)
    if numbers and names:
        axis.axvline(last * 2.8**0.6, color="grey", linewidth=0.8, linestyle=":")
    return places


def _curve(axis, points, color, label):
    at = sorted(points)
    value, low, high = np.array([points[p] for p in at], float).reshape(-1, 3).T
    axis.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    axis.plot(at, value, color=color, marker="o", markersize=3, linewidth=1.4, label=label)


def _points(axis, points, color):
    value, low, high = np.array(list(points.values()), float).reshape(-1, 3).T
    axis.errorbar(list(points), value, [value - low, high - value], color=color, marker="o", markersize=3.5, capsize=2,
                  linewidth=1.2, linestyle="none")


def _words(label):
    """A name as words; FILE.NAME, or a file's, stays as it is."""
    return label if re.search(r"\w\.[A-Za-z_]", label) else label.replace("_", " ")
