"""A pytest plugin: which lines of the library each passing test runs, and its seconds, in the JSON file $COVERED_LINES.

    COVERED_LINES=lines.json PYTHONPATH=benchmarks python -m pytest -p covered_lines -n 0 tests/test_smooth.py
"""

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = f"{Path.cwd()}/"
passed = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    lines, start = defaultdict(set), time.perf_counter()

    def inside(frame, event, _):
        lines[frame.f_code.co_filename].add(frame.f_lineno)
        return inside

    def entered(frame, event, _):
        return inside(frame, event, _) if frame.f_code.co_filename.startswith(f"{ROOT}xmanip_jax/") else None

    sys.settrace(entered)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        if item.nodeid in passed:
            ran = {path.removeprefix(ROOT): sorted(found) for path, found in lines.items()}
            passed[item.nodeid] = [round(time.perf_counter() - start, 2), ran]


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        passed[report.nodeid] = None


def pytest_sessionfinish():
    Path(os.environ["COVERED_LINES"]).write_text(json.dumps(passed))
