"""Keep the results of a finished run, and write its table into the page that shows it.

    python experiments/results/pages.py resnet20 runs/resnet20

copies runs/resnet20/results.json to resnet20.json, here, and puts the table between the page's two comments.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from papers import resnet20  # noqa: E402

DOCS = FOLDER.parent.parent / "docs" / "results"
PAGES: dict[str, tuple[Path, Callable[[dict], str]]] = {
    "resnet20": (DOCS / "defended-resnet20.md", resnet20.markdown),
}


def written(name: str) -> str:
    """The text of a page with the table of what is stored."""
    page, table = PAGES[name]
    found = table(json.loads((FOLDER / f"{name}.json").read_text()))
    return re.sub(r"(?<=<!-- table -->\n).*?(?=<!-- end of the table -->)", lambda _: f"\n{found}\n", page.read_text(),
                  flags=re.DOTALL)


def main(name: str, run: str) -> None:
    shutil.copyfile(Path(run) / "results.json", FOLDER / f"{name}.json")
    PAGES[name][0].write_text(written(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
