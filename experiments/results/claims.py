"""Write docs/claims.md: every claim of the papers, its verdict and our number, from claims.toml and the stored results.

    python experiments/results/claims.py
"""

import textwrap
import tomllib
from collections import Counter

import quotes

PAGE = quotes.FOLDER.parent.parent / "docs" / "claims.md"
VERDICTS = ("reproduced", "not reproduced", "not testable here")
PAPERS = ("Dombrowski et al. 2019", "Dombrowski et al. 2022", "Heo et al. 2019", "Tang et al. 2022 (ATEX)",
          "Boopathy et al. 2020", "Neighbours")
ABOUT = """# Every claim, its verdict and its number

What the papers claim, in our words, and what we found. *Reproduced*: the ends of the intervals say so. *Not
reproduced*: they say the contrary, and what else was tried is named. *Not testable here*: what it would take cannot be
had. Brackets hold 95 % intervals, over images by bootstrap, of shares by Wilson. `experiments/results/claims.py` writes
this page from the stored results; a test fails where they differ, or where a verdict's condition does not hold.
"""


def read() -> dict:
    """The content of claims.toml: `claim`, and `open`, what was not looked at."""
    return tomllib.loads((quotes.FOLDER / "claims.toml").read_text())


def claims() -> list[dict]:
    """The entries of claims.toml, those of a paper together, in the order of PAPERS."""
    return sorted(read()["claim"], key=lambda claim: PAPERS.index(claim["paper"]))


def sources(claim: dict) -> list[str]:
    """The files of results that a claim rests on."""
    return quotes.files([claim["number"], *claim.get("holds", [])])


def section(claim: dict) -> str:
    """What stands under one claim."""
    root = quotes.FOLDER.parent.parent
    links = ", ".join(f"[{name}.json](../{quotes.place(name).relative_to(root)})" for name in sources(claim))
    lines = {"Verdict": f"**{claim['verdict']}**", "Number": claim["number"], "Seeds and images": claim["sample"],
             "Files": links, "Command": ", ".join(f"`{command}`" for command in claim["command"].split("; ")),
             "Deviation": claim["deviation"], "Also tried": claim.get("tries", "")}
    told = [textwrap.fill(f"- {name}: {quotes.filled(text)}.", 120, subsequent_indent="  ", break_long_words=False,
                          break_on_hyphens=False) for name, text in lines.items() if text]
    return "\n".join([f"### {claim['id']}: {claim['claim']}", "", *told])


def page() -> str:
    """The whole page."""
    known = claims()
    count = Counter(claim["verdict"] for claim in known)
    parts = [ABOUT, f"{len(known)} statements: {', '.join(f'{count[v]} {v}' for v in VERDICTS if count[v])}.\n"]
    for paper in PAPERS:
        own = [claim for claim in known if claim["paper"] == paper]
        if own:
            table = ["| | claim | verdict |", "|---|---|---|",
                     *(f"| {claim['id']} | {claim['claim']} | {claim['verdict']} |" for claim in own)]
            parts += [f"## {paper}\n", "\n".join(table) + "\n", *(section(claim) + "\n" for claim in own)]
    return "\n".join([*parts, textwrap.fill(read()["open"], 120) + "\n"])


if __name__ == "__main__":
    PAGE.write_text(page())
