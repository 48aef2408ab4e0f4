"""The table of docs/models.md: for each family of models and each feature, works or the words of the refusal."""

import re
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

from foreign.features import FEATURES

__all__ = ["DOCUMENT", "known_failures", "write", "write_known_failures"]

KNOWN = Path(__file__).with_name("known_failures.txt")
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
INTRODUCTION = """# Which models work

Written by a run of the tests (`make table`); do not edit. {models} small networks, as people write them in JAX, flax
linen, flax nnx, equinox, haiku and Keras on JAX (`tests/foreign`), went through {features} features
of the library. Each result was judged by something that is not the library's: differences of values, the same
network built with other activations, numpy, sampling.

| a cell | means |
|---|---|
| works | right for every model of the family |
| works, note 3 | likewise; for some of the models with the warning that the note quotes |
| refused, note 3 | every model of the family is refused, with the words of the note |
| 3 of 5 work, notes 3, 4 | the others are refused; the notes quote refusals and warnings |
| - | does not concern the family: its weights do not change in place |
| **wrong** (1 of 5) | a defect that is known and not mended (tests/foreign/known_failures.txt) |

A refusal is a `ValueError` (`rewrite.RewriteError` and its kin) that the library raises, mostly before anything is
computed (of a `while_loop` it is jax that has no gradient); it also says where in the model's code the operation
stands, which is left out here. Where a note names several operations, these are all for which models were refused or
warned about. Which operations have rules, and how to give rules of your own, is told in [rewrite.md](rewrite.md).
"""
GROUPS = {
    "Gradients": {
        "gradient": "`explain.gradient`", "gradient_x_input": "`explain.gradient_x_input`",
        "integrated_gradients": "`explain.integrated_gradients`", "smoothgrad": "`explain.smoothgrad`",
        "grad_cam": "`explain.grad_cam`"},
    "Propagation": {
        "guided_backprop": "`explain.guided_backprop`", "lrp_0": "`explain.lrp` with `epsilon(0)` everywhere",
        "lrp_dombrowski2019": "`explain.lrp_dombrowski2019`: z+ and, at the first layer, z-box",
        "patterns": "`explain.pattern_attribution`"},
    "Surrogates, attacks and penalties": {
        "softplus": "`smooth.softplus` with `max_pool=True`", "manipulation": "`attack.manipulation`",
        "largest_change": "`attack.largest_change`", "weights_in_place": "an attack before and after a module changes",
        "hessian_penalty": "`defend.hessian`"},
    "Bounds": {
        "output_bounds": "`certify.output_bounds`",
        "gradient_bounds": "`certify.gradient_bounds`, with `linear=True` too",
        "gradient_change_bound": "`certify.gradient_change_bound`",
        "hessian_bound": "`certify.hessian_bound` in a box",
        "hessian_bound_anywhere": "`certify.hessian_bound` at all inputs"},
}


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
    """The text of docs/models.md."""
    by_cell, notes = defaultdict(list), {}
    for _, family, feature, words in sorted(cells):
        by_cell[family, feature].append(words)

    def note(words):
        general, names = _general(words)
        number, known = notes.setdefault(general, (len(notes) + 1, set()))
        known.update(names)
        return number

    sizes = Counter(family for _, family, feature, _ in cells if feature == "gradient")
    families = sorted(sizes, key=str.lower)
    parts = [INTRODUCTION.format(models=sizes.total(), features=len(FEATURES))]
    for title, features in GROUPS.items():
        header = ["family (models)", *(f.replace("_", " ") for f in features)]
        rows = [[f"{family} ({sizes[family]})", *(_cell(by_cell[family, f], note) for f in features)]
                for family in families]
        told = [_item("-", f"**{name}**: {what}. *Judged by:* {FEATURES[f].__doc__.splitlines()[0]}")
                for name, (f, what) in zip(header[1:], features.items(), strict=True)]
        table = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
        parts += [f"## {title}", "\n".join(told), "\n".join(table)]
    words = [_item(f"{number}.", text.format(", ".join(sorted(names)))) for text, (number, names) in notes.items()]
    return "\n\n".join(part.rstrip("\n") for part in (*parts, "## Notes", "\n".join(words))) + "\n"


def _item(mark, words) -> str:
    """An item of a list, in lines of at most 120 characters."""
    return textwrap.fill(f"{mark} {words}", 120, subsequent_indent=" " * (len(mark) + 1), break_long_words=False,
                         break_on_hyphens=False)


def _cell(words, note) -> str:
    """What a family's models say of one feature."""
    words = [w for w in words if w]
    if not words:
        return "-"
    if wrong := [w for w in words if w.startswith("wrong")]:
        return f"**wrong** ({len(wrong)} of {len(words)})"
    working = [w for w in words if w.startswith("works")]
    notes = [part for w in words for part in w.split(", and warns: ") if part != "works"]
    numbers = sorted(set(map(note, notes)))
    share = "works" if len(working) == len(words) else f"{len(working)} of {len(words)} work" if working else "refused"
    return ", ".join([share, *[f"note{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"] * bool(numbers)])


_NAMES = re.compile("|".join((
    r"(?:no bound is known for|no bound at all inputs is known for|no propagation rule for) ([^;:]+)",
    r"on the image through ([^;:]+)",
    r"no surrogate replaces ([^:]+):", r"Error: (\w+) makes the gradient jump", r"do not pass (\w+), which")))


def _general(words: str) -> tuple[str, list[str]]:
    """Words that serve for several models, "{}" for the operations that they name, and these."""
    words = re.sub(r" \([^()]*\.py:\d+ in [^()]*\)", "", words)  # where an operation stands in the model's code
    words = re.sub(r"\(\d[\d, ]*\)", "(...)", re.sub(r"layer '[^']+'", "layer '...'", words))
    words = re.sub(r"the first layer, \w+:", "the first layer:", words)
    found = _NAMES.search(words)
    names = next(filter(None, found.groups())) if found else ""
    words = words.replace("{", "{{").replace("}", "}}")
    return (words.replace(names, "{}", 1) if found else words), names.split(", ")
