"""experiments/curvature.py, quick: its numbers against direct ones, resumed, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "curvature.py"


def command(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_arrays_and_results(tmp_path):
    finished = tmp_path / "out"
    done = command("--quick", "--out", finished)
    assert done.returncode == 0, done.stderr
    arrays = np.load(finished / "arrays.npz")
    results = json.loads((finished / "results.json").read_text())
    smooth = results["results"]["random"]["softplus 2"]
    read = lambda name: arrays[f"random/softplus 2/{name}"]
    assert smooth["spectral_norm"]["value"] == pytest.approx(np.median(read("spectral_norm")))
    assert (read("spectral_norm") <= read("frobenius_norm") + 4 * read("frobenius_error")).all()
    assert (read("spectral_norm") <= read("hessian_bound")).all()
    assert (read("normalised_curvature") * read("gradient_norm") <= read("hessian_bound")).all()
    for eps in ("0.001", "0.01"):
        assert (read(f"gradient_change@{eps}") <= read(f"gradient_change_bound@{eps}")).all()
        assert (read(f"normal_change@{eps}") <= read(f"normal_change_bound@{eps}")).all()
        for activation in ("relu", "softplus 2"):
            attacked, bound = (arrays[f"random/{activation}/{name}@{eps}"] for name in (
                "attacked_change", "change_intervals"))
            assert (attacked > 0).any() and attacked[0] <= bound[0]
    assert "random/relu/spectral_norm" not in arrays
    assert all((finished / f"{name}.png").stat().st_size > 10_000 for name in ("curvature", "certificates"))


def test_what_is_refused(tmp_path):
    for match, arguments in (("unknown network 'vgg'", ["--networks", "vgg", "--out", tmp_path / "no"]),
                             ("--certified is at most --count 2", ["--count", 2, "--networks", "small_cnn"])):
        failed = command(*arguments)
        assert failed.returncode == 1 and match in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr
    assert not (tmp_path / "no").exists()
