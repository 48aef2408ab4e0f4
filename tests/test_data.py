"""Images and datasets: exact pixels of known files, and errors that say what to do."""

import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from xmanip_jax import data

SHARED = data.data_dir()
needs_data = pytest.mark.skipif(SHARED is None, reason="no data folder: set XMANIP_DATA")
needs_sets = pytest.mark.skipif(not SHARED or not (SHARED / "tfds").is_dir(), reason="no prepared tfds sets")


def test_data_dir_prefers_the_environment(monkeypatch, tmp_path):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("XMANIP_DATA", raising=False)
    assert data.data_dir() is None
    (tmp_path / "shared/data").mkdir(parents=True)
    assert data.data_dir().resolve() == (tmp_path / "shared/data").resolve()
    monkeypatch.setenv("XMANIP_DATA", str(tmp_path))
    assert data.data_dir() == tmp_path
    monkeypatch.setenv("XMANIP_DATA", str(tmp_path / "absent"))
    with pytest.raises(data.DatasetError, match=r"XMANIP_DATA names no folder: .*absent"):
        data.data_dir()


def test_importing_needs_numpy_only():
    code = """
import sys, xmanip_jax.data
print([m for m in ('jax', 'PIL', 'tensorflow_datasets') if m in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=pathlib.Path(data.__file__).parent.parent)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("mode, colour, expected", [
    ("RGB", (255, 0, 51), (1, 0, 0.2)),
    ("L", 51, (0.2, 0.2, 0.2)),
    ("1", 1, (1, 1, 1)),
    ("RGBA", (255, 0, 0, 0), (1, 1, 1)),      # transparent: the white below
    ("RGBA", (255, 0, 0, 255), (1, 0, 0)),
    ("LA", (0, 51), (0.8, 0.8, 0.8)),         # a fifth of black over white
    ("I;16", 51 * 256 + 7, (0.2, 0.2, 0.2)),
])
def test_read_image_converts_to_rgb(tmp_path, mode, colour, expected):
    Image.new(mode, (3, 2), colour).save(tmp_path / "a.png")
    x = data.read_image(tmp_path / "a.png")
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.broadcast_to(np.float32(expected), (2, 3, 3)), atol=1e-6)


def test_read_image_orders_rows_columns_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png"), pixels.astype(np.float32) / 255)


def test_read_image_applies_the_orientation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png") * 255, np.rot90(pixels, -1))


def test_read_image_scales_the_shorter_side_and_cuts_the_centre(tmp_path):
    columns = (np.arange(40) // 10 * 60).astype(np.uint8)  # four bands of 10 columns, 20 rows
    Image.fromarray(np.broadcast_to(columns, (20, 40))).save(tmp_path / "a.png")
    x = data.read_image(tmp_path / "a.png", 10) * 255  # 10 x 20, of which the columns 5 to 15 remain
    assert x.shape == (10, 10, 3)
    np.testing.assert_allclose(x[:, [1, 3, 6, 8], 0], np.broadcast_to([60, 60, 120, 120], (10, 4)), atol=1)


def test_scaling_down_does_not_alias(tmp_path):
    stripes = np.broadcast_to(np.arange(64) % 2 * 255, (64, 64)).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "a.png")
    np.testing.assert_allclose(data.read_image(tmp_path / "a.png", 8), 0.5, atol=0.05)


@pytest.mark.parametrize("content, reason", [
    (None, "no such file"), (b"not an image", "not an image that pillow reads"), (b"cut", "")])
def test_unreadable_images_are_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content == b"cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif content:
        path.write_bytes(content)
    with pytest.raises(data.ImageError, match=f"a.png: {reason}") as error:
        data.read_image(path)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(data.ImageError, match="directory"):
        data.read_image(tmp_path)
    with pytest.raises(data.ImageError, match="size=0"):
        data.read_image(tmp_path, 0)


def test_read_folder_sorts_filters_and_limits(tmp_path):
    for i, name in enumerate(["c.png", "a.png", "b.JPG"]):
        Image.new("L", (4, 4), i).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert data.read_folder(tmp_path).names == ["a.png", "b.JPG", "c.png"]
    assert data.read_folder(tmp_path, pattern="*.png", limit=1).names == ["a.png"]
    with pytest.raises(data.DatasetError, match=r"no image matches '\*.gif'"):
        data.read_folder(tmp_path, pattern="*.gif")
    with pytest.raises(data.DatasetError, match="no such folder"):
        data.read_folder(tmp_path / "absent")
    Image.new("L", (5, 4)).save(tmp_path / "d.png")
    with pytest.raises(data.ImageError, match=r"a.png is \(4, 4\), d.png is \(4, 5\); pass size="):
        data.read_folder(tmp_path)
    assert data.read_folder(tmp_path, 4).images.shape == (4, 4, 4, 3)


def test_read_folder_takes_labels_from_an_index(tmp_path):
    for name in ("a.png", "b.png", "unlisted.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    index = tmp_path / "index.csv"
    index.write_text("image,class_index\nb.png,7\na.png,3\n")
    assert data.read_folder(tmp_path).names == ["a.png", "b.png"]
    np.testing.assert_array_equal(data.read_folder(tmp_path).labels, [3, 7])
    index.write_text("image,class_index\nb.png,seven\n")
    with pytest.raises(data.DatasetError, match=r"index.csv, line 2: class_index is no class"):
        data.read_folder(tmp_path)
    index.write_text("file,class\nb.png,7\n")
    with pytest.raises(data.DatasetError, match="needs the columns image and class_index"):
        data.read_folder(tmp_path)
    index.write_text("image,class_index\nabsent.png,7\n")
    with pytest.raises(data.ImageError, match=r"absent.png: no such file"):
        data.read_folder(tmp_path)


def draw(path, value=0, mode="L", size=(4, 4), **options):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, value).save(path, **options)


def test_subfolders_are_classes(tmp_path):
    """torchvision's ImageFolder; a limit takes of each class in turn."""
    for name in ("cup/b.png", "cup/a.png", "cat/2.png", "cat/.hidden.png", "Zebra/deep/1.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw(tmp_path / name)
    files = data.image_files(tmp_path)
    assert files.classes == ("Zebra", "cat", "cup")
    assert files.names == ["Zebra/deep/1.png", "cat/2.png", "cup/a.png", "cup/b.png"]
    names, images, labels = data.read_folder(tmp_path, limit=3)
    assert names == ["Zebra/deep/1.png", "cat/2.png", "cup/a.png"] and images.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(labels, [0, 1, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DatasetError, match=r"empty: no image in it, a file that ends in \.png, .*is a class"):
        data.image_files(tmp_path)
    draw(tmp_path / "own.png")
    assert data.read_folder(tmp_path).names == ["own.png"] and data.read_folder(tmp_path).labels is None


@pytest.mark.parametrize(("text", "says"), [
    ("", "needs the columns image and class_index, has None"),
    ("image,class_index\n", "lists no image"),
    ("image,class_index\na.png,-1\n", "line 2: class_index is no class .-1 is negative"),
    ("image,class_index\na.png\n", "line 2: class_index is no class"),
    ("image,class_index\n\xfc.png,1\n".encode("latin-1"), "index.csv is not in UTF-8: save it so"),
])
def test_an_index_that_does_not_fit(text, says, tmp_path):
    (tmp_path / "index.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(data.DatasetError, match=says):
        data.image_files(tmp_path)
    (tmp_path / "index.csv").write_text("\ufeffimage,class_index\na.png,1\n")  # as spreadsheets save it
    assert data.image_files(tmp_path).labels.tolist() == [1]


def test_an_image_of_too_many_pixels_and_a_stripe(tmp_path, monkeypatch):
    draw(tmp_path / "a.png", size=(1, 20_000))
    assert data.read_image(tmp_path / "a.png", 8).shape == (8, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)
    with pytest.raises(data.ImageError, match=r"a.png: more than 0 million pixels; scale it down first"):
        data.read_image(tmp_path / "a.png", 8)


@needs_data
def test_read_folder_reads_the_shared_photographs():
    names, images, labels = data.read_folder(SHARED / "nips2017", limit=3)
    assert names[0] == "000b7d55b6184b08.png"
    assert images.shape == (3, 299, 299, 3)
    assert labels.tolist() == [388, 576, 326]
    data.check_pixels(images)


def test_photograph():
    pytest.importorskip("skimage")
    x = data.photograph("chelsea", 64)
    assert x.shape == (64, 64, 3)
    assert data.photograph("coffee").shape == (400, 600, 3)
    with pytest.raises(data.ImageError, match=r"no photograph 'dog', but .*chelsea"):
        data.photograph("dog")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"xmanip_jax.data needs skimage: pip install 'xmanip-jax\[demo\]'"):
        data.photograph()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"data needs tensorflow_datasets: .* 'xmanip-jax\[data\]'"):
        data.load_dataset("mnist", "test")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'xmanip-jax\[data\]'):
        data.read_image("a.png")


