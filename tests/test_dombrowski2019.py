"""The paper's experiments, quick: interrupted, resumed, and recomputed from the arrays."""

import ast
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from PIL import Image
from skimage.metrics import structural_similarity

from papers import dombrowski2019_smoothing as smoothing
from xmanip_jax import explain

pytestmark = pytest.mark.promotes("ranks", "types")

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
CODE = f"""
import sys
sys.path.insert(0, {str(EXPERIMENTS)!r})
from common import runs
from papers import dombrowski2019
from pathlib import Path
arguments, finished = ["--quick", "--explanations", "gradient", "gradient_x_input", "--out", "out"], runs.finished

def interrupted(out, index, compute, name):
    if "input" in name:
        raise KeyboardInterrupt
    return finished(out, index, compute, name=name)

runs.finished = interrupted
try:
    dombrowski2019.run(arguments)
except SystemExit as stop:
    print("CODE", stop.code, {{p.name: p.stat().st_mtime_ns for p in Path("out/parts").iterdir()}})
runs.finished = finished
dombrowski2019.run([*arguments, "--resume"])
"""
EXPLANATIONS = ["gradient", "gradient_x_input"]
MEASURES = ("own", "target", "before", "fidelity", "other", "repeat")
NETWORK = "small_cnn_cifar10"
SHAPES = {**dict.fromkeys(("x", "x_target", "x_adv"), (4, 32, 32, 3)), "y": (4,), "seconds": (4,),
          **dict.fromkeys(("map_original", "map_target", "map_adv"), (4, 32, 32)),
          **dict.fromkeys(("logits_original", "logits_adv"), (4, 10)),
          **{f"smoothed_{m}": (4, 6) for m in MEASURES}}
