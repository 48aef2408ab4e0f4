"""The main job from its command line: its files, its errors, and what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from xmanip_jax import models

SCRIPT = Path(__file__).parent.parent / "experiments" / "manipulate.py"
OPTIONS = ["--network", "small_cnn_cifar10", "--weights", "weights.safetensors", "--images", ".", "--batch", "2",
           "--steps", "200"]


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def run(*arguments, cwd):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three small photographs, and a small network with random weights beside them."""
    path = tmp_path_factory.mktemp("photos")
    models.save_weights(models.SmallCNN(channels=3, rngs=nnx.Rngs(0)), path / "weights.safetensors")
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = rng.integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BILINEAR).save(path / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """An uninterrupted run over a folder, in two batches."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = run(*OPTIONS, "--out", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_run_folder_and_summary(finished):
    out, printed = finished
    results = json.loads((out / "results.json").read_text())
    arrays = np.load(out / "arrays.npz")
    assert results["images"] == ["0.png", "1.png", "2.png"]
    assert {"config", "versions", "commit", "device", "metrics", "seconds"} <= results.keys()
    assert results["config"]["seed"] == 0 and results["config"]["epsilon"] == 2 / 255  # where nothing is asked
    assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 2 / 255 + 1e-7
    assert results["predictions"]["original"] == [f"class {label}" for label in arrays["y"]]  # own weights: no names
    assert results["metrics"]["prediction_unchanged"]["value"] == 1
    assert (out / "figure.png").stat().st_size > 10_000 and "map_pearson" in printed and str(out) in printed
    assert (out / "report.html").read_text().count("<img") == 6
    assert arrays["x"].shape == arrays["x_adv"].shape == (3, 32, 32, 3) and arrays["map_adv"].shape == (3, 32, 32)
    np.testing.assert_array_equal(arrays["x_target"], np.roll(arrays["x"], -1, axis=0))
    np.testing.assert_allclose(arrays["map_target"], np.roll(arrays["map_original"], -1, axis=0), atol=1e-5)
    by_hand = [np.corrcoef(a.ravel(), b.ravel())[0, 1]
               for a, b in zip(arrays["map_adv"], arrays["map_target"], strict=True)]
    np.testing.assert_allclose(results["per_image"]["map_pearson"], by_hand, atol=1e-4)


def test_killed_and_resumed_equals_uninterrupted(finished, folder, tmp_path):
    whole, out = finished[0], tmp_path / "out"
    options = [*OPTIONS, "--out", out]
    process = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    while not list(out.glob("parts/*.npz")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((out / "config.json").read_text()) and not (out / "results.json").exists()
    for part in out.glob("parts/*.npz"):
        np.load(part)["x_adv"]  # what is there is whole
    again = run(*options, cwd=folder)
    assert again.returncode and "--resume" in again.stderr
    resumed = run(*options, "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    a, b = np.load(whole / "arrays.npz"), np.load(out / "arrays.npz")
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    strip = lambda p: json.loads((p / "results.json").read_text())["per_image"]
    assert strip(whole) == strip(out)
    other = run(*options, "--resume", "--seed", 1, cwd=folder)
    assert other.returncode and "seed" in other.stderr


BAD = {
    "missing image": (["--image", "none.png"], "none.png: no such file"),
    "unreadable image": (["--image", "text.png"], "text.png: not an image"),
    "unknown photograph": (["--image", "dog"], "no photograph 'dog'"),
    "unknown explanation": (["--explanation", "lime"], "unknown explanation 'lime'; known: gradient,"),
    "unknown network": (["--network", "resnet1000"], "unknown network 'resnet1000'; known: squeezenet1_1,"),
    "steps": (["--steps", "0"], "--steps must be positive, got 0"),
    "learning rate": (["--learning-rate", "-1"], "--learning-rate must be positive, got -1.0"),
    "epsilon": (["--constraint", "linf", "--epsilon", "-0.1"], "--epsilon must be positive, got -0.1"),
    "no epsilon": (["--constraint", "l2"], "--constraint l2 takes an --epsilon"),
    "idle epsilon": (["--constraint", "box", "--epsilon", "1"], "--constraint box takes no --epsilon"),
    "resume what": (["--resume"], "--resume needs the run folder"),
    "empty folder": (["--images", "empty"], "empty: no image"),
    "one image": (["--images", "one"], "needs another one"),
    "channels": (["--network", "small_cnn", "--weights", "weights.safetensors"], "takes 1 channels, the images have 3"),
    "foreign weights": (["--weights", "foreign.safetensors"], "missing _conv_stem.weight"),
    "truncated weights": (["--weights", "truncated.safetensors"], "damaged or truncated"),
    "pickle with code": (["--weights", "code.pth"], "code.pth: refused"),
    "unwritable": (["--out", "text.png/run"], "cannot be written"),
    "no memory": (["--memory", "0"], "memory is a positive number of bytes, or a text such as \"2GiB\""),
    "memory in slang": (["--memory", "2 gigs"], "got '2 gigs'"),
    "memory of others": (["--memory", "4000TiB"], "memory of 4000.0 TiB is more than is free: at most "),
    "precision": (["--precision", "fp8"], "fp8"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("bad")
    (path / "text.png").write_text("not a picture")
    (path / "empty").mkdir()
    (path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(path / "one" / "a.png")
    models.save_weights(models.SmallCNN(rngs=nnx.Rngs(0)), path / "weights.safetensors")
    save_file({"conv.weight": np.zeros((2, 2), np.float32)}, path / "foreign.safetensors")
    (path / "truncated.safetensors").write_bytes((path / "weights.safetensors").read_bytes()[:500])
    (path / "code.pth").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    return path


@pytest.fixture(scope="module")
def bad_runs(bad_files):
    """All commands in one interpreter: starting JAX for each would take minutes."""
    code = f"""
import sys, json, contextlib, io
sys.path.insert(0, {str(SCRIPT.parent)!r})
import tyro, manipulate
answers = {{}}
for name, arguments in json.loads(sys.argv[1]).items():
    try:
        manipulate.run(arguments)
    except SystemExit as stop:
        answers[name] = str(stop.code)
print("ANSWERS" + json.dumps(answers))
"""
    asked = json.dumps({name: arguments for name, (arguments, _) in BAD.items()})
    python = [sys.executable, "-c", code, asked]
    done = subprocess.run(python, capture_output=True, text=True, cwd=bad_files, check=False)
    assert "ANSWERS" in done.stdout, done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, bad_runs):
    assert BAD[name][1] in bad_runs[name] and "\n" not in bad_runs[name].strip()


def test_the_process_fails_with_one_line(tmp_path):
    done = run("--image", "none.png", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip() == "manipulate: none.png: no such file"
    assert not os.listdir(tmp_path)
