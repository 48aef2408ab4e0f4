"""The benchmarks that a device or a start measures, small."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import accelerator
import start_up

MADE_UP = {"start": {"first": {"clock_s": 30.0, "processor_s": 50.0, "import_s": 1.5},
                     "second": {"clock_s": 10.0, "processor_s": 16.0, "import_s": 1.5},
                     "ratio_clock": 3.0, "ratio_processor": 3.125},
           "steps": [{"network": "a", "explanation": "b", "trace_s": 1.0, "lower_s": 0.2, "xla_s": 3.0, "total_s": 4.2},
                     {"network": "a", "explanation": "c", "refused": "why"}]}


def test_what_matters_most_is_measured_first():
    config = accelerator.Config(networks=("resnet50", "no_such"), batches=(64, 1), precisions=("tf32", "float32"))
    assert accelerator.cases(config) == [(64, "tf32", "resnet50"), (64, "float32", "resnet50"), (1, "tf32", "resnet50")]


def test_what_a_device_refuses_is_a_result(monkeypatch):
    def full(*of):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    assert accelerator.measured(full) == "RESOURCE_EXHAUSTED: out of memory"
    row = {"network": "a", "operation": "hvp", "precision": "tf32", "batch": 4}
    whole = row | {"ms": 2.0, "images_per_s": 2e3, "share_of_roofline": 0.5, "torch_over_jax": 1.5}
    refused, measured = accelerator.table([row | {"refused": "no"}, whole]).splitlines()[2:]
    assert refused.endswith("| hvp | refused |  |  |  |") and measured.endswith("| hvp | 2.00 | 2000 | 50.0% | 1.50 |")


@pytest.mark.slow
def test_a_device_is_measured(tmp_path):
    accelerator.main(accelerator.Config(small=True, precisions=("float32", "bfloat16"), out=tmp_path))
    (file,) = tmp_path.glob("accelerator_*.json")
    found = json.loads(file.read_text())
    assert {r["operation"] for r in found["rows"]} == set(accelerator.PASSES) and len(found["rows"]) == 12
    assert all(r["ms"] > 0 and r["images_per_s"] > 0 for r in found["rows"]) and found["roofline_tflops"]["float32"] > 0


def test_the_tables_of_a_start():
    lines = start_up.table(MADE_UP).splitlines()
    assert "| first / second | 3.00 | 3.12 | |" in lines and lines[-1] == "| a | c | refused |  |  |  |"


def test_a_start_has_no_folder_of_compiled_programs_but_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    kept = start_up.environment(tmp_path)
    assert kept["XDG_CACHE_HOME"] == str(tmp_path) and not [k for k in kept if k.startswith("JAX_") and "CACHE" in k]
