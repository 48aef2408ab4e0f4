"""The numbers of a manipulation, from its arrays alone, and how they are shown."""

import re
import textwrap
from collections.abc import Collection, Iterable, Sequence

import jax
import numpy as np
from rich import box
from rich.table import Column, Table

from xmanip_jax import metrics

pearson = jax.jit(jax.vmap(metrics.pearson))
_HINTS = {
    "map_pearson": "of the map with the goal", "map_pearson_before": "before the attack",
    "map_ssim": "of the map with the goal", "map_mse": "maps sum to 1", "image_mse": "pixels in [0, 1]",
    "image_ssim": "pixels in [0, 1]", "image_largest_change": "of a channel of a pixel",
    "probability_change": "largest of any class", "prediction_unchanged": "share of the images",
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
    """value (low to high) of a row of a summary; the value alone where it is of one image."""
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("value", "low", "high"))
    return value if row.get("count") == 1 else f"{value} ({low} to {high})"


def cell(row: dict) -> str:
    """A value above its interval, narrow enough for a terminal: 2.4e-07 above (2.2..2.7)e-07; or the value alone."""
    value, low, high = (row[name] for name in ("value", "low", "high"))
    power = int(np.floor(np.log10(abs(value)))) if 0 < abs(value) < 0.01 else 0
    digits, scale = (1, f"e{power:03d}") if power else (3, "")
    value, low, high = (f"{v / 10.0**power:.{digits}f}" for v in (value, low, high))
    within = f"({low}..{high}){scale}" if scale else f"{low}..{high}"
    return f"{value}{scale}" if row.get("count") == 1 else f"{value}{scale}\n{within}"


def words(name: str) -> str:
    """A name as words, which wrap; FILE.NAME stays as it is."""
    return name if re.search(r"\w\.[A-Za-z_]", name) else name.replace("_", " ")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    line = lambda cells: f"| {' | '.join(cells)} |\n"
    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], **about) -> Table:
    """A table for a terminal of 80 columns: wide columns wrap first, and no word breaks while there is a way."""
    rows = [*rows]
    columns = [Column(name, width=width) for name, width in zip(head, _widths([head, *rows]), strict=True)]
    found = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **about)
    for row in rows:
        found.add_row(*row)
    return found


def _widths(rows, room=80):
    """The widths of the columns of `grid`: of their longest lines, or as much less as is needed, word for word."""
    longest = lambda cells, split: max((len(part) for cell in cells for part in split(cell)), default=0)
    columns = [*zip(*rows, strict=True)]
    wanted, least = ([longest(cells, split) for cells in columns] for split in (str.splitlines, str.split))
    while sum(wanted) > room - 2 * len(wanted) and wanted != least:
        slack = [a - b for a, b in zip(wanted, least, strict=True)]
        wanted[slack.index(max(slack))] -= 1
    return wanted


def table(rows: dict[str, dict], title: str, note: str | None = None) -> Table:
    """A summary for the terminal: medians with their intervals, or the values of one image; a note below."""
    single = all(row["count"] + row["undefined"] == 1 for row in rows.values())
    head = ["metric", *(["value"] if single else ["median", "95 % interval"]), ""]
    within = lambda row: [] if single else [f"{row['low']:.3g} .. {row['high']:.3g}"]
    lines = [[name, f"{row['value']:.3g}", *within(row), _HINTS[name]] for name, row in rows.items()]
    return grid(head, lines, title=title, caption=note)


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a label; its number where the classes have no names."""
    return classes[label] if classes else f"class {label}"


def predictions(arrays: dict, classes: Sequence[str]) -> dict[str, list[str]]:
    """The predicted class of every image before and after the attack."""
    return {when: [class_name(classes, label) for label in arrays[f"logits_{short}"].argmax(1)]
            for when, short in (("original", "original"), ("manipulated", "adv"))}


def predicted(logits: np.ndarray, classes: Sequence[str]) -> str:
    """The predicted class of one image and its probability."""
    p = np.exp(logits - np.logaddexp.reduce(logits))
    return f"{class_name(classes, p.argmax())}, probability {p.max():.3f}"


def caption(arrays: dict, numbers: dict[str, np.ndarray], classes: Sequence[str], index: int = 0) -> dict[str, str]:
    """Lines for the figure of one image: class, probability and correlation with the target map."""
    def line(logits, r):
        return f"{textwrap.fill(predicted(logits, classes), 38)}\nmap correlation {r:.2f}"

    mse, largest = numbers["image_mse"][index], numbers["image_largest_change"][index]
    return {"original": line(arrays["logits_original"][index], numbers["map_pearson_before"][index]),
            "manipulated": line(arrays["logits_adv"][index], numbers["map_pearson"][index]),
            "target": "its map is the goal\nmap correlation 1",
            "difference": f"at most {255 * largest:.3g} / 255\nrms {np.sqrt(mse) * 255:.2g} / 255"}
