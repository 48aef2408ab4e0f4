"""Keep the results of a finished run, and write its table into the page that shows it.

    python experiments/results/pages.py resnet20 runs/resnet20/results.json

copies the file to where it is kept, and puts its table into the page between the comments <!-- resnet20 --> and
<!-- end -->; without a file, the table of what is stored is written again.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "benchmarks")]

import ascent_budget  # noqa: E402
from papers import resnet20  # noqa: E402

DOCS = ROOT / "docs" / "results"
PAGES: dict[str, tuple[Path, Path, Callable[[dict], str]]] = {  # the stored file, the page, its table
    "resnet20": (ROOT / "experiments/results/resnet20.json", DOCS / "defended-resnet20.md", resnet20.markdown),
    "ascent_budget": (ROOT / "benchmarks/results/ascent_budget.json", DOCS / "defences.md", ascent_budget.table),
}


def written(name: str) -> str:
    """The text of a page with the table of what is stored."""
    stored, page, table = PAGES[name]
    found = table(json.loads(stored.read_text()))
    return re.sub(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", lambda _: f"\n{found}\n", page.read_text(),
                  flags=re.DOTALL)


def main(name: str, file: str | None = None) -> None:
    stored, page, _ = PAGES[name]
    if file:
        shutil.copyfile(file, stored)
    page.write_text(written(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
