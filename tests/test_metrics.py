"""Similarity measures against scipy, scikit-image and formulas in numpy; intervals against scipy."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from checks import check_derivatives
from xmanip_jax import metrics
from xmanip_jax.metrics import similarity

RNG = np.random.default_rng(0)
CORRELATIONS = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr,
                "kendall": scipy.stats.kendalltau}
JIT = {name: jax.jit(getattr(metrics, name)) for name in similarity.__all__}
SSIM = jax.jit(metrics.ssim, static_argnames="window")
SMALL_SSIM = functools.partial(metrics.ssim, window=3)
TOP_K = jax.jit(metrics.top_k_intersection, static_argnums=2)
SYMMETRIC = ("mse", "pearson", "spearman", "kendall", "cosine", "ssim", "mass_center_distance")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def sparse(n):
    return np.where(RNG.random(n) < 0.97, 0, RNG.normal(size=n))


def pairs():
    a, b = RNG.normal(size=(2, 700))
    yield "related", a, a + b
    yield "independent, negative", -abs(a), b
    yield "opposite", a, -a
    yield "equal", a, a
    yield "heavy ties", np.round(a), np.round(a + b)
    yield "two values", (a > 0) * 1.0, (b > 0) * 1.0
    yield "sparse", sparse(700), sparse(700) + sparse(700)
    yield "one entry", np.eye(700)[3], np.eye(700)[5] + np.eye(700)[3]
    yield "two zeros", np.tile([0.0, -0.0, 1.0, -1.0], 175), np.tile([0.0, 0.0, -1.0, -0.0], 175)
    yield "offset", a + 1e6, a + b - 1e6
    yield "tiny", a * 1e-25, (a + b) * 1e-25
    yield "two entries", a[:2], b[:2]


PAIRS = list(pairs())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("a, b", [p[1:] for p in PAIRS], ids=[p[0] for p in PAIRS])
def test_correlations_equal_scipy(name, a, b):
    f, expected = JIT[name], CORRELATIONS[name]
    with jax.enable_x64(True):
        assert abs(f(a, b) - expected(a, b)[0]) < 1e-10
    a, b = a.astype(np.float32), b.astype(np.float32)
    got = f(a, b)
    assert got.dtype == jnp.float32
    assert abs(float(got) - expected(a.astype(np.float64), b.astype(np.float64))[0]) < 1e-5
    assert -1 <= got <= 1


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_of_large_maps_do_not_overflow(name, rng):
    a, b = rng.normal(size=(2, 227, 227)).astype(np.float32)  # 1.3e9 pairs
    b = np.where(rng.random(a.shape) < 0.5, 0, a + b)
    assert abs(float(JIT[name](a, b)) - CORRELATIONS[name](a.ravel(), b.ravel())[0]) < 1e-5


def test_counting_pairs_beyond_int32():
    n = 3 * 227 * 227
    total = similarity._pairs(jnp.full(n, n - 1, jnp.int32), jnp.float32)
    assert abs(float(total) / (n * (n - 1)) - 1) < 1e-6


@pytest.mark.parametrize("name", [*CORRELATIONS, "cosine"])
def test_undefined_correlations_are_nan(name):
    f, x = JIT[name], np.float32([1, 2, 3])
    constant = np.full(3, 0 if name == "cosine" else 0.1, np.float32)
    for a, b in [(x, constant), (constant, x), (constant, constant), (x, np.float32([1, np.nan, 3]))]:
        assert jnp.isnan(f(a, b))
    if name in CORRELATIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.isnan(CORRELATIONS[name](x, constant)[0])


def test_a_long_constant_map_is_constant(rng):
    constant, x = np.full((50, 50), 0.1, np.float32), rng.normal(size=(50, 50))  # the mean is not exactly 0.1
    assert jnp.isnan(JIT["pearson"](constant, x))
    assert jnp.isnan(JIT["pearson"](x[:1, :1], x[1:2, :1]))  # one pixel


def test_mse_and_cosine_equal_numpy():
    for _, a, b in PAIRS:
        a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(JIT["mse"](a, b), np.mean((a - b) ** 2), rtol=1e-5, atol=1e-40)
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        np.testing.assert_allclose(JIT["cosine"](a, b), expected, atol=1e-6)


def structural_similarity(a, b, **options):
    compare = pytest.importorskip("skimage.metrics").structural_similarity
    return compare(np.float64(a), np.float64(b), channel_axis=2 if np.ndim(a) == 3 else None, **options)


IMAGES = [
    ("independent", *RNG.random((2, 20, 31))),
    ("close", *(lambda a: (a, a + 0.02 * RNG.random(a.shape)))(RNG.random((20, 31)))),
    ("channels", *RNG.normal(size=(2, 9, 12, 3))),
    ("smallest", *RNG.normal(size=(2, 7, 7))),
    ("far from zero", *(5 + 0.01 * RNG.random((2, 20, 31)))),
    ("constant", np.full((20, 31), 0.5), np.full((20, 31), 0.2)),
    ("one empty", np.zeros((20, 31)), RNG.random((20, 31))),
]


@pytest.mark.parametrize("a, b", [i[1:] for i in IMAGES], ids=[i[0] for i in IMAGES])
def test_ssim_equals_scikit_image(a, b):
    joint = max(abs(a).max(), abs(b).max())
    for window in (7, 3) if a.shape == (7, 7) else (7,):
        for given, data_range in ((1.0, 1.0), (None, joint)):
            expected = structural_similarity(a, b, data_range=data_range, win_size=window)
            with jax.enable_x64(True):
                assert abs(SSIM(a, b, data_range=given, window=window) - expected) < 1e-10
            if a.shape == (20, 31):
                single_a, single_b = a.astype(np.float32), b.astype(np.float32)
                assert abs(float(SSIM(single_a, single_b, data_range=given)) - expected) < 1e-5


def test_ssim_needs_the_joint_maximum_of_maps_that_sum_to_one(rng):
    a, b = rng.random((2, 64, 64))
    a, b = a / a.sum(), b / b.sum()
    assert SSIM(a, b, data_range=1) > 0.99
    assert abs(SSIM(a, b)) < 0.05
    np.testing.assert_allclose(SSIM(1e-20 * a, 1e-20 * b), SSIM(a, b), atol=1e-5)
    assert SSIM(0 * a, 0 * b) == 1


def test_top_k_intersection(rng):
    a, b = rng.normal(size=(2, 300))
    for k in (1, 17, 300):
        chosen = set(np.argsort(-a)[:k]) & set(np.argsort(-b)[:k])
        np.testing.assert_allclose(TOP_K(a, b, k), len(chosen) / k, rtol=1e-6)
    tied = np.array([[0.0, 5, 5], [5, 0.0, 0.0]])  # the first two of a are entries 1 and 2, then 3
    assert TOP_K(tied, np.array([[0.0, 9, 8], [0, 0, 0]]), 2) == 1
    assert TOP_K(np.array([-0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0]), 1) == 1  # -0 ties with 0
    assert jnp.isnan(TOP_K(np.array([1.0, np.nan, 0.0]), np.array([1.0, 2.0, 3.0]), 1))
    for k in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"k is in 1\.\.3, got {k}"):
            metrics.top_k_intersection([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], k)


def test_mass_centers_equal_scipy(rng):
    a, b = rng.normal(size=(2, 13, 8, 3))
    expected = [np.array(scipy.ndimage.center_of_mass(abs(m).sum(-1))) for m in (a, b)]
    np.testing.assert_allclose(JIT["mass_center"](a), expected[0], rtol=1e-5)
    distance = np.linalg.norm(expected[0] - expected[1])
    np.testing.assert_allclose(JIT["mass_center_distance"](a, b), distance, rtol=1e-4)
    np.testing.assert_allclose(JIT["mass_center"](1e-30 * a), expected[0], rtol=1e-5)
    assert JIT["mass_center_distance"](a, -a) == 0
    assert jnp.isnan(JIT["mass_center"](0 * a)).all()
    gradient = jax.jit(jax.grad(metrics.mass_center_distance))
    assert (gradient(jnp.ones((4, 4)), jnp.ones((4, 4))) == 0).all()


def test_gini_of_known_maps(rng):
    for n in (4, 1000):
        np.testing.assert_allclose(JIT["gini"](np.eye(n)[2]), 1 - 1 / n, atol=2e-4)
        np.testing.assert_allclose(JIT["gini"](np.full(n, 3.0)), 0, atol=1e-6)
    a = rng.normal(size=(30, 30))
    differences = abs(abs(a).reshape(-1, 1) - abs(a).reshape(1, -1)).mean() / 2 / abs(a).mean()
    np.testing.assert_allclose(JIT["gini"](a), differences, rtol=1e-5)
    np.testing.assert_allclose(JIT["gini"](-1e-30 * a), differences, rtol=1e-5)
    assert jnp.isnan(JIT["gini"](np.zeros(4)))


def test_probability_change(rng):
    a, b = rng.normal(size=(2, 10))
    expected = abs(np.exp(a) / np.exp(a).sum() - np.exp(b) / np.exp(b).sum()).max()
    np.testing.assert_allclose(JIT["probability_change"](a + 500, b - 500), expected, rtol=1e-4)


def test_shapes_are_compared_when_traced():
    for name in (*SYMMETRIC, "probability_change"):
        f = getattr(metrics, name)
        with pytest.raises(ValueError, match=r"\(8, 9\) and \(9, 8\)"):
            jax.eval_shape(f, jnp.ones((8, 9)), jnp.ones((9, 8)))
        with pytest.raises(ValueError, match=r"got shape \(0, 3\)"):
            f(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"at most 4, got 7 for maps \(4,\)"):
        metrics.ssim(np.ones(4), np.ones(4))
    for window in (2, 6, 9, 1):
        with pytest.raises(ValueError, match=f"odd, at least 3 and at most 8, got {window}"):
            metrics.ssim(np.ones((8, 9)), np.ones((8, 9)), window=window)
    with pytest.raises(ValueError, match="a map has at least one axis"):
        metrics.mass_center(np.ones(()))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry_jit_vmap_and_integers(name, rng):
    f = getattr(metrics, name)
    a, b = rng.integers(-9, 9, (2, 3, 8, 9))
    together, alone = jax.jit(jax.vmap(f))(a, b), jax.jit(f)
    for i in range(3):
        np.testing.assert_allclose(together[i], alone(b[i], a[i]), atol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ("mse", "pearson", "cosine"))
def test_first_and_second_derivatives(name, x64, rng):
    f = getattr(metrics, name)
    check_derivatives(lambda x: f(x[0], x[1]), jnp.asarray(rng.normal(size=(2, 6, 5))), rtol=1e-5)


@pytest.mark.parametrize("name", ("ssim", "mass_center_distance"))
def test_gradients(name, x64, rng):
    a, b, v = rng.normal(size=(3, 9, 8))
    f = jax.jit(SMALL_SSIM) if name == "ssim" else JIT[name]
    difference = (f(a + 1e-5 * v, b) - f(a - 1e-5 * v, b)) / 2e-5
    np.testing.assert_allclose((jax.jit(jax.grad(f))(a, b) * v).sum(), difference, rtol=1e-7)


@pytest.mark.parametrize("name", ("pearson", "cosine", "ssim"))
def test_gradients_of_equal_and_of_tiny_maps_are_finite(name, rng):
    f = SMALL_SSIM if name == "ssim" else getattr(metrics, name)
    a = rng.normal(size=(9, 8)).astype(np.float32)
    gradient = jax.jit(jax.grad(f))
    np.testing.assert_allclose(gradient(a, a), 0, atol=1e-5)
    assert jnp.isfinite(gradient(1e-25 * a, 1e-25 * np.roll(a, 1))).all()


@pytest.mark.parametrize("name", ("pearson", "cosine"))
def test_rounding_above_one_hides_no_derivative(name, rng):
    f = getattr(metrics, name)
    slope = lambda x, a: jax.jvp(lambda z: f(z, a), (x,), (a[::-1],))[1]
    value_and_curvature = lambda a: (f(a, a), jax.jvp(lambda x: slope(x, a), (a,), (a[::-1],))[1])
    values, curvatures = jax.jit(jax.vmap(value_and_curvature))(rng.normal(size=(50, 72)).astype(np.float32))
    assert (values <= 1).all() and (curvatures < -1e-3).all()


@pytest.mark.parametrize("name", ("spearman", "kendall"))
def test_rank_measures_are_flat(name, rng):
    a, b = rng.normal(size=(2, 20))
    assert (jax.jit(jax.grad(getattr(metrics, name)))(a, b) == 0).all()


def test_bootstrap_interval_equals_scipy(rng):
    values, key = rng.normal(size=60) ** 2, jax.random.key(1)
    for statistic in (np.median, np.mean):
        got = metrics.bootstrap_interval(values, key=key, statistic=statistic, resamples=9999)
        reference = scipy.stats.bootstrap((values,), statistic, method="percentile", rng=2)
        assert got.value == statistic(values)
        np.testing.assert_allclose(got[1:], reference.confidence_interval, atol=0.1)  # a median jumps
    narrow = metrics.bootstrap_interval(values, key=key, confidence=0.5)
    wide = metrics.bootstrap_interval(values, key=key, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_interval_covers_the_truth(rng):
    keys = jax.random.split(jax.random.key(0), 200)
    f = lambda v, key: metrics.bootstrap_interval(v, key=key, statistic=np.mean, resamples=500)
    covered = [low < 0 < high for _, low, high in map(f, rng.normal(size=(200, 40)), keys)]
    assert 0.89 < np.mean(covered) < 0.98


def test_bootstrap_interval_is_reproducible_and_validated():
    v, key = np.arange(9.0), jax.random.key(0)
    assert metrics.bootstrap_interval(v, key=key) == metrics.bootstrap_interval(list(v), key=key)
    other = metrics.bootstrap_interval(v, key=jax.random.key(1), statistic=np.mean)
    assert other != metrics.bootstrap_interval(v, key=key, statistic=np.mean)
    assert metrics.bootstrap_interval([3], key=key) == (3, 3, 3)
    assert np.isnan(metrics.bootstrap_interval([1.0, np.nan], key=key, statistic=np.nanmean)).all()
    for bad, message in (({"values": []}, r"got shape \(0,\)"), ({"values": [[1.0]]}, r"got shape \(1, 1\)"),
                         ({"values": v, "confidence": 1.0}, "confidence is in"),
                         ({"values": v, "resamples": 0}, "resamples >= 1")):
        with pytest.raises(ValueError, match=message):
            metrics.bootstrap_interval(**bad, key=key)


def test_summarise_counts_what_it_leaves_out():
    table = {"mse": jnp.array([1.0, 2.0, 6.0]), "pearson": [np.nan, 0.5, 0.5], "empty": [np.nan]}
    got = metrics.summarise(table, key=jax.random.key(0), statistic=np.mean)
    assert list(got) == list(table)
    assert got["mse"].value == 3 and got["mse"][3:] == (3, 0) and type(got["mse"].low) is float
    assert got["pearson"] == (0.5, 0.5, 0.5, 2, 1)
    assert np.isnan(got["empty"][:3]).all() and got["empty"][3:] == (0, 1)
    for wrong in ([], [[1.0]], 1.0):
        with pytest.raises(ValueError, match="a sample is"):
            metrics.summarise({"x": wrong}, key=jax.random.key(0))
