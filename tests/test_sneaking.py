"""The interpretability sneaking attack, and the bound that no success of it can pass."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xmanip_jax import attack, data, defend, explain, models

CAM = explain.cam("features")


def small(params, x):
    """Two convolutions, an average, a dense layer without bias: its CAMs sum to M times the logits."""
    order = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, w: lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=order)[0]
    h = checkpoint_name(conv(jax.nn.relu(conv(x - 0.5, params["a"])), params["b"]), "features")
    return h.mean((0, 1)) @ params["c"]


KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {"a": jax.random.normal(KEYS[0], (3, 3, 1, 6)), "b": jax.random.normal(KEYS[1], (3, 3, 6, 8)) / 5,
          "c": jax.random.normal(KEYS[2], (8, 4))}
MODEL = jax.tree_util.Partial(small, PARAMS)
PIXELS = jax.random.uniform(KEYS[3], (12, 6, 6, 1))
CLEAN = jax.vmap(MODEL)(PIXELS)
LABELS = CLEAN.argmax(1)
TARGETS = jnp.argsort(-CLEAN, 1)[:, 1]  # the runner-up


def label_alone(e, f, x, z, classes):
    return jnp.abs(e(f, x, classes[0]) - e(f, z, classes[0])).sum()


def check(model, pixels, targets, found, cells):
    """Successes predict the target within epsilon, and keep proposition 1's distance."""
    clean, logits = jax.jit(lambda x, z: (jax.vmap(model)(x), jax.vmap(jax.vmap(model))(z)))(pixels, found.pixels)
    np.testing.assert_array_equal(found.success, logits.argmax(-1) == targets[None])
    here = found.success
    moved = jnp.abs(found.pixels - pixels[None]).max((2, 3, 4))
    assert (moved <= found.epsilon + 1e-6)[here].all() and found.pixels.min() >= 0 and found.pixels.max() <= 1
    rows = jnp.arange(len(pixels))
    bound = cells / 2 * (clean[rows, clean.argmax(1)] - clean[rows, targets])
    assert (found.distance >= bound[None] * (1 - 1e-4))[here].all()
    for numbers in (found.epsilon, found.gamma, found.distance, found.normalised):
        assert np.isfinite(numbers[here]).all() and np.isnan(numbers[~here]).all()
    return bound


@pytest.fixture(scope="module")
def found():
    return attack.sneaking(CAM, defend.two_class_discrepancy, multiples=(1.0, 2.0))(MODEL, PIXELS, TARGETS)


def test_successes_keep_proposition_1(found):
    bound = check(MODEL, PIXELS, TARGETS, found, 36)
    assert found.success.sum() >= 16 and (bound > 0).all()
    assert (found.gamma[1] > 0)[found.success[1]].any()


def test_what_is_reported(found):
    ok = found.success.all(0)
    e = jax.jit(jax.vmap(lambda x, y: CAM(MODEL, x, y)))
    spread = jnp.ptp(e(PIXELS, LABELS).reshape(12, -1), axis=1)
    np.testing.assert_allclose(found.normalised[0][ok], (found.distance[0] / spread)[ok], rtol=1e-4)
    assert (found.normalised[1] <= found.normalised[0])[ok].all()
    d, epsilon = found.normalised[:, ok], found.epsilon[:, ok]
    expected = (d[0] - d[1]) * epsilon[0] / ((epsilon[1] - epsilon[0]) * d[0])
    np.testing.assert_allclose(found.slope[ok], expected, rtol=1e-5)
    apart = jax.jit(jax.vmap(lambda x, z, y, t: defend.two_class_discrepancy(CAM, MODEL, x, z, (y, t))))
    np.testing.assert_allclose(found.distance[1][ok], apart(PIXELS, found.pixels[1], LABELS, TARGETS)[ok], rtol=1e-4)


