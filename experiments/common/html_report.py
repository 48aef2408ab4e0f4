"""report.html of a run: one file that opens anywhere, without a server, without scripts, without a file beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from common import files, report
from xmanip_jax import explain, plot

MOST_PICTURES = 12
MOST_ROWS = 20  # of a table by image
SIGNS = "In the second figure, what increased is red and what decreased is blue."
ENVIRONMENT = ("commit", "python", "versions", "device", "seconds")


class Verdict(NamedTuple):
    """A sentence that sums up; flags: those raised, None where none are looked for."""

    text: str
    flags: Sequence[str] | None = None


class Picture(NamedTuple):
    """Figures that belong together, as PNG, with a title and a text above them."""

    title: str
    caption: str
    pngs: Sequence[bytes]


def write(out: Path, title: str, about: str, verdicts: Sequence[Verdict], pictures: Sequence[Picture],
          tables: Sequence[Table], graphs: Sequence[str] = ()) -> None:
    """Write report.html beside results.json, whose settings and environment it shows; see `page`."""
    results = files.read_json(out / "results.json")
    environment = {name: results[name] for name in ENVIRONMENT if name in results}
    config = results["config"]
    settings = {name: value for name, value in config.items() if name != "network" or not config.get("model")}
    files.write_text(out / "report.html", page(title, about, verdicts, pictures, tables, graphs, settings, environment))


def page(title: str, about: str, verdicts: Sequence[Verdict], pictures: Sequence[Picture], tables: Sequence[Table],
         graphs: Sequence[str], settings: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The whole document.

    about: a sentence that says what was measured;  tables: of `report.grid`, as the terminal shows them;  graphs: of
    `curve` or `bars`. Text is escaped here. At most MOST_PICTURES PNGs are shown, and it is said where some are not.
    """
    sections = {
        "Summary": "".join(map(_verdict, verdicts)), "Pictures": _pictures(pictures),
        "Graphs": "".join(graphs) and f'<div class="graphs">{"".join(graphs)}</div>',
        "Tables": "".join(map(table, tables)), "Settings": _pairs(settings), "Environment": _pairs(environment)}
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{name.lower()}">{name}</a> ' for name in sections)
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>\n' for name, text in sections.items())
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f"<style>{_STYLE}</style></head>\n<body><header><h1>{escape(title)}</h1><p>{escape(about)}</p>"
            f"<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n")


def png(figure) -> bytes:
    """A figure as PNG; it is cleared."""
    file = io.BytesIO()
    plot.save(figure, file)
    return file.getvalue()


def maps(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], *, signed: bool = False) -> bytes:
    """PNG of {what it is: (pixels Float[h, w, c] in [0, 1], map Float[h', w'])}: a row each, side by side and over it.

    signed: colours diverge from white at 0.
    """
    panels = {label: [image, map, (image, map)] for label, (image, map) in rows.items()}
    titles = ["photograph", "signed map" if signed else "heat map", "over the photograph"]
    return png(plot.gallery(panels, titles, signed=signed, side=2.1))


