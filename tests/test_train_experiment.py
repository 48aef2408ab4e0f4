"""experiments/train.py, quick: what it leaves behind, what resuming does, what it refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xmanip_jax import models

SCRIPT = Path(__file__).parent.parent / "experiments" / "train.py"
sys.path.insert(0, str(SCRIPT.parent))

import train  # noqa: E402


def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, SCRIPT, "--quick", "--defence", "gradient_norm", "--out", out],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows = csv.reader((out / "log.csv").read_text().splitlines())
    results = json.loads((out / "results.json").read_text())
    assert set(head) == {"step", "accuracy", "cross_entropy", "loss", "penalty"}
    assert [r[0] for r in rows] == ["8"] and np.isfinite(float(rows[0][1]))
    measures = {f"{name}@{epsilon}" for name in ("adversarial_accuracy", "map_change") for epsilon in (0.02, 0.05, 0.1)}
    assert set(results["metrics"]) == set(np.load(out / "arrays.npz")) == {"accuracy", *measures}
    assert 0 <= results["metrics"]["map_change@0.1"]["value"] <= 2
    network = models.load("small_cnn", out / "weights.safetensors")
    assert np.isfinite(network.model(np.zeros((28, 28, 1), np.float32))).all()


def test_what_is_refused(tmp_path):
    (tmp_path / "held" / "checkpoints").mkdir(parents=True)
    for match, arguments in (("unknown defence 'magic'; known: plain,", ["--defence", "magic"]),
                             ("--weight is not negative, got -1", ["--weight", "-1"]),
                             ("--epsilon must be positive, got 0", ["--epsilon", "0"]),
                             ("--start names a weights.safetensors, got nowhere", ["--start", "nowhere"]),
                             ("--epsilons must be positive", ["--epsilons", "0.1", "0"]),
                             ("--start names its weights", ["--defence", "atex"]),
                             ("already holds checkpoints", ["--quick", "--out", str(tmp_path / "held")])):
        with pytest.raises(SystemExit, match=match):
            train.run([*arguments, *([] if "--out" in arguments else ["--out", str(tmp_path / "no")])])
    assert not (tmp_path / "no").exists()
