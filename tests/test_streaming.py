"""Folders that are larger than memory: only what is asked for is read, training over them is training over arrays."""

import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from xmanip_jax import data, train
from xmanip_jax.train.reading import ahead

OPTIMIZER = optax.adam(1e-2)
NET = SimpleNamespace(apply=lambda w, state, x: x.mean((0, 1)) @ w)


def write(folder, count, side=8):
    """A folder of noise in two classes."""
    random = np.random.default_rng(0)
    for i in range(count):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{i:05}.png", compress_level=1)
    return folder


def trained(images, labels, *, start=None, steps=6, **told):
    run = train.fit(OPTIMIZER, batch=4, steps=steps, every=2, devices=jax.devices()[:1])
    return run(NET, start or train.begin(jnp.ones((3, 2)), {}, OPTIMIZER, seed=1), images, labels, **told)


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    images, read, one = data.open_folder(write(tmp_path, 12)), [], data.read_image
    monkeypatch.setattr(data, "read_image", lambda path, size: read.append(path) or one(path, size))
    assert images.shape == (12, 8, 8, 3) and len(images) == 12 and images.classes == ("a", "b") and not read
    assert images.labels.tolist() == [0] * 6 + [1] * 6 and images.names[0] == "a/00000.png"
    few = images.take([7, 0])
    assert few.labels.tolist() == [1, 0] and few.sizes().tolist() == images.sizes()[[7, 0]].tolist() and not read
    np.testing.assert_array_equal(few[::-1], images[[0, 7]])
    assert len(read) == 4 and few[0].shape == (8, 8, 3)
    np.testing.assert_array_equal(images, data.read_folder(tmp_path).images)
    np.testing.assert_allclose(images.grey()[3], images[3].mean(-1, keepdims=True))


def test_what_a_folder_refuses(tmp_path):
    write(tmp_path, 4)
    Image.new("RGB", (5, 8)).save(tmp_path / "b" / "wide.png")
    images = data.open_folder(tmp_path)
    with pytest.raises(data.ImageError, match=r"a/00000\.png is \(8, 8\), b/wide\.png is \(8, 5\); pass size="):
        images[-2:]
    with pytest.raises(IndexError):
        images[9]
    (tmp_path / "b" / "wide.png").unlink()
    images, _ = data.open_folder(tmp_path), (tmp_path / "a" / "00002.png").write_bytes(b"no image")
    with pytest.raises(data.ImageError, match=r"a/00002\.png: not an image"):  # it comes from the reading thread
        trained(images, images.labels)


def test_training_over_a_folder_is_training_over_its_array_and_resumes_at_the_step(tmp_path):
    images, kept = data.open_folder(write(tmp_path, 10)), {}
    whole = trained(images, images.labels, keep=lambda t: kept.update({int(t.step): t}))
    np.testing.assert_array_equal(whole.params, trained(np.asarray(images), images.labels).params)
    np.testing.assert_array_equal(whole.params, trained(images, images.labels, start=kept[4]).params)
    assert np.abs(whole.params - 1).max() > 1e-2


def test_memory_does_not_grow_with_the_folder(tmp_path):
    def peak(count):
        images = data.open_folder(write(tmp_path / str(count), count, side=64))
        tracemalloc.start()
        trained(images, images.labels)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(16), peak(400)  # 400 images take 19 MiB, what compiling allocates is the same
    assert many < few + 4 * 2**20


def test_what_comes_next_is_read_ahead_and_errors_wait_their_turn():
    read = []

    def one(i):
        read.append(i)
        if i == 3:
            raise ValueError("three")
        return i

    found = ahead(one, range(9), depth=2)
    assert next(found) == (0, 0) and max(read, default=0) <= 2
    assert next(found) == (1, 1) and next(found) == (2, 2)
    with pytest.raises(ValueError, match="three"):
        next(found)
