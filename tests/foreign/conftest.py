"""The modules of models are imported by the test alone, which skips what is not installed; the table of a whole run."""

from pathlib import Path

from foreign import table

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
CELLS = []


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/models.md from what this run finds")


def pytest_runtest_logreport(report):
    if report.when == "call":
        CELLS.extend(value for name, value in report.user_properties if name == "cell")


def pytest_sessionfinish(session):
    if session.config.getoption("--write-table", False) and not hasattr(session.config, "workerinput"):
        table.write(CELLS)