def changes(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> bytes:
    """PNG of what an attack changed, in colours that diverge from white at 0: pixels (mean of channels) and map.

    before, after: (pixels Float[h, w, c], map Float[h', w']).
    """
    image, pixels, map = before[0], (after[0] - before[0]).mean(-1), after[1] - before[1]
    rows = {"change of the pixels": [pixels, (image, pixels)], "change of the map": [map, (image, map)]}
    titles = ["changed minus clean", "over the photograph"]
    return png(plot.gallery(rows, titles, signed=True, bars=True, side=2.1))


def gradients(model, preprocess, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Signed maps Float[n, h, w]: the gradient of each label's logit, channels summed."""
    of_one = lambda model, p, y: explain.gradient()(model, preprocess(p), y).sum(-1)
    return np.asarray(jax.jit(jax.vmap(of_one, in_axes=(None, 0, 0)))(model, pixels, labels))


def by_image(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """The first MOST_ROWS rows of a table by image; it says how many there are."""
    left = f"{MOST_ROWS} of {len(rows)}; results.json and arrays.npz have all" if len(rows) > MOST_ROWS else None
    return report.grid(head, rows[:MOST_ROWS], title=title, caption=left)


def table(shown: Table) -> str:
    """A table of the terminal."""
    cell = lambda text: escape(str(text)).replace("\n", "<br>")
    head = "".join(f'<th scope="col">{cell(column.header)}</th>' for column in shown.columns)
    rows = zip(*(column.cells for column in shown.columns), strict=True)
    body = "".join(f"<tr>{''.join(f'<td>{cell(text)}</td>' for text in row)}</tr>\n" for row in rows)
    title = f"<h3>{cell(shown.title)}</h3>" if shown.title else ""
    note = f"<p>{cell(shown.caption)}</p>" if shown.caption else ""
    return (f'{title}<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
            f"{note}\n")


def curve(label: str, points: Sequence[tuple[float, float]], xlabel: str) -> str:
    """A curve over x; points that are not finite are left out, and said to be."""
    finite = [(x, y) for x, y in points if np.isfinite(x) and np.isfinite(y)]
    missing = f", {len(points) - len(finite)} not finite" * (len(finite) < len(points))
    title = f"{report.words(label)}{missing}"
    if not finite:
        return f"<figure><figcaption>{escape(title)}</figcaption></figure>\n"
    x, y = np.array(finite, float).T
    at = lambda v, length: length * (v - v.min()) / np.ptp(v) if np.ptp(v) else np.full(len(v), length / 2)
    places = [*zip(70 + at(x, 220), 105 - at(y, 95), strict=True)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in places) if len(places) <= 30 else ""
    ends = [(14, y.max()), (109, y.min())] if np.ptp(y) else [(61, y[0])]
    ticks = [(65, b, "end", f"{v:.3g}") for b, v in ends]
    ends = [(70, "start", x.min()), (290, "end", x.max())] if np.ptp(x) else [(180, "middle", x[0])]
    ticks += [(a, 128, anchor, f"{v:g}") for a, anchor, v in ends]
    texts = "".join(f'<text x="{a}" y="{b}" text-anchor="{anchor}">{text}</text>' for a, b, anchor, text in ticks)
    texts += f'<text x="180" y="145" text-anchor="middle">{escape(xlabel)}</text>'
    return (f"<figure><figcaption>{escape(title)}</figcaption>"
            f'<svg viewBox="0 0 300 150" role="img" aria-label="{escape(title)}"><path d="M70 5V110H295"/>'
            f'<polyline points="{line}"/>{dots}{texts}</svg></figure>\n')


def bars(title: str, values: Mapping[str, float]) -> str:
    """A bar for each positive value, from 0."""
    most = max(values.values())
    lines = "".join(f'<dt>{escape(name)}</dt><dd><i style="width:{70 * value / most:.1f}%"></i> {value:.3g}</dd>'
                    for name, value in values.items())
    return f'<figure><figcaption>{escape(title)}</figcaption><dl class="bars">{lines}</dl></figure>\n'


def _verdict(verdict):
    if verdict.flags is None:
        return f'<div class="verdict"><p>{escape(verdict.text)}</p></div>'
    raised = ", ".join(map(report.words, verdict.flags))
    mark, kind = (f"flags raised: {raised}", "care") if raised else ("no flag raised", "clear")
    return f'<div class="verdict {kind}"><p class="mark">{escape(mark)}</p><p>{escape(verdict.text)}</p></div>'


def _pictures(pictures):
    shown, room = [], MOST_PICTURES
    for picture in pictures:
        if len(picture.pngs) > room:
            break
        room -= len(picture.pngs)
        images = "".join(f'<img alt="{escape(picture.title)}" src="data:image/png;base64,'
                         f'{base64.b64encode(data).decode()}">' for data in picture.pngs)
        shown.append(f"<figure><figcaption><b>{escape(picture.title)}</b><br>{escape(picture.caption)}</figcaption>"
                     f'<div class="plates">{images}</div></figure>\n')
    left = len(pictures) - len(shown)
    return "".join(shown) + (f"<p>{left} more would make this file too large; arrays.npz has all.</p>" if left else "")


def _pairs(pairs):
    lines = "".join(f"<tr><th scope=\"row\">{escape(report.words(name))}</th><td>{escape(_plain(value))}</td></tr>\n"
                    for name, value in pairs.items())
    return f'<div class="scroll"><table class="pairs"><tbody>{lines}</tbody></table></div>'


def _plain(value):
    """A setting as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(v)}" for name, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return {"None": "not given", "True": "yes", "False": "no"}.get(str(value), str(value))


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --box: #f6f8fa;
  --accent: #0b62c4; --care: #9a4b00; --clear: #1a6b34 }
@media (prefers-color-scheme: dark) { :root { --back: #12161b; --text: #e4e8ec; --soft: #9aa4af; --line: #353c45;
  --box: #1b2128; --accent: #6cb0ff; --care: #f0a35a; --clear: #63c987 } .plates img { filter: brightness(.9) } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2rem) 3rem; max-width: 76rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: clamp(1.3rem, 4vw, 1.8rem); line-height: 1.25; margin: 0 }
h2 { font-size: 1.2rem; margin: 2rem 0 .7rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line) }
header p { margin: .5rem 0; color: var(--soft); max-width: 60rem }
a { color: var(--accent); text-decoration: none; margin-right: .8rem } a:hover { text-decoration: underline }
.verdict { background: var(--box); border-left: .3rem solid var(--accent); padding: .6rem .9rem; margin: .6rem 0 }
.verdict p { margin: 0; max-width: 60rem } .verdict .mark { font-weight: 600 }
.care { border-color: var(--care) } .care .mark { color: var(--care) }
.clear { border-color: var(--clear) } .clear .mark { color: var(--clear) }
figure { margin: 0 0 1.6rem } figcaption { color: var(--soft); font-size: .9rem; max-width: 60rem; margin: .3rem 0 }
figcaption b { color: var(--text); font-size: 1rem }
.plates { display: grid; gap: .7rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)) }
.plates img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; border: 1px solid var(--line) }
.graphs { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)) }
svg { width: 100%; max-width: 30rem; display: block } svg text { font-size: 11px; fill: var(--soft) }
svg path { fill: none; stroke: var(--line) } svg circle { fill: var(--accent) }
svg polyline { fill: none; stroke: var(--accent); stroke-width: 1.5 }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .7rem; margin: 0; font-size: .9rem }
.bars dd { margin: 0; white-space: nowrap } .bars i { display: inline-block; height: .7rem; background: var(--accent) }
.scroll { overflow-x: auto; margin: 0 0 1.2rem }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; font-variant-numeric: tabular-nums }
h3 { font-size: .95rem; margin: 0 0 .3rem }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid var(--line) }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom }
.pairs th { font-weight: 400; color: var(--soft); white-space: nowrap } .pairs td { overflow-wrap: anywhere }
@media print { nav { display: none } figure, .verdict { break-inside: avoid } }
"""
