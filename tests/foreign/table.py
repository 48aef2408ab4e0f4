"""The table of docs/models.md: for each family of models and each feature, works or the words of the refusal."""

import re
from collections import Counter, defaultdict
from pathlib import Path

from foreign.features import FEATURES

__all__ = ["DOCUMENT", "write"]

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
possible. Where the words hold a shape, that of one model stands for all.

"""


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
    note = lambda words: notes.setdefault(_general(words), len(notes) + 1)
    families = sorted({family for _, family, *_ in cells}, key=str.lower)
    sizes = Counter(family for _, family, feature, _ in cells if feature == "gradient")
    header = ["family", "models", *(f.replace("_", " ") for f in FEATURES)]
    rows = [[family, str(sizes[family]), *(_cell(by_cell[family, f], note) for f in FEATURES)] for family in families]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    judged = [f"- **{name.replace('_', ' ')}**: {check.__doc__.splitlines()[0]}" for name, check in FEATURES.items()]
    words = [f"{number}. {text}" for text, number in notes.items()]
    intro = INTRODUCTION.format(models=len({model for model, *_ in cells}))
    parts = "\n".join(lines), "## Words", "\n".join(words), "## How each was judged", "\n".join(judged)
    return intro + "\n\n".join(parts) + "\n"


def _cell(words, note) -> str:
    """What a family's models say of one feature."""
    words = [w for w in words if w]
    if not words:
        return "—"
    if "wrong" in words:
        return f"**wrong** ({words.count('wrong')}/{len(words)})"
    working = [w for w in words if w.startswith("works")]
    numbers = sorted({note(w.removeprefix("works, and warns: ")) for w in words if w != "works"})
    listed = f"[{', '.join(map(str, numbers))}]" if numbers else ""
    share = "" if not working else "works" if len(working) == len(words) else f"{len(working)}/{len(words)}"
    return f"{share} {listed}".strip()


def _general(words: str) -> str:
    """Words without the shapes of one model, so that one note serves for several."""
    return re.sub(r"\(\d[\d, ]*\)", "(...)", words).replace("|", "\\|")
