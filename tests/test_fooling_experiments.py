"""experiments/heo2019.py, fairwashing.py, backdoor.py, quick: what they leave behind, what they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import (
    batches,
    fine_tuning,
    fooling_scores,
    inputs,
)
from papers import (
    backdoor,
    fairwashing,
    heo2019,
    heo2019_network,
)
from xmanip_jax import models

pytestmark = pytest.mark.promotes("ranks", "types")

FOLDER = Path(__file__).parent.parent / "experiments"


def run_quick(name, out, *arguments):
    done = subprocess.run([sys.executable, FOLDER / "reproduce.py", name, "--quick", "--out", out, *arguments],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())["results"]


@pytest.mark.slow
def test_heo2019(tmp_path):
    found = run_quick("heo2019", tmp_path / "a")
    assert set(found) == {"grad_cam/location", "grad_cam/active"}
    row = found["grad_cam/location"]
    assert set(row["explanations"]) == set(fine_tuning.explanations("")) and row["test_images"] == 8
    curve = list(row["explanations"]["lrp"]["curve"].values())
    assert curve == sorted(curve) and 0 <= row["accuracy"] <= 1 and row["moved"]["weights_relative_change"] > 0
    assert found["grad_cam/active"]["perfect_swap"]["count"] == 6 and row["perfect_swap"] is None
    assert {"figure.png", "active.png", "arrays.npz"} <= {path.name for path in (tmp_path / "a").iterdir()}
    assert run_quick("heo2019", tmp_path / "a", "--resume") == found


@pytest.mark.slow
def test_fairwashing(tmp_path):
    assert "projected_pearson_with_original" in run_quick("fairwashing", tmp_path / "a")["measures"]


@pytest.mark.slow
def test_backdoor(tmp_path):
    found = run_quick("backdoor", tmp_path / "a")["herring-mse"]
    assert found["before"]["dssim_clean_to_original"] == 0 and found["test_images"] == 8


def test_an_augmented_image_is_a_shift_of_the_image_or_its_mirror():
    images = np.random.default_rng(0).uniform(1, 2, size=(20, 8, 8, 3)).astype(np.float32)
    found, labels = heo2019_network.augmented(images, np.arange(20), 2, 0)
    np.testing.assert_array_equal(labels, [*range(20)] * 2)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    views = {(row, column, step): padded[:, row:row + 8, column:column + 8][:, :, ::step]
             for row in range(3) for column in range(3) for step in (1, -1)}
    which = [[at for at, v in views.items() if np.array_equal(v[i % 20], found[i])] for i in range(40)]
    assert all(len(at) == 1 for at in which) and len({at[0] for at in which}) > 10
    np.testing.assert_array_equal(found, heo2019_network.augmented(images, labels[:20], 2, 0)[0])


def test_maps_at_the_input_are_fooled_by_the_whole_network():
    config = heo2019.Config(quick=True, explanations=("lrp_input",), kinds=("location",))
    network = models.load("cifar10_resnet20", inputs.random_weights("cifar10_resnet20", 0))
    subject = heo2019_network.prepare(config, network, heo2019_network.read(config, network))
    assert subject.part is network and subject.place.parts == () and subject.train[0].shape[1:] == (32, 32, 3)


def test_a_map_without_positive_relevance_is_seen_by_the_loss_and_no_success():
    map = -jnp.array([[1.0, 2.0], [3.0, 4.0]])
    assert heo2019_network.soft(map, channels=None).argmax() == 0
    assert jnp.abs(jax.grad(lambda map: heo2019_network.soft(map, channels=None)[0, 1])(map)[0, 1]) > 0.1
    values = fooling_scores.fooling("center_mass", np.zeros((1, 2, 2)), -np.asarray(map)[None])["value"]
    found = fooling_scores.rates("center_mass", values)
    assert found["vanished"] == 1 and found["success_rate"] == 0


def test_outputs_are_kept_by_their_divergence():
    """KL(softmax(1, 0, 0) || uniform) by hand, and none from the original itself."""
    p = np.exp([1.0, 0, 0]) / np.exp([1.0, 0, 0]).sum()
    ((_, penalty),) = heo2019_network.kept(1.0, lambda x: x)
    for scale, known in ((1.0, 0.0), (0.0, np.sum(p * np.log(3 * p)))):
        value = penalty(lambda params, state, x: params * x, scale, {}, np.array([1.0, 0, 0], np.float32), 0)
        assert value == pytest.approx(known, abs=1e-6)


def test_what_lies_above_a_layer_is_the_network():
    network = models.load("cifar10_resnet20", inputs.random_weights("cifar10_resnet20", 0))
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    part, values = fine_tuning.above(network, "stage2")
    a = values(images)
    above, whole = batches.logits(part, a), batches.logits(network, images)
    np.testing.assert_allclose(above, whole, rtol=1e-3, atol=1e-3 * np.abs(above).max())


def test_rates_and_auc():
    row = fooling_scores.rates("location", np.array([0.1, 0.15, 0.3, np.nan]))
    assert row["success_rate"] == 0.5 and row["vanished"] == 0.25 and row["curve"]["0.3"] == 0.75
    assert fooling_scores.rates("active", np.array([0.4, 0.6]))["curve"]["0.5"] == 0.5
    assert fooling_scores.auc(np.array([2.0, 3.0]), np.array([1.0])) == 1
    assert fooling_scores.auc(np.array([1.0]), np.array([1.0])) == 0.5
    logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.2]]))
    assert fine_tuning.calibration_error(logits, np.array([0, 1, 1, 0])) == pytest.approx(0.05)


@pytest.mark.parametrize(("run", "match", "arguments"), [
    (heo2019.run, "unknown network 'magic'", ["--network", "magic"]),
    (heo2019.run, "invalid choice 'magic'.*'location', 'top_k'", ["--kinds", "magic"]),
    (heo2019.run, "unknown explanation 'magic'; known: grad_cam", ["--explanations", "magic"]),
    (heo2019.run, "--steps must be positive, got 0", ["--steps", "0"]),
    (backdoor.run, "invalid choice 'magic'.*'single', 'herring'", ["--goals", "magic"]),
    (heo2019.run, "weights of a training loss are not negative, got -1", ["--keep", "-1"]),
    (backdoor.run, "weights of a training loss are not negative, got -1", ["--keep", "-1"]),
    (backdoor.run, "weight is in \\[0, 1\\], got 2", ["--weight", "2"]),
    (backdoor.run, "--learning-rate must be positive, got -1", ["--learning-rate", "-1"]),
    (fairwashing.run, "invalid choice 'all'.*'logits', 'probabilities'", ["--keep", "all"]),
    (fairwashing.run, "--count must be positive, got 0", ["--count", "0"])])
def test_what_is_refused(run, match, arguments, tmp_path):
    with pytest.raises(SystemExit, match=match):
        run([*arguments, "--out", str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()
