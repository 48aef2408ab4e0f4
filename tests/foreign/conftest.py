"""The modules of models are imported by the test alone, which skips what is not installed; what a run writes."""

import json
from pathlib import Path

from foreign import table

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
CELLS = []


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/models.md from what this run finds")
    parser.addoption("--write-known", action="store_true", help="write known_failures.txt, for the cells of this run")
    parser.addoption("--cells", type=Path, help="a file of the cells found by earlier parts of the run; this part's "
                                                "are appended to it")


def pytest_runtest_logreport(report):
    if report.when == "call":
        CELLS.extend(value for name, value in report.user_properties if name == "cell")


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    option = lambda name: session.config.getoption(name, None)
    cells = list({(model, feature): [model, family, feature, words]
                  for model, family, feature, words in _with_earlier(option("--cells"))}.values())
    if option("--write-known"):
        table.write_known_failures(cells)
    if option("--write-table"):
        table.write(cells)


def _with_earlier(path):
    """The cells of this run behind those of a file, which takes them."""
    if path is None:
        return CELLS
    earlier = path.read_text().splitlines() if path.exists() else []
    lines = [*earlier, *map(json.dumps, CELLS)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in lines]
