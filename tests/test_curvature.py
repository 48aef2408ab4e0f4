"""experiments/curvature.py, quick: its numbers against direct ones, resumed, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import curvature_measures
from tiny_networks import PHOTOS, network
from xmanip_jax import explain

SCRIPT = Path(__file__).parent.parent / "experiments" / "curvature.py"


def command(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.slow
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
    assert (read("spectral_norm") <= read("hessian_bound")).all() and (read("cross_entropy_bound") > 0).all()
    np.testing.assert_allclose(read("normalised_curvature"), read("spectral_norm") / (read("gradient_norm") + 1e-6))
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


EPSILONS = 0.3, 0.02, 0.6, 0.1  # in no order
MODEL = network(jax.nn.relu)


@pytest.fixture(scope="module")
def attacked():
    """{epsilon: Found} of a relu network that the largest balls' random points lose."""
    s = curvature_measures.Settings(k=4, attack=10)
    run = curvature_measures.measures(lambda pixels: pixels, s, {})
    y = np.asarray(jax.vmap(MODEL)(PHOTOS)).argmax(1)
    return dict(curvature_measures.attacked(run.searches[False], MODEL, PHOTOS, y, jax.random.key(0), EPSILONS, 4))


def test_no_attacked_value_falls_with_epsilon(attacked):
    for small, large in zip(sorted(EPSILONS), sorted(EPSILONS)[1:], strict=False):
        assert (attacked[large].change >= attacked[small].change).all()
        assert (attacked[large].top <= attacked[small].top).all()
    assert list(attacked) == sorted(EPSILONS) and attacked[0.6].change.mean() > attacked[0.02].change.mean() + 0.1


def test_what_is_attacked_is_the_networks_own_and_in_the_ball(attacked):
    heat = jax.vmap(lambda p, y: explain.heatmap(explain.gradient()(MODEL, p, y)))
    y = np.asarray(jax.vmap(MODEL)(PHOTOS)).argmax(1)
    for eps, found in attacked.items():
        np.testing.assert_array_equal(np.asarray(jax.vmap(MODEL)(found.pixels)).argmax(1), y)
        assert np.abs(found.pixels - PHOTOS).max() <= eps + 1e-6
        apart = np.abs(heat(found.pixels, y) - heat(PHOTOS, y)).sum((1, 2))
        np.testing.assert_allclose(found.change, apart, atol=1e-5)
    assert (found.top < 4).any()


def test_the_second_distance_is_the_mass_that_the_top_loses():
    lost = curvature_measures.distances(2)["top"]
    clean = jnp.array([[0.1, 0.4], [0.2, 0.3]])
    assert float(lost(jnp.array([[0.3, 0.1], [0.4, 0.2]]), clean)) == pytest.approx(0.4)
    assert float(lost(jnp.array([[0.0, 0.5], [0.0, 0.5]]), clean)) == 0


def test_what_is_refused(tmp_path):
    for match, arguments in (("unknown network 'vgg'", ["--networks", "vgg", "--out", tmp_path / "no"]),
                             ("--certified is at most --count 2", ["--count", 2, "--networks", "small_cnn"])):
        failed = command(*arguments)
        assert failed.returncode == 1 and match in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr
    assert not (tmp_path / "no").exists()
