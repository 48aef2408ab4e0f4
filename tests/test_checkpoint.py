"""What is saved comes back, bit for bit; what is incomplete is never taken for a copy."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checks import full_disk
from xmanip_jax import checkpoint, train


class State(NamedTuple):
    params: Any
    step: Any


def tree():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16), "mask": np.array([True])}
    return {
        "state": State(params, 7),
        "optimiser": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"w": params["w"]}),
        "key": jax.random.key(3),
        "keys": [jax.random.split(jax.random.key(4, impl="rbg"), 2)],
        "numbers": (np.float32(1.5), 2.5, True, np.int64(2**40)),
        "empty": {"none": None},
    }


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if checkpoint._is_key(x):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_tree_comes_back_like_another(tmp_path):
    t = tree()
    checkpoint.save(tmp_path / "deep/run", t)
    like = jax.tree.map(lambda x: x * 0 if isinstance(x, jax.Array) and x.dtype == jnp.float32 else x, t)
    got = checkpoint.load(tmp_path / "deep/run", like)
    equal(got, t)
    assert type(got["state"].step) is int and type(got["numbers"][2]) is bool
    assert isinstance(got["state"].params["w"], jax.Array)
    assert isinstance(got["state"].params["mask"], np.ndarray)
    assert jax.random.uniform(got["key"]) == jax.random.uniform(t["key"])


def test_a_tree_comes_back_without_a_pattern(tmp_path):
    t = tree()
    checkpoint.save(tmp_path / "run", t)
    got = checkpoint.load(tmp_path / "run")
    params = got["state"]["params"]
    np.testing.assert_array_equal(params["w"], t["state"].params["w"])
    assert type(params["w"]) is np.ndarray and params["b"].dtype == jnp.bfloat16
    assert got["state"]["step"] == 7 and got["numbers"][3] == 2**40
    equal(got["key"], t["key"])
    equal(got["keys"][0], t["keys"][0])


def test_shapes_alone_serve_as_a_pattern(tmp_path):
    t = {"w": jnp.ones((2, 3)), "key": jax.random.key(3)}
    checkpoint.save(tmp_path / "run", t)
    got = checkpoint.load(tmp_path / "run", jax.eval_shape(lambda: t))
    equal(got, t)
    assert got["w"].sharding == t["w"].sharding


def test_one_array_is_a_tree(tmp_path):
    checkpoint.save(tmp_path / "run", jnp.arange(3))
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "run"), [0, 1, 2])
    equal(checkpoint.load(tmp_path / "run", jnp.zeros(3, jnp.int32)), jnp.arange(3))


def test_a_missing_orbax_names_its_extra():
    code = "import sys; sys.modules['orbax'] = None; import xmanip_jax.checkpoint"
    root = pathlib.Path(checkpoint.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stderr.endswith("checkpoint needs orbax: pip install 'xmanip-jax[checkpoint]'\n")


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("run", {"a": np.ones(1)})
    equal(checkpoint.load(tmp_path / "run"), {"a": np.ones(1)})


def test_overwriting_is_asked_for_and_keeps_one_complete_copy(tmp_path, monkeypatch):
    path = tmp_path / "run"
    checkpoint.save(path, {"a": np.ones(1)})
    with pytest.raises(checkpoint.CheckpointError, match="run is there already; pass overwrite=True"):
        checkpoint.save(path, {"a": np.zeros(1)})

    def killed(*arguments):
        assert (path / "commit_success.txt").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.ocp, "save", killed)
        checkpoint.save(path, {"a": np.zeros(1)}, overwrite=True)
    assert checkpoint.load(path)["a"] == 1
    checkpoint.save(path, {"a": np.full(1, 2.0)}, overwrite=True)
    assert checkpoint.load(path)["a"] == 2
    assert os.listdir(tmp_path) == ["run"]
    path.rename(tmp_path / "run.new")  # killed between the two renames
    assert checkpoint.load(path)["a"] == 2


def test_missing_and_incomplete_copies_are_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"run is not there$"):
        checkpoint.load(tmp_path / "run")
    checkpoint.save(tmp_path / "run", {"a": np.ones(1)})
    (tmp_path / "run/commit_success.txt").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"run is incomplete: its save was interrupted$"):
        checkpoint.load(tmp_path / "run")
    (tmp_path / "other.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="other is incomplete"):
        checkpoint.load(tmp_path / "other")


def test_damage_is_reported_in_one_line(tmp_path):
    checkpoint.save(tmp_path / "run", {"a": np.ones(1000)})
    for file in (tmp_path / "run").rglob("d/*"):
        file.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="run cannot be read: ") as error:
        checkpoint.load(tmp_path / "run", {"a": np.ones(1000)})
    assert "\n" not in str(error.value)
    (tmp_path / "run/state/_METADATA").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="run cannot be read: "):
        checkpoint.load(tmp_path / "run")


@pytest.mark.parametrize("change, message", [
    (lambda t: {**t, "w": jnp.ones((2, 4))}, r"differs: w is float32\[2, 3\], wanted float32\[2, 4\]$"),
    (lambda t: {**t, "w": jnp.ones((2, 3), jnp.float16)}, r"w is float32\[2, 3\], wanted float16\[2, 3\]$"),
    (lambda t: {**t, "new": jnp.ones(1)}, r"new is nothing, wanted float32\[1\]$"),
    (lambda t: {"w": t["w"]}, r"layer/b is float32\[2\], wanted nothing; layer/n is int64\[\], "),
    (lambda t: {**t, "w": jax.random.key(0)}, r"w is float32\[2, 3\], wanted nothing; w/prng_key_threefry"),
    (lambda t: {str(i): jnp.ones(1) for i in range(9)}, r"and 9 more$"),
])
def test_differing_structures_are_named(tmp_path, change, message):
    t = {"w": jnp.ones((2, 3)), "layer": {"b": jnp.ones(2), "n": 3}}
    checkpoint.save(tmp_path / "run", t)
    with pytest.raises(checkpoint.CheckpointError, match=message) as error:
        checkpoint.load(tmp_path / "run", change(t))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad, message", [
    ({}, "without leaves"), ({"a": {"b": "text"}}, "leaf a/b is no array but str"),
    ({"a": jnp.ones((0, 3))}, r"leaf a has no elements, shape \(0, 3\)"), (None, "without leaves")])
def test_what_cannot_be_saved_is_named(tmp_path, bad, message):
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.save(tmp_path / "run", bad)
    assert not os.listdir(tmp_path)


def test_steps_are_kept_and_found(tmp_path):
    folder = tmp_path / "steps"
    assert checkpoint.latest_step(folder) is None
    with pytest.raises(checkpoint.CheckpointError, match=r"steps holds no complete step$"):
        checkpoint.load_step(folder)
    for step in (9, 10, 100):
        checkpoint.save_step(folder, step, {"a": np.full(1, step), "key": jax.random.key(step)})
    assert sorted(os.listdir(folder)) == ["10", "100"]
    assert checkpoint.latest_step(folder) == 100
    assert checkpoint.load_step(folder)["a"] == 100
    like = {"a": np.zeros(1, int), "key": jax.random.key(0)}
    equal(checkpoint.load_step(folder, 10, like)["key"], jax.random.key(10))
    for step in (50, 100):
        with pytest.raises(checkpoint.CheckpointError, match=f"step {step} is not after the latest, 100"):
            checkpoint.save_step(folder, step, {"a": np.ones(1)})
    with pytest.raises(checkpoint.CheckpointError, match="9 is not there"):
        checkpoint.load_step(folder, 9)
    with pytest.raises(ValueError, match="keep=0"):
        checkpoint.save_step(folder, 101, {"a": np.ones(1)}, keep=0)


def test_an_interrupted_save_leaves_the_previous_step(tmp_path):
    for step in (1, 2):
        checkpoint.save_step(tmp_path, step, {"a": np.full(1, step)})
    (tmp_path / "3.orbax-checkpoint-tmp/state").mkdir(parents=True)
    (tmp_path / "3.orbax-checkpoint-tmp/commit_success.txt").write_text("killed before its renaming")
    (tmp_path / "4/state").mkdir(parents=True)  # a copy that was cut off has no commit file
    (tmp_path / "notes").mkdir()
    assert checkpoint.latest_step(tmp_path) == 2
    assert checkpoint.load_step(tmp_path)["a"] == 2
    with pytest.raises(checkpoint.CheckpointError, match="4 is incomplete"):
        checkpoint.load_step(tmp_path, 4)
    for step in (3, 4):
        checkpoint.save_step(tmp_path, step, {"a": np.full(1, step)})
    assert checkpoint.load_step(tmp_path)["a"] == 4


def test_a_full_disk_leaves_the_previous_copy_and_nothing_else(tmp_path):
    first, second = {"a": np.ones(10)}, {"a": np.ones(20)}
    checkpoint.save_step(tmp_path, 1, first)
    checkpoint.save(tmp_path / "copy", first)
    with full_disk():
        for save in (lambda: checkpoint.save_step(tmp_path, 2, second),
                     lambda: checkpoint.save(tmp_path / "copy", second, overwrite=True)):
            with pytest.raises(checkpoint.CheckpointError, match=r"cannot be written: .*No space left") as error:
                save()
            assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["1", "copy"]
    equal(checkpoint.load_step(tmp_path), first)
    equal(checkpoint.load(tmp_path / "copy"), first)
    checkpoint.save_step(tmp_path, 2, second)


def test_a_training_of_another_architecture_is_named(tmp_path):
    optimizer = optax.adam(1e-3)
    begin = lambda *shape: train.begin({"conv": {"kernel": jnp.ones(shape)}}, {}, optimizer)
    checkpoint.save_step(tmp_path, 5, begin(3, 3, 1, 4))
    with pytest.raises(checkpoint.CheckpointError, match=r"5 differs: .*conv/kernel is float32\[3, 3, 1, 4\], wanted"):
        checkpoint.load_step(tmp_path, like=begin(3, 3, 1, 8))


@pytest.mark.slow
def test_a_killed_process_leaves_a_readable_step(tmp_path):
    code = textwrap.dedent("""
        import sys, numpy as np
        from xmanip_jax import checkpoint
        for step in range(10**6):
            checkpoint.save_step(sys.argv[1], step, {"a": np.full(200_000, step)})
    """)
    for pause in (0.05, 0.13, 0.21):
        folder = tmp_path / f"{pause}"
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)
        while checkpoint.latest_step(folder) is None:
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
        assert (checkpoint.load_step(folder)["a"] == checkpoint.latest_step(folder)).all()
