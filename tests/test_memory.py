"""Drivers within a memory: the same results in parts, what fits is said, and what does not is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, defend, explain, geometry, memory, smooth
from xmanip_jax.programs import Machine, Program, in_parts

KEY = jax.random.key(0)
PIXELS = np.random.default_rng(0).uniform(size=(5, 4, 4, 1))
WEIGHTS = np.random.default_rng(1).normal(size=(16, 3))
KERNEL = np.random.default_rng(2).normal(size=(3, 3, 4, 4)).astype(np.float32)
E = explain.gradient()


def model(x):
    return smooth.softplus_beta(x.ravel() @ WEIGHTS + jnp.sin(9 * x.ravel() + 0.3) @ WEIGHTS, 2.0)


def convolved(x):
    x = x.reshape(5, 8, 1) * jnp.ones(4, np.float32)
    for _ in range(3):
        x = jnp.tanh(jax.lax.conv_general_dilated(x[None], KERNEL, (1, 1), "SAME",
                                                  dimension_numbers=("NHWC", "HWIO", "NHWC"))[0])
    return x.mean((0, 1))


def goal():
    return jax.vmap(lambda p: explain.heatmap(E(model, p, 0)))(PIXELS[::-1])


def changed():
    return attack.largest_change(E, epsilon=0.1, steps=2, restarts=1, surrogate=smooth.none())(model, PIXELS, key=KEY)


def made():
    return attack.manipulation(E, steps=3, constraint=attack.l0(4))(model, PIXELS, goal(), key=KEY)


ASCENT = {"epsilon": 0.1, "steps": 3, "restarts": 2}
DRIVERS = {
    "manipulation": lambda memory: attack.manipulation(
        E, surrogate=smooth.none(), steps=4, memory=memory)(model, PIXELS, goal(), key=KEY),
    "largest_change": lambda memory: attack.largest_change(E, surrogate=smooth.none(), memory=memory, **ASCENT)(
        model, PIXELS, key=KEY),
    "transfer": lambda memory: attack.transfer(E, memory=memory)(model, changed(), key=KEY),
    "release_pixels": lambda memory: attack.release_pixels(E, k=3, memory=memory)(
        model, made(), labels=jnp.zeros(5, int), key=KEY),
    "random_search": lambda memory: attack.random_search(E, memory=memory, **ASCENT)(model, PIXELS, key=KEY),
    "genetic_search": lambda memory: attack.genetic_search(
        E, epsilon=0.1, steps=8, population=4, parents=2, memory=memory)(model, PIXELS, key=KEY),
    "sneaking": lambda memory: attack.sneaking(
        explain.gradient_x_input(), defend.two_class_discrepancy, steps=2, rounds=2, memory=memory)(
        model, PIXELS, (jax.vmap(model)(PIXELS).argmax(1) + 1) % 3),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", DRIVERS)
def test_parts_give_the_same(name, x64):
    said = []
    whole = DRIVERS[name](memory.Budget("100MB", said.append))
    assert said[-1].examples == said[-1].of == 5 and said[-1].takes <= 10**8
    parts = DRIVERS[name](memory.Budget(said[-1].takes * 8 // 9, said.append))
    assert said[-1].examples in (2, 3) and said[-1].takes <= said[-1].memory
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def stepped(x):
    return jax.grad(lambda x: jnp.sum(explain.integrated_gradients(steps=30)(convolved, x, 0) ** 2))(x)


def test_what_is_chosen_falls_with_the_memory():
    points, program = np.random.default_rng(3).normal(size=(6, 40)).astype(np.float32), Program(stepped, 0)
    whole, shares = program(points), {}
    full, one = program.takes(points), program.takes(points[:1])
    for budget in map(memory.needed, (full, full // 2, one * 2 // 3, one // 4)):
        said = []
        machine = Machine(None, memory.Budget(budget, said.append), None)
        found = in_parts(lambda part, of: program(part), points, machine)
        np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-5 * np.abs(whole).max())
        choice = said[-1]
        assert choice.takes <= budget * 3 // 4 and str(choice.examples) in str(choice) and len(said) == 1
        shares[budget] = choice.examples, choice.points
    everything, half, *less = shares.values()
    assert everything == (6, None) and 2 <= half[0] <= 3 and half[1] is None
    assert [examples for examples, _ in less] == [1, 1] and 30 > less[0][1] > less[1][1] >= 1
    with pytest.raises(ValueError, match=r"memory of 1000 B is too small: one example needs [0-9.]+ KiB"):
        in_parts(lambda part, of: program(part), points, Machine(None, 1000, None))


def test_dense_hessians_are_computed_in_chunks_of_their_columns():
    x = np.random.default_rng(4).normal(size=(2, 40)).astype(np.float32)
    measure = lambda x: geometry.all_principal_curvatures(lambda z: convolved(z)[0], x)[0]
    said, needs = [], geometry.memory_of(measure, x[:1])
    found = geometry.sweep(measure, x, memory=memory.Budget(needs * 8 // 9, said.append))
    assert said[-1].averaged == 39 and said[-1].points < 39
    np.testing.assert_allclose(found, geometry.sweep(measure, x), atol=1e-4 * np.abs(found).max())


def test_what_is_told_of_a_part_names_images_of_the_batch():
    told, said = [], []
    make = functools.partial(attack.manipulation, E, surrogate=smooth.none(), steps=2, judge_every=1)
    make(memory=memory.Budget("1MB", said.append))(model, PIXELS, goal(), key=KEY)
    attacked = make(memory=said[-1].takes * 8 // 9)
    attacked(model, PIXELS, goal(), key=KEY, callback=told.append)
    seen = np.concatenate([np.arange(5)[p.images] for p in told if p.step % 2 == 0])
    assert seen.tolist() == [0, 1, 2, 3, 4] and {p.steps for p in told} == {told[-1].step}
    assert all(len(p.loss) == p.images.stop - p.images.start for p in told)
    sums = PIXELS.sum((1, 2, 3))
    lost = lambda x: model(x) + jnp.log(x.sum() - np.sort(sums)[:2].mean())
    with pytest.raises(attack.NonFiniteError, match=f"at the clean image {sums.argmin()} "):
        attacked(lost, PIXELS, goal(), key=KEY, labels=jnp.zeros(5, int))


def test_the_program_that_is_asked_is_the_one_that_runs():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None)
    measure = lambda x: jnp.sin(x) @ jnp.cos(x).T
    try:
        geometry.sweep(measure, np.ones((4, 7, 9), np.float32), memory="1MB")
        assert len(compiled) == 1
        del compiled[:]
        geometry.sweep(measure, np.ones((64, 7, 9), np.float32), memory=8000)
        assert len(compiled) <= 3
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_memory_is_a_positive_number_of_bytes_that_is_there(monkeypatch):
    for text, size in (("2GiB", 2**31), ("2 gib", 2**31), ("1.5MB", 1500000), ("512 KiB", 2**19), ("7", 7), (9, 9)):
        assert memory.parsed(text) == size
    for wrong in (0, -1, "0GiB", "2 gigs", "-2GiB", "GiB", "", True, 2.5, "1e3"):
        with pytest.raises(ValueError, match='a positive number of bytes, or a text such as "2GiB"'):
            attack.manipulation(E, memory=wrong)
    monkeypatch.setattr(memory, "available", lambda: 24 * 2**30)
    with pytest.raises(ValueError, match=r"memory of 40.0 GiB is more than is free: at most 24.0 GiB fits"):
        geometry.sweep(jnp.sin, PIXELS, memory="40GiB")
