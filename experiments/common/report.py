"""The numbers of a manipulation, from its arrays alone, and how they are shown."""

from collections.abc import Collection, Iterable, Sequence

import jax
import numpy as np
from rich.table import Table

from xmanip_jax import metrics

pearson = jax.jit(jax.vmap(metrics.pearson))
_HINTS = {
    "map_pearson": "correlation of the manipulated and the target map; 1 is a perfect forgery",
    "map_pearson_before": "the same before the attack", "map_ssim": "maps scaled by their joint maximum",
    "map_mse": "maps sum to 1", "image_mse": "pixels in [0, 1]", "image_ssim": "pixels in [0, 1]",
    "image_largest_change": "of any channel of any pixel", "probability_change": "largest of any class",
    "prediction_unchanged": "share of the images",
}


def measure(arrays: dict) -> dict[str, np.ndarray]:
    """Every number, one value per image; maps and logits in `arrays` are those of the original network."""
    logits = arrays["logits_adv"], arrays["logits_original"]
    found = _measured({name: arrays[name] for name in _READ}) | {
        "image_largest_change": np.abs(arrays["x_adv"] - arrays["x"]).max((1, 2, 3)),
        "prediction_unchanged": (logits[0].argmax(1) == logits[1].argmax(1)).astype(np.float32)}
    return {name: np.asarray(found[name]) for name in _HINTS}


_READ = ("x", "x_adv", "map_original", "map_adv", "map_target", "logits_original", "logits_adv")


@jax.jit
@jax.vmap
def _measured(a):
    return {
        "map_pearson": metrics.pearson(a["map_adv"], a["map_target"]),
        "map_pearson_before": metrics.pearson(a["map_original"], a["map_target"]),
        "map_ssim": metrics.ssim(a["map_adv"], a["map_target"], window=None),
        "map_mse": metrics.mse(a["map_adv"], a["map_target"]),
        "image_mse": metrics.mse(a["x_adv"], a["x"]),
        "image_ssim": metrics.ssim(a["x_adv"], a["x"], data_range=1.0),
        "probability_change": metrics.probability_change(a["logits_adv"], a["logits_original"]),
    }


def summary(numbers: dict[str, np.ndarray], seed: int, mean: Collection[str] = ("prediction_unchanged",)) -> dict:
    """{measure: its median over the images (mean: of those), its 95 % bootstrap interval and what it rests on}."""
    rows = {}
    for name, values in numbers.items():
        statistic = np.mean if name in mean else np.median
        found = metrics.summarise({name: values}, key=jax.random.key(seed), statistic=statistic)[name]
        rows[name] = {"statistic": statistic.__name__, **found._asdict()}
    return rows


def interval(row: dict, digits: int) -> str:
    """value (low to high) of a row of a summary."""
    return f"{row['value']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    line = lambda cells: f"| {' | '.join(cells)} |\n"
    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def table(rows: dict[str, dict], title: str) -> Table:
    """A summary for the terminal."""
    shown = Table("metric", "median", "95 % interval", "", title=title)
    for name, row in rows.items():
        shown.add_row(name, f"{row['value']:.4g}", f"{row['low']:.4g} .. {row['high']:.4g}", _HINTS[name])
    return shown


def caption(arrays: dict, numbers: dict[str, np.ndarray], index: int = 0) -> dict[str, str]:
    """Lines for the figure of one image: class, probability and correlation with the target map."""
    def line(logits, r):
        p = np.exp(logits - np.logaddexp.reduce(logits))
        return f"class {p.argmax()}, probability {p.max():.3f}\nmap correlation {r:.2f}"

    mse = numbers["image_mse"][index]
    return {"original": line(arrays["logits_original"][index], numbers["map_pearson_before"][index]),
            "manipulated": line(arrays["logits_adv"][index], numbers["map_pearson"][index]),
            "target": "its map is the goal\nmap correlation 1",
            "difference": f"image MSE {mse:.1e}\nrms change {np.sqrt(mse) * 255:.1f} / 255"}
