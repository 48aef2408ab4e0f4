"""The table of docs/models.md: for each family of models and each feature, works or the words of the refusal."""

import re
from collections import Counter, defaultdict
from pathlib import Path

from foreign.features import FEATURES

__all__ = ["DOCUMENT", "known_failures", "write", "write_known_failures"]

KNOWN = Path(__file__).with_name("known_failures.txt")
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
INTRODUCTION = """# Which models work

Written by a run of the tests (`make table`); do not edit. {models} small networks, as people write them in JAX, flax
linen, flax nnx, equinox, haiku and Keras on JAX ([tests/foreign](../tests/foreign)), went through every feature of
the library. Each result was judged by something that is not the library's: differences of values, the same network
built with other activations, numpy, sampling. A cell says

- **works**: right for every model of the family;
- a number: refused, with the words listed below the table; "3/5 [2]": so many work, the others are refused with these;
- *works* with a number: right, with the warning listed below;
- —: the feature does not concern the family;
- **wrong**: a defect that is known and not mended (`tests/foreign/known_failures.txt`).

A refusal is a `ValueError` (`rewrite.RewriteError` and its kin), raised before anything is computed where that is
possible. Where words name operations, these are all that any model was refused for.

"""


def known_failures() -> dict[tuple[str, str], str]:
    """What is wrong today, by (model, feature)."""
    lines = (line.split(maxsplit=2) for line in KNOWN.read_text().splitlines())
    return {(model, feature): words for model, feature, words in lines}


def write_known_failures(cells) -> None:
    """The list anew for the cells of a run; the others stay."""
    run = {(model, feature): words for model, _, feature, words in cells}
    found = {cell: words for cell, words in known_failures().items() if cell not in run}
    found |= {cell: words.removeprefix("wrong: ") for cell, words in run.items() if words.startswith("wrong")}
    KNOWN.write_text("".join(f"{model} {feature} {words}\n" for (model, feature), words in sorted(found.items())))


def write(cells) -> None:
    """cells: [model, family, feature, words] of a whole run; words "" where the feature does not concern the model."""
    models = {model for model, *_ in cells}
    missing = [f for f in FEATURES if len({m for m, _, feature, _ in cells if feature == f}) != len(models)]
    if missing or not models:
        raise ValueError(f"the table needs a whole run, -m 'slow or not slow'; incomplete: {missing or 'everything'}")
    DOCUMENT.write_text(document(cells))


def document(cells) -> str:
    by_cell, notes = defaultdict(list), {}
    for _, family, feature, words in sorted(cells):
        by_cell[family, feature].append(words)

    def note(words):
        general, names = _general(words)
        number, known = notes.setdefault(general, (len(notes) + 1, set()))
        known.update(names)
        return number

    families = sorted({family for _, family, *_ in cells}, key=str.lower)
    sizes = Counter(family for _, family, feature, _ in cells if feature == "gradient")
    header = ["family", "models", *(f.replace("_", " ") for f in FEATURES)]
    rows = [[family, str(sizes[family]), *(_cell(by_cell[family, f], note) for f in FEATURES)] for family in families]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    judged = [f"- **{name.replace('_', ' ')}**: {check.__doc__.splitlines()[0]}" for name, check in FEATURES.items()]
    words = [f"{number}. {text.format(', '.join(sorted(names)))}" for text, (number, names) in notes.items()]
    intro = INTRODUCTION.format(models=len({model for model, *_ in cells}))
    parts = "\n".join(lines), "## Words", "\n".join(words), "## How each was judged", "\n".join(judged)
    return intro + "\n\n".join(parts) + "\n"


def _cell(words, note) -> str:
    """What a family's models say of one feature."""
    words = [w for w in words if w]
    if not words:
        return "—"
    if wrong := [w for w in words if w.startswith("wrong")]:
        return f"**wrong** ({len(wrong)}/{len(words)})"
    working = [w for w in words if w.startswith("works")]
    numbers = sorted({note(w.removeprefix("works, and warns: ")) for w in words if w != "works"})
    listed = f"[{', '.join(map(str, numbers))}]" if numbers else ""
    share = "" if not working else "works" if len(working) == len(words) else f"{len(working)}/{len(words)}"
    return f"{share} {listed}".strip()


def _general(words: str) -> tuple[str, list[str]]:
    """Words that serve for several models, "{}" for the operations that they name, and these."""
    found = re.search(r"(?:no bound is known for|no propagation rule for|on the image through) ([^;:]+)", words)
    names = found[1] if found else ""
    words = words.replace("{", "{{").replace("}", "}}").replace("|", "\\|")
    words = words.replace(names, "{}", 1) if found else words
    return re.sub(r"\(\d[\d, ]*\)", "(...)", words), names.split(", ")