DEFENCES = ["relu", "kappa 1", "kappa 5", "beta 0.8", "smoothgrad 0.1", "smoothgrad 0.2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was interrupted after its first explanation, and resumed in the same process, which saves a start.

    It finds no data: (folder, what it printed, when each part was written that the interruption left).
    """
    home = tmp_path_factory.mktemp("paper")
    environment = {k: v for k, v in os.environ.items() if k != "XMANIP_DATA"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=home,
                          env=environment)
    assert done.returncode == 0, done.stderr
    left = next(line for line in done.stdout.splitlines() if line.startswith("CODE 130"))
    return home / "out", done.stdout + done.stderr, ast.literal_eval(left.removeprefix("CODE 130 "))


@pytest.fixture(scope="module")
def stored(finished):
    return json.loads((finished[0] / "results.json").read_text()), dict(np.load(finished[0] / "arrays.npz"))


def correlations(a, b):
    return [np.corrcoef(u.ravel(), v.ravel())[0, 1] for u, v in zip(a, b, strict=True)]


@pytest.mark.slow
def test_finished_parts_are_reused(finished):
    out, printed, written = finished
    assert sorted(written) == [f"{NETWORK}-gradient-{p}0000{i}.npz" for p in ("", "smoothed-") for i in (0, 1)]
    assert all((out / "parts" / name).stat().st_mtime_ns == at for name, at in written.items())
    assert len(list(out.glob("parts/*.npz"))) == 2 * 2 * 2 + 2 * 2
    assert "--resume to go on" in printed and "what smoothing returns to" in printed


@pytest.mark.slow
def test_figures(finished):
    names = {path.stem.removeprefix(f"{NETWORK}-") for path in finished[0].glob("*.png")}
    assert names == {"comparison", "gallery", "smoothing", "smoothed", "defended"}
    for path in finished[0].glob("*.png"):
        with Image.open(path) as image:
            assert image.size[0] > 600


@pytest.mark.slow
def test_arrays_have_the_names_of_the_contract(stored):
    results, arrays = stored
    assert {"config", "versions", "commit", "device", "seconds", "images", "results"} <= results.keys()
    for e in EXPLANATIONS:
        assert {name: arrays[f"{NETWORK}/{e}/{name}"].shape for name in SHAPES} == SHAPES
        np.testing.assert_array_equal(arrays[f"{NETWORK}/{e}/x_target"], np.roll(arrays[f"{NETWORK}/{e}/x"], -1, 0))
    assert arrays[f"{NETWORK}/defended_softplus/x_adv"].shape == (4, 32, 32, 3)
    assert len(results["images"][NETWORK]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("e", [*EXPLANATIONS, "defended_smoothgrad", "defended_softplus"])
def test_the_attack_s_numbers_follow_from_the_arrays(e, stored):
    rows, a = stored[0]["results"][NETWORK]["attack"][e], {k.split("/")[-1]: v for k, v in stored[1].items()
                                                           if k.startswith(f"{NETWORK}/{e}/")}
    by_hand = {
        "map_pearson": correlations(a["map_adv"], a["map_target"]),
        "map_pearson_before": correlations(a["map_original"], a["map_target"]),
        "map_mse": np.mean((a["map_adv"] - a["map_target"]) ** 2, (1, 2)),
        "image_pearson": correlations(a["x_adv"], a["x"]),
        "image_mse": np.mean((a["x_adv"] - a["x"]) ** 2, (1, 2, 3)),
        "image_ssim": [structural_similarity(u, v, data_range=1, channel_axis=-1)
                       for u, v in zip(a["x_adv"], a["x"], strict=True)],
        "seconds": a["seconds"]}
    for name, values in by_hand.items():
        assert rows[name]["value"] == pytest.approx(np.median(values), rel=2e-4), name
        assert min(values) - 1e-4 <= rows[name]["low"] <= rows[name]["value"] <= rows[name]["high"]
    assert rows["prediction_unchanged"]["value"] == 1
    assert rows["map_pearson"]["value"] > rows["map_pearson_before"]["value"]


@pytest.mark.slow
@pytest.mark.parametrize("e", EXPLANATIONS)
def test_what_smoothing_returns_to_follows_from_the_arrays(e, stored):
    rows, a = stored[0]["results"][NETWORK]["smoothing"][e], {k.split("/")[-1]: v for k, v in stored[1].items()
                                                              if k.startswith(f"{NETWORK}/{e}/")}
    assert list(rows) == DEFENCES
    for i, label in enumerate(DEFENCES):
        for measure in MEASURES:
            assert rows[label][measure]["value"] == pytest.approx(np.median(a[f"smoothed_{measure}"][:, i]))
    smoothed = a["smoothed_original"][0], a["smoothed_adv"][0]
    np.testing.assert_allclose(a["smoothed_own"][0], correlations(*smoothed), atol=1e-4)
    np.testing.assert_allclose(a["smoothed_target"][0], correlations(smoothed[1], [a["map_target"][0]] * 6), atol=1e-4)
    others = correlations(a["map_original"], a["map_original"][[1, 0, 3, 2]])  # batches of two
    np.testing.assert_allclose(a["smoothed_other"][:, 0], others, atol=1e-4)
    np.testing.assert_allclose(a["smoothed_repeat"][:, :4], 1, atol=1e-5)
    assert (a["smoothed_repeat"][:, 4:] < 0.999).all()
    np.testing.assert_allclose(a["smoothed_own"][:, 0], correlations(a["map_adv"], a["map_original"]), atol=1e-4)
    np.testing.assert_allclose(a["smoothed_target"][:, 0], correlations(a["map_adv"], a["map_target"]), atol=1e-4)


def pooled(w, x):
    h = lax.reduce_window(jax.nn.relu(x @ w[0]), -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    return jax.nn.relu(h @ w[1]).sum((0, 1))


@pytest.fixture(scope="module")
def small():
    """A network with a pooling, two images, and its explanation of class 1."""
    random = np.random.default_rng(0)
    w = [jnp.float32(random.normal(size=shape)) for shape in ((3, 8), (8, 4))]
    network = SimpleNamespace(model=jax.tree_util.Partial(pooled, w), preprocess=lambda p: 2 * p - 1,
                              input_shape=(6, 6, 3))
    return network, jnp.float32(random.uniform(size=(2, 6, 6, 3))), jnp.array([1, 1])


def test_no_smoothing_is_the_network_itself(small):
    network, x, y = small
    maps = smoothing.smoothed_maps(network, explain.gradient(), samples=2)
    plain = lambda p: explain.heatmap(explain.gradient()(network.model, network.preprocess(p), 1))
    wanted = jax.jit(jax.vmap(plain))(x)
    for d in (smoothing.Defence("sharp", kappa=1e7, max_pool=True), smoothing.Defence("quiet", sigma=1e-7)):
        np.testing.assert_allclose(maps(d, x, x, y, jax.random.key(0)), wanted, atol=1e-6)
    assert smoothing.pools(network) and [d.max_pool for d in smoothing.defences((1, 2), True)].count(True) == 2


def test_the_attacked_map_is_the_defence_s(small):
    network, x, y = small
    maps = smoothing.smoothed_maps(network, explain.gradient())
    e = explain.with_logits(explain.beta_smoothing(explain.gradient(), kappa=2.0, max_pool=True))
    found, logits = jax.jit(jax.vmap(partial(e, network.model)))(network.preprocess(x), y)
    soft = maps(smoothing.Defence("soft", kappa=2.0, max_pool=True), x, x, y, jax.random.key(0))
    np.testing.assert_allclose(jax.vmap(explain.heatmap)(found), soft, atol=1e-6)
    np.testing.assert_allclose(logits, jax.jit(jax.vmap(network.model))(network.preprocess(x)), rtol=1e-5)
    hard = maps(smoothing.Defence("hard", kappa=2.0), x, x, y, jax.random.key(0))
    assert not np.allclose(soft, hard, atol=1e-4)
