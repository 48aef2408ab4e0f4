"""The driver does what it promises, on a network small enough for float64 and seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checks import check_derivatives
from xmanip_jax import attack, explain, objectives, smooth

rng = np.random.default_rng(0)
PARAMS = {"a": np.float32(rng.normal(size=(3, 3, 3, 8)) / 4), "b": np.float32(rng.normal(size=(3, 3, 8, 8)) / 6),
          "out": np.float32(rng.normal(size=(8, 4)))}
PHOTOS = np.float32(rng.uniform(0.1, 0.9, size=(3, 8, 8, 3)))
KEY = jax.random.key(0)
preprocess = lambda pixels: 4 * pixels - 2


def apply(p, x):
    conv = lambda x, w: jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME",
                                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    h = jax.nn.relu(conv(x, p["a"]))
    h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    return jax.nn.relu(conv(h, p["b"])).mean((0, 1)) @ p["out"]


model = jax.tree_util.Partial(apply, PARAMS)
e = explain.gradient()


def look(e, pixels, key=None):
    """Heat map and logits of the original model, each image for its own prediction."""
    def one(p):
        logits = model(preprocess(p))
        return explain.heatmap(e(model, preprocess(p), logits.argmax(), key=key)), logits
    return jax.vmap(one)(pixels)


GOAL = look(e, np.roll(PHOTOS, 1, axis=0))[0]
pearson = lambda a, b: np.array([np.corrcoef(np.ravel(u), np.ravel(v))[0, 1] for u, v in zip(a, b, strict=True)])
make = lambda e=e, **options: attack.manipulation(e, preprocess=preprocess, **{"steps": 60, **options})


def test_the_map_moves_and_the_prediction_stays():
    result = make(steps=200)(model, PHOTOS, GOAL, key=KEY)
    map, logits = look(e, result.pixels)
    np.testing.assert_allclose(result.heatmap, map, atol=1e-6)  # under the original model
    np.testing.assert_allclose(result.logits, logits, atol=1e-5)
    clean_map, clean_logits = look(e, PHOTOS)
    np.testing.assert_allclose(result.clean.heatmap, clean_map, atol=1e-6)
    assert (logits.argmax(1) == clean_logits.argmax(1)).all()
    assert (pearson(map, GOAL) > pearson(clean_map, GOAL) + 0.2).all()
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1


def test_the_best_iterate_is_never_worse_than_the_clean_image():
    wild = make(optimizer=optax.sgd(1e6), steps=7)(model, PHOTOS, GOAL, key=KEY)
    loss = jax.vmap(lambda h, z, c, g: attack.DEFAULT_OBJECTIVE(objectives.View(None, h, z), c, g))
    np.testing.assert_allclose(wild.loss, loss(wild.heatmap, wild.logits, wild.clean, GOAL), rtol=1e-4)
    assert (wild.loss <= loss(wild.clean.heatmap, wild.clean.logits, wild.clean, GOAL) + 1e-6).all()


def test_no_iterate_that_changes_the_prediction_is_kept():
    flip = lambda now, clean, goal: now.logits[clean.logits.argmax()]
    options = {"objective": flip, "optimizer": optax.adam(0.2), "steps": 30, "judge_every": 1}
    free = make(accept=lambda *v: True, **options)(model, PHOTOS, GOAL, key=KEY)
    held = make(**options)(model, PHOTOS, GOAL, key=KEY)
    prediction = lambda v: np.asarray(v.logits.argmax(1))
    assert (prediction(free) != prediction(free.clean)).any()  # the rule has something to refuse
    assert (prediction(held) == prediction(held.clean)).all()


def test_images_do_not_interact_and_runs_repeat():
    manipulate = make(steps=20)
    one = manipulate(model, PHOTOS, GOAL, key=KEY)
    np.testing.assert_array_equal(manipulate(model, PHOTOS, GOAL, key=KEY).pixels, one.pixels)
    other = np.stack([PHOTOS[0], PHOTOS[0], PHOTOS[0]])
    np.testing.assert_allclose(manipulate(model, other, GOAL, key=KEY).pixels[0], one.pixels[0], atol=1e-5)


def test_no_recompilation_between_steps_images_and_targets():
    traces = []

    def counted(p, x):
        traces.append(None)
        return apply(p, x)

    manipulate = make(steps=12)
    counted_model = jax.tree_util.Partial(counted, PARAMS)
    manipulate(counted_model, PHOTOS, GOAL, key=KEY)
    first = len(traces)
    heavier = jax.tree_util.Partial(counted, jax.tree.map(lambda v: 1.1 * v, PARAMS))
    shapes_only = 4  # abstract evaluation of the shapes, before any computation
    manipulate(heavier, PHOTOS[::-1], GOAL[::-1], key=jax.random.key(1))
    assert len(traces) - first <= shapes_only


def test_early_stop_is_per_image():
    seen = []
    stop = lambda now, clean, goal: jnp.sum((now.heatmap - goal) ** 2) < jnp.sum((GOAL[0] - clean.heatmap) ** 2)
    never = lambda now, clean, goal: now.logits[0] > 1e9
    at_once = make(stop=lambda *v: ~never(*v), steps=50, judge_every=5)
    result = at_once(model, PHOTOS, GOAL, key=KEY, callback=seen.append)
    assert seen[-1].step == 5 and seen[-1].done.all() and (result.step <= 5).all()
    frozen = make(stop=stop, judge_every=5)(model, PHOTOS, GOAL, key=KEY)
    free = make(judge_every=5)(model, PHOTOS, GOAL, key=KEY)
    assert (frozen.step <= free.step).all() and (frozen.loss >= free.loss - 1e-6).all()


@pytest.mark.slow
def test_restarts_keep_the_best():
    once = make(steps=20)(model, PHOTOS, GOAL, key=KEY)
    twice = make(steps=20, restarts=3)(model, PHOTOS, GOAL, key=KEY)
    assert (twice.loss <= once.loss).all()


def test_progress_is_reported():
    seen = []
    make(steps=25, judge_every=10)(model, PHOTOS, GOAL, key=KEY, callback=seen.append)
    assert [p.step for p in seen] == [10, 20, 25]
    assert (np.diff([p.best for p in seen], axis=0) <= 0).all() and seen[0].heatmap.shape == (3, 8, 8)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("e", [
    explain.gradient_x_input(), pytest.param(explain.integrated_gradients(steps=4), marks=pytest.mark.slow),
    explain.smoothgrad(explain.gradient(), sigma=0.3, samples=8),
    pytest.param(explain.uniform_gradient(explain.gradient(), radius=0.3, samples=8), marks=pytest.mark.slow)],
    ids=["gxi", "ig", "smoothgrad", "uniform"])
def test_every_explanation_can_be_attacked(e):
    goal = look(e, np.roll(PHOTOS, 1, axis=0), KEY)[0]
    result = make(e, steps=100)(model, PHOTOS, goal, key=KEY)
    assert (result.step > 0).all()
    assert (pearson(result.heatmap, goal) > pearson(result.clean.heatmap, goal)).sum() >= 2


@pytest.mark.slow
def test_a_cheaper_explanation_attacks_for_an_expensive_judge():
    fine, coarse = explain.integrated_gradients(steps=30), explain.integrated_gradients(steps=3)
    goal = look(fine, np.roll(PHOTOS, 1, axis=0))[0]
    result = make(coarse, judged_by=fine)(model, PHOTOS, goal, key=KEY)
    np.testing.assert_allclose(result.heatmap, look(fine, result.pixels)[0], atol=1e-6)


@pytest.mark.slow
def test_ghorbani_objectives():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    for term, measure, options in [
        (objectives.hide_top_k(6), lambda h, c: np.ravel(h)[np.argsort(-np.ravel(c))[:6]].sum(), {}),
        (objectives.raise_region(mask), lambda h, c: -h[mask].sum(), {}),
        (objectives.move_mass_center(), lambda h, c: -np.hypot(*(center(h) - center(c))), {"start_noise": 0.01}),
    ]:
        objective = objectives.weighted((1.0, term), (1e2, objectives.keep_logits()))
        result = make(objective=objective, constraint=attack.linf(0.05), **options)(model, PHOTOS, key=KEY)
        for h, c in zip(np.asarray(result.heatmap), np.asarray(result.clean.heatmap), strict=True):
            assert measure(h, c) < measure(c, c)


def center(h):
    return np.array([h.sum(1) @ np.arange(8), h.sum(0) @ np.arange(8)])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("constraint, measure, budget", [
    (attack.linf(0.02), lambda r: np.abs(r).max((1, 2, 3)), 0.02),
    (attack.l2(0.3), lambda r: np.sqrt((r**2).sum((1, 2, 3))), 0.3),
    (attack.l0(5), lambda r: (np.abs(r).max(3) > 0).sum((1, 2)), 5)], ids=["linf", "l2", "l0"])
def test_budgets_hold_and_are_used(constraint, measure, budget):
    objective = objectives.weighted((1.0, objectives.match_map()))
    optimizer = optax.adam(0.05)
    result = make(constraint=constraint, objective=objective, optimizer=optimizer)(model, PHOTOS, GOAL, key=KEY)
    spent = measure(np.asarray(result.pixels) - PHOTOS)
    assert (spent <= budget * (1 + 1e-5)).all() and (spent > 0.5 * budget).any()
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1


def test_projections_are_nearest_points():
    clean = np.array([[[0.2], [0.9], [0.5]]])
    moved = np.array([[[0.9], [1.7], [0.4]]])
    # Moving the second pixel gains 0.64 - 0.49 = 0.15, the first 0.49, the third 0.01.
    np.testing.assert_allclose(attack.l0(1)(moved, clean), [[[0.9], [0.9], [0.5]]])
    np.testing.assert_allclose(attack.l0(2)(moved, clean), [[[0.9], [1.0], [0.5]]])
    np.testing.assert_allclose(attack.linf(0.1)(moved, clean), [[[0.3], [1.0], [0.4]]])
    ball = attack.l2(0.5)(moved, clean)
    assert np.linalg.norm(ball - clean) <= 0.5 and ball.max() <= 1
    np.testing.assert_allclose(attack.l2(9.0)(moved, clean), np.clip(moved, 0, 1))
    assert np.isfinite(jax.grad(lambda v: attack.l2(0.5)(v, clean).sum())(jnp.asarray(clean))).all()


@pytest.mark.slow
def test_greedy_pixels_release_one_more_each_step():
    counts = []
    objective = objectives.weighted((1.0, objectives.hide_top_k(6)), (10.0, objectives.keep_output()))
    optimizer = optax.chain(attack.greedy_pixels(), optax.adam(0.2))
    options = {"objective": objective, "optimizer": optimizer, "surrogate": smooth.absolute(10, 10)}
    for steps in (1, 2, 6):
        result = make(steps=steps, judge_every=1, accept=lambda *v: True, **options)(model, PHOTOS, key=KEY)
        counts.append((np.abs(result.pixels - PHOTOS).max(3) > 0).sum((1, 2)))
    assert (counts[0] <= 1).all() and (counts[1] <= 2).all() and (counts[2] <= 6).all() and (counts[2] > 2).any()
    labels = result.clean.logits.argmax(1)
    fewer = attack.release_pixels(e, k=6, preprocess=preprocess)(model, result, labels=labels, key=KEY)
    assert ((np.abs(fewer.pixels - PHOTOS).max(3) > 0).sum((1, 2)) <= counts[2]).all()
    np.testing.assert_allclose(fewer.heatmap, jax.vmap(lambda p, t: explain.heatmap(e(model, preprocess(p), t)))(
        fewer.pixels, labels), atol=1e-6)
    stopped = make(steps=30, judge_every=1, stop=objectives.top_k_hidden(2), **options)(model, PHOTOS, key=KEY)
    assert stopped.heatmap.shape == GOAL.shape


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("term", [
    objectives.match_map(), objectives.keep_output(), objectives.keep_probabilities(), objectives.keep_logits(),
    objectives.hide_top_k(3), objectives.move_mass_center(), objectives.raise_region(np.eye(4, dtype=bool))],
    ids=["map", "output", "probabilities", "logits", "top_k", "center", "region"])
def test_derivatives_of_every_term(term):
    make = lambda seed: objectives.View(None, np.random.default_rng(seed).dirichlet(np.ones(16)).reshape(4, 4),
                                    np.random.default_rng(seed).normal(size=5))
    clean, goal = make(1), make(2).heatmap
    now = make(3)
    check_derivatives(lambda v: term(objectives.View(None, *v), clean, goal) ** 2, (now.heatmap, now.logits))


def test_a_piecewise_linear_model_without_surrogate_is_named():
    with pytest.raises(attack.ZeroGradientError, match=r"smooth\.relative"):
        make(surrogate=smooth.none(), objective=objectives.weighted((1.0, objectives.match_map())))(
            lambda x: jax.nn.relu(x.ravel()[:20] @ jnp.ones((20, 4))), PHOTOS, np.full((3, 8, 8), 1 / 64), key=KEY)
    weights = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)  # keep_output's gradient is rounding
    with pytest.raises(attack.ZeroGradientError, match=r"smooth\.relative"):
        make(surrogate=smooth.none(), objective=attack.DEFAULT_OBJECTIVE)(
            lambda x: jax.nn.relu(x.ravel() @ weights), PHOTOS, np.full((3, 8, 8), 1 / 64), key=KEY)


NAN = PHOTOS.copy()
NAN[1, 2, 3, 0] = np.nan


@pytest.mark.parametrize("call, match", [
    (lambda: make(steps=0), "steps is a positive integer, got 0"),
    (lambda: make(judge_every=0), "judge_every"),
    (lambda: make(restarts=0), "restarts"),
    (lambda: make(start_noise=-1.0), "start_noise"),
    (lambda: attack.linf(0), "epsilon is positive, got 0"),
    (lambda: attack.l2(-1.0), "epsilon"),
    (lambda: attack.l0(0), "pixels"),
    (lambda: attack.default_optimizer(10, 0.0), "learning_rate"),
    (lambda: objectives.hide_top_k(0), "k must"),
    (lambda: objectives.raise_region(np.zeros((8, 8), bool)), "empty"),
    (lambda: objectives.weighted(), "at least one"),
    (lambda: make()(model, PHOTOS[0], GOAL, key=KEY), r"\(8, 8, 3\)"),
    (lambda: make()(model, NAN, GOAL, key=KEY), "NaN"),
    (lambda: make()(model, 255 * PHOTOS, GOAL, key=KEY), r"\[0, 1\], got"),
    (lambda: make()(model, PHOTOS - 0.5, GOAL, key=KEY), r"\[0, 1\], got"),
    (lambda: make()(model, PHOTOS, GOAL[:, :4], key=KEY), r"\(3, 4, 8\), expected \(3, 8, 8\)"),
    (lambda: make()(model, PHOTOS, 0 * GOAL, key=KEY), "sums to 1"),
    (lambda: make()(model, PHOTOS, -GOAL, key=KEY), "non-negative"),
    (lambda: make()(model, PHOTOS, GOAL, labels=np.array([0, 1, 4]), key=KEY), r"0\.\.3, got 0 to 4"),
    (lambda: make()(model, PHOTOS, GOAL, labels=np.array([0, 1]), key=KEY), r"Int\[3\]"),
])
def test_bad_input_is_named_before_any_compute(call, match):
    with pytest.raises(ValueError, match=match):
        call()
