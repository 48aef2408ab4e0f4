"""Figures: photographs beside their heat maps, and numbers compared. Needs matplotlib, the extra `plot`."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .types import ArrayLike

__all__ = ["comparison", "gallery", "manipulation", "manipulations", "save", "scatter", "sweep"]

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


def gallery(rows: Mapping[str, Sequence[ArrayLike]], titles: Sequence[str], *,
            notes: Mapping[str, Sequence[str]] | None = None):
    """A grid of photographs and heat maps: a row for each explanation of one photograph, say.

    Args:
      rows: from the row's label to its panels: pixels Float[h, w, c] in [0, 1], heat maps Float[h', w'].
      titles: of the columns.
      notes: from the row's label to a text in the corner of each panel; "" for none.

    Returns a matplotlib Figure. The heat maps of a row share their colours, up to the 99.5th percentile of all of them.
    """
    side = min(1.7, 12.0 / len(titles))
    height = side * len(rows) + 0.2 * (1 + max(title.count("\n") + 1 for title in titles))
    figure, axes = _bare(*_figure(len(rows), len(titles), width=side * len(titles) + 0.4, height=height))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for line, (label, panels) in zip(axes, rows.items(), strict=True):
        panels = [np.asarray(panel) for panel in panels]
        maps = [panel.ravel() for panel in panels if panel.ndim == 2]
        top = np.quantile(np.concatenate(maps), 0.995) if maps else 1.0
        texts = (notes or {}).get(label, [""] * len(panels))
        for axis, panel, text in zip(line, panels, texts, strict=True):
            _image(axis, panel) if panel.ndim == 3 else _map(axis, panel, top)
            if text:
                axis.text(0.03, 0.03, text, transform=axis.transAxes, fontsize=7.5, color="white",
                          bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"})
        line[0].set_ylabel(textwrap.fill(_words(label), 12), fontsize=10)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def comparison(numbers: Mapping[str, Mapping[str, ArrayLike]], measures: Mapping[str, str], *,
               log: Collection[str] = (), columns: int = 3):
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
          ylabel: str, columns: int = 3):
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
            xlabel: str, ylabel: str):
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


def save(figure, path: Path, *, dpi: int = 110) -> None:
    """Write a figure and release its memory."""
    figure.savefig(path, dpi=dpi, bbox_inches="tight", facecolor="white")
    figure.clear()


_NEEDED = ("x", "x_adv", "x_target", "map_original", "map_adv", "map_target")


_COLORS = ("C0", "C3", "grey", "C2", "C1", "black", "C4", "C5")
_SLANTED = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def _figure(rows, columns, *, width, height, **shared):
    from matplotlib.figure import Figure  # no global state, no window

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


def _map(axis, map, top=None):
    axis.imshow(map, vmax=max(float(np.quantile(map, 0.995) if top is None else top), 1e-12), **_MAP_STYLE)


def _title(name, line):
    return f"{name}\n{line}" if line else name


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
    return label.replace("_", " ")
