"""Run a study of a paper, one of papers/.

    python experiments/reproduce.py                     # which study answers which question
    python experiments/reproduce.py heo2019 --help
    python experiments/reproduce.py heo2019 --quick
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

import ast
import importlib
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "papers"


def studies() -> dict[str, str]:
    """{name: the first sentence of what it is about} of every file with a `run`."""
    trees = {file.stem: ast.parse(file.read_text()) for file in sorted(FOLDER.glob("*.py"))}
    return {name: ast.get_docstring(tree).split("\n\n")[0].replace("\n", " ") for name, tree in trees.items()
            if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)}


def main(arguments: list[str]) -> None:
    known = studies()
    if not arguments or arguments[0] in ("-h", "--help"):
        table = Table("study", "question", box=None)
        for name, about in known.items():
            table.add_row(name, about)
        return Console().print(table)
    if arguments[0] not in known:
        sys.exit(f"reproduce: unknown study {arguments[0]!r}; known: {', '.join(known)}")
    return importlib.import_module(f"papers.{arguments[0]}").run(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
