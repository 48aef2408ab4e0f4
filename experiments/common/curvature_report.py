"""The numbers, tables and figures of curvature.py, from its arrays alone."""

import numpy as np

from common import html_report, report
from xmanip_jax import plot

CURVATURES = {"gradient_norm": "gradient norm", "frobenius_norm": "Hessian, Frobenius",
              "spectral_norm": "Hessian, spectral", "normalised_curvature": "normalised curvature",
              "level_set_curvature": "level-set curvature", "hessian_bound": "bound of the Hessian",
              "cross_entropy_bound": "its cross-entropy form"}
_BENT = ("gradient_norm", "spectral_norm", "level_set_curvature")
_CURVES = {"attacked_change": "attack", "change_linear": "no attack can (linear)",
           "change_intervals": "no attack can (intervals)"}


def summaries(found, seed, k):
    """{network: {activation: {measure: median, interval, count}}}; not for `y`."""
    rows = {}
    for network, by in found.items():
        for activation, arrays in by.items():
            columns = {name: np.asarray(v, np.float64) for name, v in arrays.items() if name != "y"}
            rows.setdefault(network, {})[activation] = report.summary(columns, seed) | {"radii": radii(arrays, k)}
    return rows


def radii(arrays, k):
    """Medians over the images of the epsilon, a multiple of those measured, at which half of the top or the signs goes.

    certified_top: the largest epsilon at which half of the top k is certified;  certified_signs: the signs of half the
    map, None where the network has no certificates;  attacked_top: the smallest epsilon at which the attack leaves less
    than half of the top, None if none does.
    """
    at = lambda name: sorted((float(key.split("@")[1]), v) for key, v in arrays.items() if key.startswith(f"{name}@"))
    kind = next((kind for kind in ("linear", "intervals") if at(f"top_{kind}")), None)
    held = lambda pairs, least: float(np.median(np.max([np.where(v >= least, eps, 0) for eps, v in pairs], axis=0)))
    broken = np.min([np.where(v < k / 2, eps, np.inf) for eps, v in at("attacked_top")], axis=0)
    return {"certified_top": held(at(f"top_{kind}"), k / 2) if kind else None,
            "certified_signs": held(at(f"signs_{kind}"), 0.5) if kind else None,
            "attacked_top": float(np.median(broken)) if np.isfinite(np.median(broken)) else None, "kind": kind}


def tables(rows, epsilons, k):
    """Curvature; what is certified and what is attacked at each epsilon; the radii."""
    short = _short(rows)
    all_rows = {f"{report.words(short[n])}, {a}": row for n, by in rows.items() for a, row in by.items()}
    value = lambda row, name: f"{row[name]['value']:.2g}" if name in row else "-"
    ball = lambda row: ("attacked_change", f"change_{row['radii']['kind']}", "attacked_top",
                        f"top_{row['radii']['kind']}")
    radius = lambda row, name: "-" if row["radii"][name] is None else f"{row['radii'][name]:g}"
    return (
        report.grid(("network", *CURVATURES.values()),
                    [(name, *(value(row, m) for m in CURVATURES)) for name, row in all_rows.items()],
                    title="curvature of the predicted logit: medians"),
        report.grid(("network", "epsilon", *(f"{what}, {how}" for what in ("change", f"top {k}")
                                             for how in ("attacked", "certified"))),
                    [(name if e == epsilons[0] else "", f"{e:g}", *(value(row, f"{m}@{e:g}") for m in ball(row)))
                     for name, row in all_rows.items() for e in epsilons],
                    title="heat map: ||h' - h||_1, and how many of its leading pixels stay"),
        report.grid(("network", "certified", "attacked"),
                    [(name, *(radius(row, f"{how}_top") for how in ("certified", "attacked")))
                     for name, row in all_rows.items()],
                    title=f"half of the top {k}: largest epsilon certified,\nsmallest at which the attack leaves less"))


def verdicts(rows, epsilon):
    """A sentence for each network and activation: what an attack does to its heat map, and what none can."""
    found = []
    for network, by in rows.items():
        for activation, row in by.items():
            bound = row.get(f"change_{row['radii']['kind']}@{epsilon:g}", {"value": np.inf})["value"]
            limit = f"that none exceeds {bound:.2g} is certified" if bound < 2 else "nothing is certified there"
            found.append(html_report.Verdict(
                f"Within {epsilon:g} of every pixel, an attack changes the heat map of {network}, {activation}, by "
                f"{row[f'attacked_change@{epsilon:g}']['value']:.2g} in L1 (median; 2 is the most there is); {limit}."))
    return found


def worst(name, subject, by, epsilon):
    """(picture of the three images whose heat maps an attack changes most, table of all, the worst first).

    subject: (network, names of the images, pixels);  by: {activation: arrays};  the attack is that on the network as it
    is, the curvature that of the first activation that has one.
    """
    network, names, pixels = subject
    itself, (bent, arrays) = next(iter(by.values())), next((a, of) for a, of in by.items() if "spectral_norm" in of)
    changed, y = itself[f"attacked_change@{epsilon:g}"], itself["y"]
    order = np.argsort(-changed)
    first = order[:3]
    told = "; ".join(f"{k}: {names[i]} ({report.class_name(network.classes, y[i])})" for k, i in enumerate(first, 1))
    maps = html_report.gradients(network.model, network.preprocess, pixels[first], y[first])
    shown = html_report.maps({str(k + 1): pair for k, pair in enumerate(zip(pixels[first], maps, strict=True))},
                             signed=True)
    head = ("image", "predicted", f"attacked change at {epsilon:g}", *(f"{CURVATURES[m]}, {bent}" for m in _BENT))
    lines = [(names[i], report.class_name(network.classes, y[i]), f"{changed[i]:.3g}",
              *(f"{arrays[m][i]:.3g}" for m in _BENT)) for i in order]
    title = f"{name}: the images whose heat maps an attack within {epsilon:g} changes most"
    caption = f"{told}. The gradient of the predicted class's logit, red where positive, blue where negative."
    table = html_report.by_image(head, lines, f"{name}, the worst images first")
    return html_report.Picture(title, caption, [shown]), table


def _short(networks):
    """{network: its name without what all names start with}."""
    first, *others = networks
    start = first[:first.rfind("_") + 1] if others else ""
    return {name: name.removeprefix(start if all(n.startswith(start) for n in others) else "") for name in networks}


def figures(found, rows, epsilons):
    """{name: Figure}: curvature by network, and the change of the heat map, attacked and certified, by epsilon."""
    short = _short(found)
    curved = {f"{short[n]}, {a}": arrays for n, by in found.items() for a, arrays in by.items()
              if "spectral_norm" in arrays}
    measures = {m: label for m, label in CURVATURES.items() if all(m in arrays for arrays in curved.values())}
    bend = {name: {m: arrays[m] for m in measures} for name, arrays in curved.items()}
    band = lambda row: (row["value"], row["low"], row["high"])
    panels = {f"{short[n]}, {a}": {label: {e: band(row[f"{m}@{e:g}"]) for e in epsilons} for m, label in _CURVES.items()
                            if f"{m}@{epsilons[0]:g}" in row} for n, by in rows.items() for a, row in by.items()}
    columns = len(next(iter(rows.values())))
    return {"curvature": plot.comparison(bend, measures, log=tuple(measures)),
            "certificates": plot.sweep(panels, xlabel="epsilon: largest change of any pixel",
                                       ylabel="change of the heat map, L1", columns=columns)}