def test_one_class_is_sneaked_past(found):
    """Weighing the label's map alone, the attack leaves it nearer to the clean one than the two-class attack does."""
    alone = attack.sneaking(CAM, label_alone, multiples=(1.0, 2.0))(MODEL, PIXELS, TARGETS)
    change = jax.jit(jax.vmap(lambda x, z, y: label_alone(CAM, MODEL, x, z, (y,))))
    both = alone.success[1] & found.success[1]
    np.testing.assert_allclose(alone.epsilon[0], found.epsilon[0])
    assert jnp.median(alone.distance[1][both]) < jnp.median(change(PIXELS, found.pixels[1], LABELS)[both])


def test_both_bisections_on_a_line():
    """Logits (s, 1 - s) of one pixel s = 0.9: epsilon 0.4 is the smallest; gamma the last that a simulation passes."""
    f, x = lambda x: jnp.stack([x.sum(), 1 - x.sum()]), jnp.full((1, 1, 1, 1), 0.9)
    found = attack.sneaking(explain.gradient_x_input(), label_alone, multiples=(1.0, 2.0), rounds=16)(f, x, [1])
    assert found.epsilon[0, 0] == pytest.approx(0.4, abs=2e-4) and found.epsilon[1, 0] == pytest.approx(0.8, abs=4e-4)

    def succeeds(gamma, s=0.9):
        for _ in range(10):
            slope = 2 * (2 * s - 1 > -0.1) + gamma * np.sign(s - 0.9)
            s = np.clip(s - 0.2 * 0.8 * np.clip(1000 * slope, -1, 1), 0.1, 1)
        return s < 0.5

    gamma = float(found.gamma[1, 0])
    assert succeeds(0) and succeeds(gamma - 1e-5) and not succeeds(gamma + 2.0**-14)


def test_what_cannot_succeed_is_not_a_number():
    constant = lambda x: jnp.array([1.0, 0.0]) + 0 * x.sum()
    found = attack.sneaking(explain.gradient_x_input(), label_alone, rounds=2)(constant, jnp.ones((2, 1, 1, 1)), [1, 1])
    assert not found.success.any() and np.isnan(found.epsilon).all() and np.isnan(found.slope).all()


def test_what_is_refused():
    two = defend.two_class_discrepancy
    cases = [("multiples ascend from at least 1, got ()", {"multiples": ()}),
             ("multiples ascend from at least 1, got (2.0, 1.0)", {"multiples": (2.0, 1.0)}),
             ("kappa is not negative, got -1", {"kappa": -1}), ("step is positive, got 0", {"step": 0}),
             ("rounds is a positive integer, got 0", {"rounds": 0})]
    for match, options in cases:
        with pytest.raises(ValueError) as error:
            attack.sneaking(CAM, two, **options)
        assert match in str(error.value)
    for match, targets in (("not for images [0, 1, 2, 3, 4]", LABELS), ("a class lies in 0..3", LABELS + 4)):
        with pytest.raises(ValueError) as error:
            attack.sneaking(CAM, two)(MODEL, PIXELS, targets)
        assert match in str(error.value)


@pytest.mark.slow
def test_the_experiment_runs_quickly(tmp_path):
    script = Path(__file__).parent.parent / "experiments" / "reproduce.py"
    done = subprocess.run([sys.executable, script, "sneaking", "--quick", "--out", tmp_path / "out"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert set(rows) == {"random/two classes", "random/label alone"}
    assert 0 <= rows["random/label alone"]["success@2"]["value"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal", "int"])
def test_proposition_1_on_the_authors_networks(name):
    file = data.data_dir() and data.data_dir() / "networks" / "boopathy2020" / f"mnist_smallgap_{name}.safetensors"
    if not file or not file.is_file():
        pytest.skip("networks/boopathy2020 are not in the data folder")
    model = models.load("small_cnn", file).model
    images = data.load_dataset("mnist", "test", limit=10)[0]
    predicted = np.asarray(jax.vmap(model)(images).argmax(1))
    targets = (predicted + np.random.default_rng(0).integers(1, 10, 10)) % 10
    found = attack.sneaking(CAM, defend.two_class_discrepancy, multiples=(1.0, 2.0))(model, images, targets)
    check(model, images, targets, found, 49)
    assert found.success[0].sum() >= 5
