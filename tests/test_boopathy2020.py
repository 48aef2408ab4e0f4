"""The evaluation of the authors' networks: quick on random ones, and their known figures where the data are."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from papers import boopathy2020
from xmanip_jax import attack, data, explain, models

pytestmark = pytest.mark.promotes("ranks", "types")

REPRODUCE = Path(__file__).parent.parent / "experiments" / "reproduce.py"

# Clean accuracy of the whole split; accuracy at epsilon 0.3 and 0.4 of its first 500 images, measured independently.
KNOWN = {"normal": (0.9841, 0.0, 0.0), "adv": (0.9660, 0.864, 0.0), "int": (0.9331, 0.784, 0.154),
         "intadv": (0.9288, 0.816, 0.302), "int2adv": (0.9254, 0.828, 0.602)}


def weights(name):
    file = data.data_dir() and data.data_dir() / "networks" / "boopathy2020" / f"mnist_smallgap_{name}.safetensors"
    if not file or not file.is_file():
        pytest.skip("networks/boopathy2020 are not in the data folder")
    return models.load("small_cnn", file).model


def test_quick(tmp_path):
    done = subprocess.run([sys.executable, REPRODUCE, "boopathy2020", "--quick", "--out", tmp_path / "out"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out" / "results.json").read_text())["results"]["random"]
    assert row["ata@0.1"]["count"] == 4 and -1 <= row["aai@0.1"]["value"] <= 1


@pytest.mark.slow
def test_clean_accuracy():
    model = weights("int")
    images, labels = data.load_dataset("mnist", "test")
    found = np.concatenate([boopathy2020.predicted(model, images[i:i + 1000]) for i in range(0, 10000, 1000)])
    assert np.mean(found == labels) == pytest.approx(KNOWN["int"][0], abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_adversarial_accuracy(name):
    model = weights(name)
    images, labels = data.load_dataset("mnist", "test", limit=500)
    for epsilon, known in zip((0.3, 0.4), KNOWN[name][1:], strict=True):
        z = images
        for _ in range(100):
            z = boopathy2020.ata_step(model, images, z, labels, epsilon)
        assert np.mean(np.asarray(boopathy2020.predicted(model, z)) == labels) == pytest.approx(known, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["normal", "adv", "trades", "int", "intone", "intadv", "int2", "int2adv", "ig", "igsum"])
def test_honest_networks_are_not_flagged(name):
    model, e = weights(name), explain.gradient()
    images, _ = data.load_dataset("mnist", "test", limit=50)
    searches = attack.largest_change(e, epsilon=0.1, steps=25), attack.random_search(e, epsilon=0.1, steps=150)
    found, blind = (search(model, images, key=jax.random.key(0)) for search in searches)
    assert not [flag for flag in attack.flags(found, blind)._asdict().items() if flag[1].raised]
    assert found.change.mean() > 0.1
