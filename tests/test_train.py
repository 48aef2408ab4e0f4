"""The training loop: resumed to the bit, spread over devices, stopped by a loss that is no number."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xmanip_jax import checkpoint, defend, models, smooth, train

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 60)
IMAGES = (RANDOM.normal(size=(60, 6, 6, 1)) * 0.3 + LABELS[:, None, None, None] / 3).astype(np.float32)
OPTIMIZER = optax.adam(3e-3)


class Small(nnx.Module):
    """A convolution and a linear layer, with or without BatchNorm between."""

    def __init__(self, norm=False):
        rngs = nnx.Rngs(0)
        self.conv, self.linear = nnx.Conv(1, 8, (3, 3), rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs) if norm else lambda x: x

    def __call__(self, x):
        return self.linear(smooth.softplus_beta(self.norm(self.conv(x)), 5.0).mean((-3, -2)))


def run(training, net, **options):
    told = {name: options.pop(name) for name in ("callback", "keep") if name in options}
    options = {"terms": ((1e-3, defend.hessian()),), "batch": 10, "steps": 24, "every": 8} | options
    return train.fit(OPTIMIZER, **options)(net, training, IMAGES, LABELS, **told)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("norm", [False, True])
def test_interrupted_and_resumed_is_bit_equal(norm, tmp_path):
    net, params, state = models.functional(Small(norm))
    start = lambda: train.begin(params, state, OPTIMIZER, seed=3, ema=True)
    seen = []
    whole = run(start(), net, callback=lambda step, numbers: seen.append((step, numbers["loss"])))

    class Killed(Exception):
        pass

    def keep(training):
        checkpoint.save_step(tmp_path / "run", int(training.step), training)
        if training.step == 16:
            raise Killed

    with pytest.raises(Killed):
        run(start(), net, keep=keep)
    resumed = run(checkpoint.load_step(tmp_path / "run", like=start()), net)
    chex.assert_trees_all_equal(resumed, whole)
    assert [step for step, _ in seen] == [8, 16, 24] and seen[-1][1] < seen[0][1]
    if norm:
        assert not np.array_equal(jax.tree.leaves(whole.state)[0], jax.tree.leaves(state)[0])


def test_devices_share_the_batch():
    net, params, state = models.functional(Small())
    one, two = (run(train.begin(params, state, OPTIMIZER), net, devices=jax.devices()[:n]) for n in (1, 2))
    assert len(jax.tree.leaves(two.params)[0].devices()) == 2
    chex.assert_trees_all_close(one.params, two.params, rtol=2e-4, atol=1e-6)


def test_every_example_once_an_epoch_and_another_order_in_the_next():
    epochs = [np.concatenate([train.batch_indices(6 * e + s, 1, 60, 10) for s in range(6)]) for e in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(60))
    assert (epochs[0] != epochs[1]).any() and (epochs[0] != train.batch_indices(0, 2, 60, 60)).any()


def test_images_are_augmented_as_the_seed_and_the_step_say():
    net, start = models.Net(lambda params, state, x: params * x, None), lambda: train.begin(jnp.ones(3), {}, OPTIMIZER)
    drawn = []

    def augment(random, xs):
        drawn.append(random.integers(2**60))
        return xs + 1

    fit = train.fit(OPTIMIZER, batch=2, steps=3, augment=augment, devices=jax.devices()[:1])
    trained = [fit(net, start(), np.zeros((4, 3), np.float32), np.arange(4) % 3).params for _ in range(2)]
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3
    assert np.all(trained[0] != 1)  # black images teach nothing
    np.testing.assert_array_equal(*trained)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state():
    net, params, state = models.functional(Small())
    with pytest.raises(train.NanLossError, match="the loss is nan at step 16; the run stands at step 8") as caught:
        run(train.begin(params, state, OPTIMIZER), net, scale=lambda step: jnp.where(step < 10, 0.0, jnp.nan))
    good = caught.value.training
    assert good.step == 8
    chex.assert_tree_all_finite(good.params)


def test_ramp_and_average():
    net, params, state = models.functional(Small())
    seen = {}
    run(train.begin(params, state, OPTIMIZER), net, every=1, steps=4, scale=lambda step: step / 4,
        callback=lambda step, numbers: seen.update({step: numbers}))
    for step, numbers in seen.items():
        expected = numbers["cross_entropy"] + (step - 1) / 4 * numbers["penalty"]
        assert numbers["loss"] == pytest.approx(expected, rel=1e-6)
    fast = run(train.begin(params, state, OPTIMIZER, ema=True), net, steps=2, ema_decay=0.0)
    chex.assert_trees_all_close(fast.params, fast.ema, rtol=1e-6)


def test_what_is_refused():
    net, params, state = models.functional(Small())
    for match, options in (("does not divide among 2 devices", {"batch": 5}),
                           ("steps is a positive integer, got 0", {"steps": 0}),
                           ("1 to 60 examples, got 62", {"batch": 62})):
        with pytest.raises(ValueError, match=match):
            run(train.begin(params, state, OPTIMIZER), net, **options)
    with pytest.raises(ValueError, match="60 images have 59 labels"):
        train.fit(OPTIMIZER)(net, train.begin(params, state, OPTIMIZER), IMAGES, LABELS[1:])