@needs_sets
def test_load_dataset_keeps_order_and_range(caplog):
    with caplog.at_level(logging.WARNING):
        images, labels = data.load_dataset("cifar10", "test", limit=20)
    assert not caplog.records
    assert images.shape == (20, 32, 32, 3) and images.dtype == np.float32 and labels.dtype == np.int32
    assert images.min() >= 0 and 0.99 < images.max() <= 1
    part, part_labels = data.load_dataset("cifar10", "test[5:12]")
    np.testing.assert_array_equal(part, images[5:12])
    np.testing.assert_array_equal(part_labels, labels[5:12])
    data.check_pixels(images)
    data.check_pixels(data.load_dataset("mnist", "train[:3]")[0])


@needs_sets
def test_the_prepared_sets_are_complete():
    source = data.require("tensorflow_datasets", "data").data_source
    for name, train in (("mnist", 60000), ("cifar10", 50000)):
        for split, n in (("train", train), ("test", 10000)):
            assert len(source(name, split=split, data_dir=SHARED / "tfds", download=False)) == n


@pytest.mark.slow
@needs_sets
def test_the_whole_test_split_of_cifar10():
    images, labels = data.load_dataset("cifar10", "test")
    assert images.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 1000))


def test_a_set_that_is_not_there_comes_with_two_ways_out(tmp_path, caplog):
    pytest.importorskip("tensorflow_datasets")
    message = r"not prepared as array_record in .*t\.data_source.*XMANIP_DATA"
    with pytest.raises(data.DatasetError, match=message) as e:
        data.load_dataset("cifar10:3.0.2", "test", data_dir=tmp_path)
    assert "\n" not in str(e.value) and str(e.value).endswith("tfds/cifar10")
    with pytest.raises(data.DatasetError, match=r"knows no set 'nosuchset'$"):
        data.load_dataset("nosuchset", "test", data_dir=tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("name", ["mnist", "cifar10", "mnist:3.0.1"])
@pytest.mark.parametrize("default", [False, True], ids=["folder", "default folder"])
def test_a_set_named_with_or_without_its_version_is_missing_alike(name, default, tmp_path, monkeypatch):
    constants = pytest.importorskip("tensorflow_datasets.core.constants")
    monkeypatch.delenv("XMANIP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(data.DatasetError, match=f"^{name} is not prepared as array_record"):
        data.load_dataset(name, "test", data_dir=None if default else tmp_path)


@needs_sets
def test_bad_splits_are_named():
    with pytest.raises(data.DatasetError, match=r"cifar10: Unknown split 'tset'"):
        data.load_dataset("cifar10", "tset")
    with pytest.raises(data.DatasetError, match=r"cifar10: .*20000"):
        data.load_dataset("cifar10", "test[:20000]")
    with pytest.raises(data.DatasetError, match="the split is empty"):
        data.load_dataset("cifar10", "test", limit=0)


@pytest.mark.parametrize("images, message", [
    (np.full((2, 2, 3), np.nan), r"found nan at \(0, 0, 0\)"),
    (np.float32([[[0, 0.5, -0.1]]]), r"found -0.1\S* at \(0, 0, 2\)"),
    (np.full((1, 2, 2, 3), 200.0), r"found 200.0 at \(0, 0, 0, 0\)"),
    (np.zeros((2, 2, 3), np.uint8), "found uint8; divide bytes by 255"),
    (np.zeros((4, 4)), r"found shape \(4, 4\)"),
    (np.zeros((0, 4, 4, 3)), r"found shape \(0, 4, 4, 3\)"),
    (np.zeros((3, 4, 4)), r"1 or 3 channels, found shape \(3, 4, 4\)"),
])
def test_check_pixels_names_what_it_found(images, message):
    with pytest.raises(data.ImageError, match=message):
        data.check_pixels(images)


def test_check_pixels_returns_its_argument():
    x = np.ones((2, 2, 1), np.float32)
    assert data.check_pixels(x) is x
