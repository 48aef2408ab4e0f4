"""A run that goes on must read what it began with: else its results would carry the wrong files' names."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import manipulate
import train
from common import batches, inputs, runs
from papers import defences, sneaking
from xmanip_jax import data, models

pytestmark = pytest.mark.promotes("ranks", "types")

RANDOM = np.random.default_rng(0)
A, B, C = RANDOM.normal(size=(3, 2, 2)).astype(np.float32)
READ = {"a.png": A, "b.png": B, "c.png": C}
CHANGED = {
    "renamed": ({"a.png": A, "b2.png": B, "c.png": C}, "b2.png in the place of b.png"),
    "removed": ({"a.png": A, "c.png": C}, "c.png in the place of b.png"),
    "removed at the end": ({"a.png": A, "b.png": B}, "nothing in the place of c.png"),
    "added": ({**READ, "d.png": A}, "d.png in the place of nothing"),
    "added between": ({"a.png": A, "a1.png": A, "b.png": B, "c.png": C}, "a1.png in the place of b.png"),
    "another image": ({**READ, "b.png": np.nextafter(B, 1)}, "other contents of b.png"),
    "another shape": ({**READ, "a.png": A.ravel()}, "other contents of a.png"),
    "another type": ({**READ, "a.png": A.view(np.int32)}, "other contents of a.png"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_first_input_that_differs_is_named(name, tmp_path):
    runs.same_inputs(tmp_path, READ)
    runs.same_inputs(tmp_path, dict(READ))
    read, differs = CHANGED[name]
    with pytest.raises(runs.RunError, match=rf"cannot go on with other inputs \({re.escape(differs)}\): restore them"):
        runs.same_inputs(tmp_path, read)
    runs.same_inputs(tmp_path, read, "of another network")


@dataclasses.dataclass(frozen=True)
class Config:
    weights: Path
    patterns: Path
    out: Path
    resume: bool = False


def test_files_that_options_name(tmp_path):
    """Weights, and a folder of patterns."""
    weights, patterns = tmp_path / "w.safetensors", tmp_path / "patterns"
    patterns.mkdir()
    for file in (weights, patterns / "net.safetensors"):
        file.write_bytes(b"1234")
    config = Config(weights, patterns, tmp_path / "out")
    runs.begin("x", config)
    runs.finished(config.out, 0, lambda: {"a": A})  # what nothing was computed from may change
    runs.begin("x", dataclasses.replace(config, resume=True))
    (patterns / "net.safetensors").write_bytes(b"123")
    with pytest.raises(runs.RunError, match=r"other contents of .*patterns/net\.safetensors"):
        runs.begin("x", dataclasses.replace(config, resume=True))


@dataclasses.dataclass(frozen=True)
class Asked(runs.SeededRun):
    steps: int = 1


def test_settings_that_came_later(tmp_path, monkeypatch):
    """A folder from before a setting existed goes on as it ran; what changes no result may differ."""
    config = Asked(out=tmp_path / "out")
    runs.begin("x", config)
    runs.finished(config.out, 0, lambda: {"a": A})
    later = dataclasses.make_dataclass("Later", [("how", int, 4), ("what", str, "new")], bases=(Asked,), frozen=True)
    monkeypatch.setattr(runs, "_HOW", (*runs._HOW, "how"))
    monkeypatch.setattr(runs, "_LATER", {"what": "old"})
    runs.begin("x", later(out=config.out, resume=True, how=8, what="old"))
    with pytest.raises(runs.RunError, match=r"other settings \(what differ\)"):
        runs.begin("x", later(out=config.out, resume=True))


def test_settings_that_had_another_name(tmp_path):
    settings = {"learning_rate": 1, "explanations": ["gradient", "lrp"]}
    runs.open_run(tmp_path, settings, resume=False)
    runs.finished(tmp_path, 0, lambda: {"a": A})
    old = {"rate": 1, "explanations": ["gradient", "lrp_dombrowski2019"]}
    (tmp_path / "config.json").write_text(json.dumps(old))
    runs.open_run(tmp_path, settings, resume=True)


@pytest.mark.parametrize("door", [manipulate, train, sneaking, defences])
def test_the_options_of_every_run_are_listed_last(door, capsys):
    with pytest.raises(SystemExit):
        door.run(["--help"])
    listed = re.findall(r"^\W*--([a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    shared = [f.name for f in dataclasses.fields(door.Config) if f in dataclasses.fields(runs.Computed)]
    assert sorted(listed[-len(shared):]) == sorted(shared) and len(shared) >= 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three photographs, weights, and attacks that take no time."""
    for name in READ:
        pixels = RANDOM.integers(0, 255, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    models.save_weights(models.SmallCNN(channels=3, rngs=nnx.Rngs(0)), tmp_path / "weights.safetensors")

    def instead(pair, network, images, targets, *, batch, keep, **options):
        compute = lambda part, index: {
            "x": images[part], "x_target": targets[part], "x_adv": images[part],
            **{m: images[part].mean(-1) for m in ("map_original", "map_target", "map_adv")},
            **{m: np.eye(10)[:len(images[part])] for m in ("logits_original", "logits_adv")}}
        return batches.in_batches(compute, len(images), batch, keep)

    monkeypatch.setattr(batches, "attack_batches", instead)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_manipulate_after_its_folder_changed(folder):
    arguments = ["--network", "small_cnn_cifar10", "--weights", "weights.safetensors", "--images", ".", "--batch", "2",
                 "--out", "out"]
    manipulate.run(arguments)
    manipulate.run([*arguments, "--resume"])
    before = (folder / "out" / "results.json").read_text()
    shutil.copy(folder / "a.png", folder / "a1.png")
    with pytest.raises(SystemExit, match=r"out cannot go on with other inputs \(a1\.png in the place of b\.png\)"):
        manipulate.run([*arguments, "--resume"])
    (folder / "a1.png").unlink()
    Image.open(folder / "b.png").rotate(90).save(folder / "b.png")
    with pytest.raises(SystemExit, match=r"other contents of b\.png"):
        manipulate.run([*arguments, "--resume"])
    assert (folder / "out" / "results.json").read_text() == before
    assert json.loads(before)["images"] == ["a.png", "b.png", "c.png"]


def test_manipulate_after_its_target_or_weights_changed(folder):
    arguments = ["--network", "small_cnn_cifar10", "--weights", "weights.safetensors", "--image", "a.png",
                 "--target-image", "b.png", "--out", "out"]
    manipulate.run(arguments)
    kept = (folder / "b.png").read_bytes()
    Image.open(folder / "b.png").rotate(90).save(folder / "b.png")
    with pytest.raises(SystemExit, match="other contents of what goes with the images"):
        manipulate.run([*arguments, "--resume"])
    (folder / "b.png").write_bytes(kept)
    models.save_weights(models.SmallCNN(channels=3, rngs=nnx.Rngs(1)), folder / "weights.safetensors")
    with pytest.raises(SystemExit, match=r"other contents of weights\.safetensors"):
        manipulate.run([*arguments, "--resume"])


def test_a_network_of_the_data_folder_that_changed(tmp_path, monkeypatch):
    """Finished parts of a network belong to its weights, wherever they come from."""
    network = lambda seed: models.load("small_cnn_cifar10", inputs.random_weights("small_cnn_cifar10", seed))
    images = np.zeros((3, 32, 32, 3), np.float32)
    monkeypatch.setattr(data, "load_dataset", lambda *arguments, **options: (images, None))
    monkeypatch.setattr(sneaking, "attacked", lambda config, network, distance, images: {
        **{m: np.ones((1, 3)) for m in ("success", "epsilon", "gamma", "distance", "kendall", "pearson")},
        "slope": np.ones(3)})
    arguments = ["--networks", "one", "--multiples", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(inputs, "network", lambda name, **options: network(0))
    sneaking.run(arguments)
    sneaking.run([*arguments, "--resume"])
    monkeypatch.setattr(inputs, "network", lambda name, **options: network(1))
    with pytest.raises(SystemExit, match="other contents of the weights of one"):
        sneaking.run([*arguments, "--resume"])
