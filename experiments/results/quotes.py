"""Numbers of the stored results, for texts: what a page quotes is looked up, not typed.

A reference names a place in a file of this folder, `file > key > key`; `| of 1000` behind it makes a share of so many
cases a summary with its 95 % interval (Wilson), `| low` and `| high` take an end of an interval. In a text it stands in
braces, with a format of Python if wanted:

    >>> import quotes                                                                            # doctest: +SKIP
    >>> quotes.filled("Int: {boopathy2020_mnist > results > mnist_smallgap_int > accuracy : .3f}")  # doctest: +SKIP
    'Int: 0.933'
"""

import functools
import json
import operator
import re
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
BENCHMARKS = FOLDER.parent.parent / "benchmarks" / "results"
_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@functools.cache
def stored(file: str) -> dict:
    """The content of a file of this folder, or of benchmarks/results."""
    return json.loads(place(file).read_text())


def place(file: str) -> Path:
    """Where a file of that name lies."""
    here = FOLDER / f"{file}.json"
    return here if here.is_file() else BENCHMARKS / f"{file}.json"


def files(texts: list[str]) -> list[str]:
    """The names of the files that texts and conditions refer to, each once."""
    begins = re.compile(r"(?:^|\{|(?:>=|<=|>>|<<) )(\w[\w-]*) > ")
    return list(dict.fromkeys(name for text in texts for name in begins.findall(text)))


def looked_up(reference: str):
    """The number, or the summary {"value", "low", "high"}, that a reference names; KeyError, with the reference."""
    path, *takes = (part.strip() for part in reference.split(" | "))
    file, *keys = (key.strip() for key in path.split(" > "))
    try:
        found = stored(file)
        for key in keys:
            found = found[int(key) if isinstance(found, list) else key]
    except (KeyError, IndexError, FileNotFoundError) as error:
        raise KeyError(f"{reference!r}: {error!r}") from None
    for take in takes:
        found = wilson(found, int(take.removeprefix("of "))) if take.startswith("of ") else found[take]
    return found


def wilson(share: float, count: int) -> dict[str, float]:
    """A share of `count` cases with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return {"value": share, "low": middle - half, "high": middle + half}


def filled(text: str) -> str:
    """The text with each reference in braces replaced by its number, or by `value (low to high)`.

    The format "percent" multiplies by 100.
    """

    def number(match):
        reference, form = match.group(1), (match.group(2) or ".2f").strip()
        found = looked_up(reference)
        scale, form = (100, ".0f") if form == "percent" else (1, form)
        if not isinstance(found, dict):
            return format(scale * found, form)
        value, low, high = (format(scale * found[end], form) for end in ("value", "low", "high"))
        return f"{value} ({low} to {high})" if scale == 1 else f"{value} % ({low} to {high})"

    return re.sub(r"\{([^{}:]+?)(?: : ([^{}]+))?\}", number, text)


def holds(condition: str) -> bool:
    """Whether `reference >= reference or number` is so, with any of >=, <=, >>, <<  (doubled: > joins keys)."""
    left, sign, right = re.fullmatch(r"(.+?) (>=|<=|>>|<<) (.+)", condition).groups()
    side = lambda text: float(text) if re.fullmatch(r"-?[\d.]+(?:e-?\d+)?", text) else looked_up(text)
    return _COMPARISONS[sign if sign in _COMPARISONS else sign[0]](side(left), side(right))


def quotations() -> list[tuple[str, str]]:
    """(page, text that stands there) of quoted.toml; an entry's `rows` repeat its text with <a>, <b>, ... replaced."""
    found = []
    for entry in tomllib.loads((FOLDER / "quoted.toml").read_text())["quote"]:
        for row in entry.get("rows", [[]]):
            text = entry["text"]
            for letter, word in zip("abcdefgh", row, strict=False):
                text = text.replace(f"<{letter}>", word)
            found.append((entry["page"], filled(text)))
    return found
