"""The images that train.py reads, and what it says of their labels: a folder's subfolders, or its index."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common import training, training_data
from xmanip_jax import data

pytestmark = pytest.mark.promotes("ranks", "types")

GREY = {"cat": 40, "cup": 90, "öl": 140}
OWN = SimpleNamespace(name="net.network", input_shape=(8, 8, 3), num_classes=3, classes=("öl", "cat", "cup"))


def fill(folder, classes, count):
    """Grey images of each class, the shade of which is the class's."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (12, 10), (GREY[name],) * 3).save(folder / name / f"bild {i}.png")


def read(folder, own=OWN, **options):
    return training_data.read(training.Config(images=folder, model="net.py:network", **options), own)


def shades(found):
    """{label: shade} of both parts, which agree."""
    of = [dict(zip(labels.tolist(), (255 * images[:, 0, 0, 0]).round().astype(int).tolist(), strict=True))
          for images, labels in ((found.images, found.labels), (found.test_images, found.test_labels))]
    assert of[0] == of[1]
    return of[0]


def test_subfolders_are_classes_by_the_networks_names(tmp_path):
    fill(tmp_path / "photos", GREY, 7)
    found = read(tmp_path / "photos")
    assert shades(found) == {0: 140, 1: 40, 2: 90} and found.images.shape == (15, 8, 8, 3)
    assert len(found.test_images) == 6 and "öl (5 and 2), cat (5 and 2), cup (5 and 2); every fifth" in found.said
    assert f"the subfolders of {tmp_path / 'photos'}" in found.said
    few = read(tmp_path / "photos", train_images=4, quick=True, count=2)
    np.testing.assert_array_equal(np.bincount(few.labels), [2, 1, 1])
    assert len(few.test_images) == 2


def test_or_in_their_order_where_it_has_none(tmp_path):
    fill(tmp_path, GREY, 2)
    assert shades(read(tmp_path, SimpleNamespace(**vars(OWN) | {"classes": ()}))) == {0: 40, 1: 90, 2: 140}


@pytest.mark.parametrize("held", ["test", "val", "validation"])
def test_a_folder_for_each_part(held, tmp_path):
    """Classes are those of train/, though the other lacks one."""
    fill(tmp_path / "train", GREY, 3)
    fill(tmp_path / held, ["cup", "öl"], 2)
    found = read(tmp_path, SimpleNamespace(**vars(OWN) | {"classes": ()}))
    assert dict(zip(found.test_labels.tolist(), (255 * found.test_images[:, 0, 0, 0]).round(), strict=True)) == {
        1: 90, 2: 140}
    assert len(found.images) == 9 and f"{held}/ judges" in found.said


def test_an_index_and_a_network_of_one_channel(tmp_path):
    for i in range(4):
        Image.new("L", (9, 9), 10 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "index.csv").write_text("image,class_index\n" + "".join(f"{i}.png,{i // 2}\n" for i in range(4)))
    found = read(tmp_path, SimpleNamespace(**vars(OWN) | {"input_shape": (8, 8, 1), "classes": ()}))
    assert found.images.shape == (2, 8, 8, 1) and found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(255 * found.test_images[:, 0, 0, 0], [10, 30], rtol=1e-5)
    assert "class_index of" in found.said and "class 0 (1 and 1), class 1 (1 and 1)" in found.said


def strange(folder):
    fill(folder, ["cat"], 2)
    (folder / "cat").rename(folder / "dog")


def flat(folder):
    Image.new("L", (9, 9)).save(folder / "a.png")


def indexed(folder):
    flat(folder)
    Image.new("L", (9, 9)).save(folder / "b.png")
    (folder / "index.csv").write_text("image,class_index\na.png,3\nb.png,3\n")


def apart(folder):
    fill(folder / "train", ["cat"], 2)
    fill(folder / "val", ["cup"], 2)


def unlike(folder):
    fill(folder / "train", ["cat"], 2)
    (folder / "test").mkdir()
    flat(folder / "test")


WRONG = {
    "no labels": (flat, "has no labels to train on: sort its images into a subfolder for each class, or add an index"),
    "one of each": (lambda folder: fill(folder, GREY, 1), "has one image of each class: training and judging take two"),
    "fewer classes": (strange, r"net.network has 3 classes \(öl, cat, cup\), .* has 1 subfolders: give it one for"),
    "a class too many": (indexed, r"net.network has 3 classes, .*index.csv has class 3: they begin at 0"),
    "a class that train lacks": (apart, r"val/cup is a class that .*train lacks"),
    "labels of another kind": (unlike, "have labels of the same kind: a subfolder for each class in both, or an"),
    "no folder": (lambda folder: folder.rmdir(), "no such folder"),
    "nothing": (lambda folder: None, "no image in it, a file that ends in .png, .jpg"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name, tmp_path):
    make, says = WRONG[name]
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)
    with pytest.raises((ValueError, data.DatasetError), match=says) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("options", "says"), [
    ({"images": Path("a"), "dataset": "mnist", "model": "a.py:f"}, "choose one of --images and --dataset"),
    ({"images": Path("a")}, "--images go with the network that takes them: --model FILE.py:NAME, or --network"),
    ({"network": "net"}, "unknown network 'net'; known: squeezenet1_1,"),
    ({"network": "vgg16", "model": "a.py:f"}, "choose one of --network and --model"),
    ({"network": "vgg16", "defence": "lcnn"}, "lcnn trains a network of its own kind: leave --network out"),
])
def test_options_that_do_not_go_together(options, says):
    with pytest.raises(ValueError, match=says):
        training.checked(training.Config(**options))
    assert training.checked(training.Config()).dataset == "mnist"
