"""experiments/train.py, quick: what it leaves behind, what resuming does, what it refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import train
from checks import full_disk
from common import defence_recipes, runs, training, training_data
from xmanip_jax import checkpoint, models

SCRIPT = Path(__file__).parent.parent / "experiments" / "train.py"


@pytest.mark.slow
def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, SCRIPT, "--quick", "--defence", "gradient_norm",
                           "--dataset", "cifar10", "--epsilons", "0.1", "--out", out],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows = csv.reader((out / "log.csv").read_text().splitlines())
    results = json.loads((out / "results.json").read_text())
    assert set(head) == {"step", "accuracy", "cross_entropy", "loss", "penalty"}
    assert [r[0] for r in rows] == ["8"] and np.isfinite(float(rows[0][1]))
    measures = {f"{name}@{epsilon}" for name in ("adversarial_accuracy", "map_change") for epsilon in (0.1,)}
    assert set(results["metrics"]) == set(np.load(out / "arrays.npz")) == {"accuracy", *measures}
    assert 0 <= results["metrics"]["map_change@0.1"]["value"] <= 2
    assert not results["flags"]["zero_gradient"]["raised"]
    network = models.load("small_cnn_cifar10", out / "weights.safetensors")
    assert np.isfinite(network.model(np.zeros((32, 32, 3), np.float32))).all()


def test_what_is_refused(tmp_path):
    (tmp_path / "held" / "checkpoints" / "50").mkdir(parents=True)
    settings = runs.settings(training.checked(train.Config(quick=True)))
    (tmp_path / "held" / "config.json").write_text(json.dumps(settings))
    for match, arguments in (("invalid choice 'svhn'.*'cifar10'", ["--dataset", "svhn"]),
                             ("unknown defence 'magic'; known: plain,", ["--defence", "magic"]),
                             ("--weight is not negative, got -1", ["--weight", "-1"]),
                             ("--epsilon must be positive, got 0", ["--epsilon", "0"]),
                             ("--start names a weights.safetensors, got nowhere", ["--start", "nowhere"]),
                             ("--epsilons must be positive", ["--epsilons", "0.1", "0"]),
                             ("--start names its weights", ["--defence", "atex"]),
                             ("already holds results: pass --resume", ["--quick", "--out", str(tmp_path / "held")])):
        with pytest.raises(SystemExit, match=match):
            train.run([*arguments, *([] if "--out" in arguments else ["--out", str(tmp_path / "no")])])
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_full_disk_nan_and_another_architecture(tmp_path, monkeypatch):
    """Each stops with one line and leaves the last good checkpoint, from which --resume goes on."""
    rng, out = np.random.default_rng(0), tmp_path / "out"
    images, labels = rng.uniform(size=(16, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 16)
    found = training_data.Split(images, labels, images, labels)
    monkeypatch.setattr(training_data, "read", lambda config, own: found)
    breaks = lambda rate, weight: optax.chain(optax.sgd(1e-3), optax.scale_by_schedule(
        lambda step: jnp.where(step < 52, 1.0, jnp.nan)))
    recipe = defence_recipes.RECIPES["plain"]._replace(optimizer=breaks)
    monkeypatch.setitem(defence_recipes.RECIPES, "breaks", recipe)
    arguments = ["--defence", "breaks", "--batch", "8", "--epochs", "30", "--train-images", "16", "--out", str(out),
                 "--resume"]

    def stopped():
        with pytest.raises(SystemExit) as stop:
            train.run(arguments)
        assert "\n" not in stop.value.code
        return stop.value.code

    with full_disk():
        assert "50 cannot be written: " in stopped()
    assert checkpoint.latest_step(out / "checkpoints") is None and not list((out / "checkpoints").glob("*tmp*"))
    assert stopped() == "train: the loss is nan at step 60; the run stands at step 50"
    good = checkpoint.load_step(out / "checkpoints")
    assert good["step"] == 50 and all(np.isfinite(v).all() for v in jax.tree.leaves(good["params"]))
    assert not (out / "results.json").exists()
    monkeypatch.setitem(defence_recipes.RECIPES, "breaks", recipe._replace(act=lambda beta: models.CentredSoftplus,
                                                                    network=defence_recipes.RECIPES["lcnn"].network))
    assert "checkpoints/50 differs: " in stopped()
    assert checkpoint.latest_step(out / "checkpoints") == 50


def test_two_runs_on_one_folder(tmp_path):
    """The second is refused while the first runs; a killed one leaves nothing that blocks --resume."""
    out = tmp_path / "out"
    code = f"import sys, pathlib; from common import runs; runs.open_run(pathlib.Path({str(out)!r}), {{'a': 1}}, " \
        "resume=False); print('held', flush=True); sys.stdin.read()"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=SCRIPT.parent, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(runs.RunError, match=rf"is in use by another run \(process {first.pid}\): wait for it"):
        runs.open_run(out, {"a": 1}, resume=True)
    first.kill()
    first.communicate()
    runs.open_run(out, {"a": 1}, resume=True)
    runs.open_run(out, {"a": 1}, resume=True)  # the same process again
