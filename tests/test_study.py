"""Studies over many trainings: what is trained from what, what is read back, and how defences are compared."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common import files, report, robustness, study, training, training_data
from papers import defences, dombrowski2022
from xmanip_jax import attack, objectives

pytestmark = pytest.mark.promotes("ranks", "types")


def images(value):
    """Two of one value, to train on and to judge by."""
    return training_data.Split(*(np.full((2, 4, 4, 1), value), np.zeros(2, int)) * 2)


@pytest.fixture
def trained(monkeypatch):
    """Trainings that take no time: what was asked for, in order."""
    asked = []

    def instead(config, out, settings, console):
        asked.append(config)
        change = {"plain": 0.8, "hessian": 0.2}.get(config.defence, 0.4)
        values = {"accuracy": np.ones(8)} | {f"{m}@{e:g}": np.full(4, change + config.seed / 10)
                                             for m in ("adversarial_accuracy", "map_change") for e in config.epsilons}
        (out / "weights.safetensors").write_bytes(b"")
        files.write_arrays(out / "arrays.npz", values)
        files.write_json(out / "results.json", {})
        return {}

    monkeypatch.setattr(training, "train_and_judge", instead)
    monkeypatch.setattr(training_data, "read", lambda config: images(0.0))
    return asked


def test_defences_go_on_from_the_plain_network_of_their_seed(trained, tmp_path, monkeypatch):
    arguments = ["--names", "plain", "hessian", "--seeds", "2", "--out", str(tmp_path / "out")]
    defences.run(arguments)
    assert [(c.defence, c.seed) for c in trained] == [(d, s) for s in (0, 1) for d in ("plain", "plain", "hessian")]
    assert [c.start and c.start.parent.name for c in trained] == [None, "base-0", "base-0", None, "base-1", "base-1"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    found = results["hessian"]["map_change@0.05"]
    assert found["value"] == pytest.approx(0.25) and found["seeds"] == pytest.approx([0.2, 0.3])
    assert found["reduction"]["value"] == pytest.approx(1 - 0.25 / 0.85)
    assert results["plain"]["map_change@0.05"]["reduction"]["value"] == 0
    assert "| hessian | 1.000 (1.000 to 1.000) | 0.25 (0.25 to 0.25) |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    defences.run([*arguments, "--resume"])
    assert len(trained) == 6  # all read back
    monkeypatch.setattr(training_data, "read", lambda config: images(1.0))
    with pytest.raises(SystemExit, match=r"other inputs \(other contents of the training images\): restore them"):
        defences.run([*arguments, "--resume"])


def test_the_three_defences_of_dombrowski2022(trained, tmp_path):
    dombrowski2022.run(["--decays", "0.1", "--betas", "5", "1", "--weights", "0.01", "--out", str(tmp_path / "out")])
    assert [(c.defence, c.weight, c.beta) for c in trained[2:]] == [
        ("weight_decay", 0.1, 5), ("softplus", None, 5), ("softplus", None, 1), ("hessian", 0.01, 5)]


def test_a_reduction_draws_the_same_images_for_both():
    random = np.random.default_rng(0)
    plain = random.uniform(size=(1, 100))
    rows = study.summary({"plain": {"map_change@1": plain}, "half": {"map_change@1": plain / 2}}, 0)
    assert rows["half"]["map_change@1"]["reduction"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})


def test_images_are_judged_in_batches(monkeypatch):
    """A value for each, in order; the bar is told of all; flags see the whole."""
    images, labels, told, seen = np.linspace(0, 1, 5, dtype=np.float32)[:, None], np.array([0, 0, 1, 1, 1]), [], []

    def search(e, *, epsilon, **options):
        def run(model, x, *, labels, key):
            value = x[:, 0] + epsilon
            return attack.Changed(x, x, model(x), objectives.View(x, x, x), value, np.stack([value, 2 * value]),
                                  *[value] * 3, evaluations=7)
        return run

    monkeypatch.setattr(attack, "largest_change", search)
    monkeypatch.setattr(attack, "random_search", search)
    by_name = {"a": attack.Flag(False, 0.0, 0.1), "not looked for": attack.Flag(False, np.nan, 0.1)}
    monkeypatch.setattr(attack, "flags", lambda *of: seen.extend(of) or SimpleNamespace(_asdict=lambda: by_name))
    model = Partial(lambda x: jnp.concatenate([0.6 - x, x - 0.6], -1))
    values, flags = robustness.judged(model, images, labels, epsilons=(0.1, 0.2), count=3, restarts=2, seed=0, batch=2,
                                      advance=told.append)
    assert told == [2, 1, 2, 1] and flags == {"a": by_name["a"]}
    np.testing.assert_array_equal(values["accuracy"], [1, 1, 0, 1, 1])
    np.testing.assert_allclose(values["map_change@0.2"], [0.2, 0.45, 0.7], rtol=1e-6)
    assert [np.shape(of.by_restart) for of in seen] == [(2, 3)] * 2
    np.testing.assert_allclose(seen[0].by_restart[1], 2 * values["map_change@0.2"])


def test_a_step_climbs_the_cross_entropy_and_stays_in_the_ball():
    x = np.full((1, 2), 0.5, np.float32)
    for step, moved in ((0.01, 0.01), (0.2, 0.1)):
        z = robustness.climbed(Partial(lambda x: 3 * x), x, np.array([0]), x, 0.1, step)
        np.testing.assert_allclose(z, [[0.5 - moved, 0.5 + moved]], rtol=1e-6)


def test_a_table_in_markdown():
    row = {"value": 0.5, "low": 0.25, "high": 1.0}
    assert report.markdown(["a", "b"], [["1", report.interval(row, 2)]]) == (
        "| a | b |\n|---|---|\n| 1 | 0.50 (0.25 to 1.00) |\n")


def test_what_is_refused(tmp_path):
    for match, arguments in (("unknown defence 'magic'; known: plain,", ["--names", "plain", "magic"]),
                             ("the others are compared with plain", ["--names", "hessian"]),
                             ("--seeds is at least 1, got 0", ["--seeds", "0"])):
        with pytest.raises(SystemExit, match=match):
            defences.run([*arguments, "--out", str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()
