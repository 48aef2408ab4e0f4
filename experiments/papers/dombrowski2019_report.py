"""The numbers, tables and figures of dombrowski2019.py, from its arrays alone."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from rich.table import Table

from common import report
from papers.dombrowski2019_smoothing import MEASURES, Defence
from xmanip_jax import metrics, plot

Arrays = Mapping[str, np.ndarray]  # those of batches.attack_batches and of dombrowski2019_smoothing.returned

COMPARED = {"map_mse": "maps: mean squared error", "map_ssim": "maps: SSIM", "map_pearson": "maps: correlation",
            "image_mse": "images: mean squared error", "image_ssim": "images: SSIM",
            "image_pearson": "images: correlation"}
DEFENDED = {"map_pearson_before": "maps: correlation before the attack", "map_pearson": "maps: correlation after",
            "map_ssim": "maps: SSIM", "map_mse": "maps: mean squared error",
            "image_mse": "images: mean squared error", "image_ssim": "images: SSIM"}
_MAPS = {"map_pearson_before": "r before", "map_pearson": "r", "map_ssim": "SSIM", "map_mse": "MSE"}
_IMAGES = {"image_pearson": "r", "image_ssim": "SSIM", "image_mse": "MSE", "prediction_unchanged": "kept"}
_CURVES = {"own": "manipulated, with the original's smoothed map", "target": "manipulated, with the target map",
           "before": "original, with the target map", "fidelity": "original, with its unsmoothed map",
           "other": "original, with another image's smoothed map",
           "repeat": "original, with itself under other noise"}


def numbers(arrays: Arrays) -> dict[str, np.ndarray]:
    """report.measure, the correlation of the images, and the seconds that each took: Float[n] each."""
    pearson = np.asarray(jax.jit(jax.vmap(metrics.pearson))(arrays["x_adv"], arrays["x"]))
    return report.measure(arrays) | {"image_pearson": pearson, "seconds": arrays["seconds"]}


def smoothing(arrays: Arrays, defences: Sequence[Defence], seed: int) -> dict[str, dict]:
    """{defence: {measure: median and interval}} of dombrowski2019_smoothing.MEASURES."""
    columns = {d.label: {m: arrays[f"smoothed_{m}"][:, i] for m in MEASURES} for i, d in enumerate(defences)}
    return {label: report.summary(values, seed) for label, values in columns.items()}


def attack_tables(rows: Mapping[str, Mapping[str, dict]], network: str) -> list[Table]:
    """Of the maps and of the images; rows: {explanation: report.summary}."""
    about = {f"{network}: maps of manipulated images, with their targets": _MAPS,
             f"{network}: manipulated images, with the originals": _IMAGES}
    cells = lambda columns: [(report.words(e), *(report.cell(row[m]) for m in columns)) for e, row in rows.items()]
    return [report.grid(("", *columns.values()), cells(columns), title=title, caption="medians above 95 % intervals")
            for title, columns in about.items()]


def smoothing_table(rows: Mapping[str, Mapping[str, Mapping[str, dict]]], network: str) -> Table:
    """rows: {explanation: `smoothing`}; three lines for each defence."""
    lines = [(first, *(f"{row[label][m]['value']:.2f}" for row in rows.values()))
             for label in next(iter(rows.values()))
             for m, first in {"own": label, "target": "  target", "fidelity": "  fidelity"}.items()]
    return report.grid(
        ("defence", *map(report.words, rows)), lines, title=f"{network}: what smoothing returns to",
        caption="median correlations: manipulated image's smoothed map with the original's\n"
                "smoothed map / with the target map / original's smoothed map with its\nunsmoothed one")


def all_figures(explained: Mapping[str, Arrays], values: Mapping[str, Mapping[str, np.ndarray]],
                rows: Mapping[str, Mapping[str, Mapping[str, dict]]], defences: Sequence[Defence]) -> dict:
    """{name: Figure}.

    explained: {explanation: arrays};  values: {explanation or defended map: `numbers`};
    rows: {explanation: `smoothing`}.
    """
    log = ("map_mse", "image_mse")
    found = {"comparison": plot.comparison({e: values[e] for e in explained}, COMPARED, log=log),
             "gallery": gallery(explained), "smoothed": smoothed_gallery(explained, defences),
             "smoothing": smoothing_curves(rows, defences, soft_pooling=False)}
    if any(d.max_pool for d in defences):
        found["smoothing-soft-pooling"] = smoothing_curves(rows, defences, soft_pooling=True)
    if known := {e.removeprefix("defended_"): v for e, v in values.items() if e not in explained}:
        count = len(next(iter(known.values()))["map_mse"])
        plain = {f"{e}, undefended": {k: v[:count] for k, v in values[e].items()} for e in ("gradient",)
                 if e in explained}
        found["defended"] = plot.comparison(plain | known, DEFENDED, log=log)
    return found


def gallery(arrays: Mapping[str, Arrays], index: int = 0):
    """One image under every explanation, beside its target: a row for each."""
    rows, notes = {}, {}
    for name, a in arrays.items():
        each = ("x", "map_original", "x_adv", "map_adv", "x_target", "map_target")
        rows[name] = [a[key][index] for key in each]
        r = [report.pearson(a[key], a["map_target"])[index] for key in ("map_original", "map_adv")]
        mse = np.mean((a["x_adv"][index] - a["x"][index]) ** 2)
        notes[name] = ["", f"r {r[0]:.2f}", f"MSE {mse:.0e}", f"r {r[1]:.2f}", "", ""]
    titles = ("original", "its map", "manipulated", "its map", "target", "its map")
    return plot.gallery(rows, titles, notes=notes)


def smoothed_gallery(arrays: Mapping[str, Arrays], defences: Sequence[Defence]):
    """The maps of the first image, original and manipulated, under some defences: a row for each explanation."""
    swept = [i for i, d in enumerate(defences) if d.kappa and not d.max_pool]
    noisy = next(i for i, d in enumerate(defences) if d.sigma)
    columns = sorted({0, swept[len(swept) // 3], swept[len(swept) // 2], noisy})
    rows, notes = {}, {}
    for name, a in arrays.items():
        pairs = [(a["smoothed_original"][0, i], a["smoothed_adv"][0, i]) for i in columns]
        rows[name] = [m for pair in pairs for m in pair] + [a["map_target"][0]]
        r = [(a["smoothed_own"][0, i], a["smoothed_target"][0, i]) for i in columns]
        notes[name] = [text for own, to in r for text in ("", f"r original {own:.2f}\nr target {to:.2f}")] + [""]
    titles = [f"{_named(defences[i])}\n{which}" for i in columns for which in ("original", "manipulated")]
    return plot.gallery(rows, [*titles, "undefended\ntarget"], notes=notes)


def smoothing_curves(rows: Mapping[str, Mapping[str, Mapping[str, dict]]], defences: Sequence[Defence], *,
                     soft_pooling: bool):
    """Correlations over kappa, a panel for each explanation, with or without the smoothing of max-pooling."""
    chosen = {d.label: d.kappa or _named(d) for d in defences if not d.kappa or d.max_pool == soft_pooling}
    noisy = {_named(d) for d in defences if d.sigma}
    curve = lambda row, m: {at: tuple(row[label][m][k] for k in ("value", "low", "high"))
                            for label, at in chosen.items() if m != "repeat" or at in noisy}
    panels = {name: {text: curve(row, m) for m, text in _CURVES.items()} for name, row in rows.items()}
    pooling = " and soft max-pooling" * soft_pooling
    return plot.sweep(panels, xlabel=f"softplus{pooling}, by its sharpness κ; other defences",
                      ylabel="correlation of heat maps")


def _named(defence):
    if defence.kappa or defence.beta:
        return f"softplus κ={defence.kappa:g}" if defence.kappa else f"softplus β={defence.beta:g}"
    return f"SmoothGrad {defence.sigma:g}" if defence.sigma else "undefended"
