"""experiments/curvature.py, quick: its numbers against direct ones, resumed, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature
from common import curvature_measures
from tiny_networks import PHOTOS, network
from xmanip_jax.attack.change import margin

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


EPSILONS = 0.3, 0.02, 0.6, 0.1  # in no order


@pytest.fixture(scope="module")
def attacked():
    """{epsilon: (change, top)} of a relu network that the largest balls' random points lose, climbed on a softplus."""
    s = curvature_measures.Settings(k=4, attack=10)
    run = curvature_measures.measures(lambda pixels: pixels, s, {})
    config = SimpleNamespace(seed=0, epsilons=EPSILONS, batch=4)
    net = SimpleNamespace(model=network(jax.nn.relu))
    arrays = curvature.measured(config, net, PHOTOS, None, jnp.full(2, 3.0), run, s.attack, lambda i, compute: {
        name: np.asarray(v) for name, v in compute().items()})
    return {e: (arrays[f"attacked_change@{e:g}"], arrays[f"attacked_top@{e:g}"]) for e in EPSILONS}


def test_no_attacked_value_falls_with_epsilon(attacked):
    for small, large in zip(sorted(EPSILONS), sorted(EPSILONS)[1:], strict=False):
        assert (attacked[large][0] >= attacked[small][0]).all() and (attacked[large][1] <= attacked[small][1]).all()
    assert attacked[0.6][0].mean() > attacked[0.02][0].mean() + 0.1


def test_a_climb_comes_back_once_the_prediction_is_lost():
    model, s = network(jax.nn.relu), curvature_measures.Settings(k=4, attack=10)
    soft = curvature_measures.model_of(model, jnp.full(2, 3.0))
    y = model(PHOTOS[0]).argmax()
    far = np.random.default_rng(0).uniform(size=(200, *PHOTOS[0].shape)).astype(np.float32)
    lost = far[np.asarray(jax.vmap(model)(far)).argmax(1) != y][:20]
    step = jax.jit(jax.vmap(lambda now: curvature_measures.climb(model, soft, lambda p: p, PHOTOS[0], y, 1.0, now, s,
                                                    objective="change")))
    begin = jax.vmap(lambda p: curvature_measures.nothing(PHOTOS[0], s)._replace(pixels=p))
    now = step(begin(lost))
    ahead = jax.vmap(jax.grad(lambda p: margin(soft(p), y)))(lost)
    np.testing.assert_allclose(now.pixels, np.clip(lost + 0.25 * np.sign(ahead), 0, 1), atol=1e-6)
    for _ in range(9):
        now = step(now)
    assert len(lost) == 20 and (now.change > 0).mean() > 0.9
    at = jax.vmap(model)(now.best).argmax(1)
    assert (at[now.change > 0] == y).all() and (now.top[now.change > 0] < 4).any()


def test_what_is_refused(tmp_path):
    for match, arguments in (("unknown network 'vgg'", ["--networks", "vgg", "--out", tmp_path / "no"]),
                             ("--certified is at most --count 2", ["--count", 2, "--networks", "small_cnn"])):
        failed = command(*arguments)
        assert failed.returncode == 1 and match in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr
    assert not (tmp_path / "no").exists()
