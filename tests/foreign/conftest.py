"""The modules of models are imported by the test alone, which skips what is not installed; what a run writes."""

from pathlib import Path

from foreign import table

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
CELLS = []


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/models.md from what this run finds")
    parser.addoption("--write-known", action="store_true", help="write known_failures.txt, for the cells of this run")


def pytest_runtest_logreport(report):
    if report.when == "call":
        CELLS.extend(value for name, value in report.user_properties if name == "cell")


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    if session.config.getoption("--write-known", False):
        table.write_known_failures(CELLS)
    if session.config.getoption("--write-table", False):
        table.write(CELLS)
