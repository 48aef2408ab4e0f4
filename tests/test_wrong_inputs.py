"""Wrong inputs of the five jobs: each ends in one line that says what to do, before anything is computed or lost."""

import errno
import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import cost
import curvature
import judge
import manipulate
import train
from common import runs
from xmanip_jax import data

pytestmark = pytest.mark.promotes("ranks", "types")

JOBS = {"manipulate": manipulate, "judge": judge, "curvature": curvature, "cost": cost, "train": train}
FILE = """
import numpy as np
W = np.ones((192, 3), "float32")
apply = lambda p, x: x.ravel() @ p
of = lambda **changed: {"apply": apply, "params": W, "input_shape": (8, 8, 3)} | changed
network = lambda: of(classes=["a", "b", "c"])
raises = lambda: {}["weights"]
nothing = lambda: None
batch = lambda: of(apply=lambda p, x: x.reshape(len(x), -1) @ p)
nan = lambda: of(params=W * np.nan)
names = lambda: of(classes=["a", "b"])
small = lambda: of(params=W[:48], input_shape=(4, 4, 3))
tall = lambda: of(input_shape=(8, 6, 3))
several = lambda: of(apply=lambda p, x: (x, x))
strange = lambda: of(weights=3)
function = lambda: {"model": lambda x: apply(W, x), "input_shape": (8, 8, 3)}
"""
MODELS = {  # of net.py
    "raises": r"raises\(\) raises KeyError in line 7: 'weights'", "nothing": "returns a NoneType; a dictionary with",
    "batch": r"takes a batch, a function of one example is wanted: lambda x: f\(x\[None\]\)\[0\]",
    "nan": "weights are NaN or infinite: params", "names": "classes says 2, the network returns 3 logits",
    "tall": r"input_shape is \(8, 6, 3\); .* of square images", "several": "returns a tuple for one example, its",
    "strange": "unknown weights; known: model, apply", "none": "net.py defines no none; it defines",
}
IMAGES = {
    "nowhere": "nowhere: no such folder", "net.py": "net.py: no such folder",
    "empty": "empty: no image in it, a file that ends in .png", "text": "a.png: not an image that pillow reads; remove",
    "cut": "a.png: image file is truncated.*; restore or remove it", "deep": "a.tif: 32-bit pixels .*, 8 or 16 have",
    "index": "index.csv: needs the columns image and class_index, has", "lost": "b.png: no such file",
}
WEIGHTS = {
    "none.safetensors": "none.safetensors: no such file", "text.safetensors": "text.safetensors: damaged or truncated",
    "net.py": "net.py: unknown suffix '.py', expected one of .safetensors, .pth, .pt",
    "other.safetensors": "other.safetensors does not fit: missing params; unexpected x",
}
OWN, PHOTOS = ["--model", "net.py:network"], ["--images", "photos"]
CASES = [  # each wrong network at two of the five jobs, each wrong folder at two of the four that take one
    *((job, ["--model", f"net.py:{name}"], says) for i, (name, says) in enumerate(MODELS.items())
      for job in ([*JOBS] * 2)[i % 5:i % 5 + 2]),
    *((job, [*OWN, "--images", name], says) for i, (name, says) in enumerate(IMAGES.items())
      for job in (["manipulate", "judge", "curvature"] * 2)[i % 3:i % 3 + 2]),
    *((job, [*OWN, "--weights", name], says) for i, (name, says) in enumerate(WEIGHTS.items())
      for job in ([*JOBS][:4] * 2)[i % 4:i % 4 + 2]),
    *((job, [*OWN, *options], says) for job, options, says in (
        ("manipulate", [*PHOTOS, "--epsilon", "inf"], "--epsilon must be finite, got inf"),
        ("manipulate", [*PHOTOS, "--epsilon", "nan"], "--epsilon must be positive, got nan"),
        ("manipulate", ["--constraint", "box", "--epsilon", "1"], "--constraint box takes no --epsilon"),
        ("manipulate", ["--constraint", "l2"], "--constraint l2 takes an --epsilon"),
        ("manipulate", ["--images", "one"], "only a.png was found: each image needs another one as its target"),
        ("manipulate", ["--size", "9"], "net.network takes no images of 9 pixels: leave --size out, its own are 8"),
        ("manipulate", ["--target-image", "none.png"], "none.png: no such file"),
        ("manipulate", ["--seed", "-1"], "--seed is not negative, got -1"),
        ("judge", ["--epsilons"], "--epsilons takes one value at least"),
        ("judge", ["--epsilons", "0.1", "nan"], r"--epsilons must be positive, got \(0.1, nan\)"),
        ("judge", ["--count", "0"], "--count must be positive, got 0"),
        ("judge", ["--transfer-from", "net.py:small"], r"--transfer-from takes images of shape \(4, 4, 3\), net"),
        ("judge", [*PHOTOS, "--explanation", "grad_cam"], "no layer 'features'; .*: name one in it, jax"),
        ("curvature", ["--epsilons"], "--epsilons takes one value at least"),
        ("curvature", ["--kappas"], "--kappas takes one value at least"),
        ("curvature", ["--k", "65"], "--k is at most the number of pixels, 64 of .*, got 65"),
        ("curvature", ["--batch", "0"], "--batch must be positive, got 0"),
        ("curvature", ["--dataset", "svhn"], "invalid choice 'svhn'"),
        ("cost", ["--batches"], "--batches takes one value at least"),
        ("cost", ["--explanations"], "--explanations takes one value at least"),
        ("cost", ["--repeats", "0"], "--repeats must be positive, got 0"),
        ("cost", ["--seed", "-1"], "--seed is not negative, got -1"),
        ("cost", ["--network", "small_cnn"], "choose one of --network and --model"),
        ("train", ["--weight", "nan"], "--weight is not negative, got nan"),
        ("train", ["--start", "none.safetensors"], "--start names a weights.safetensors, got none.safetensors"),
        ("train", ["--start", "other.safetensors"], "other.safetensors does not fit: missing params; unexpected x"),
        ("train", ["--images", "classes", "--batch", "9"], "--batch is at most the number of images to train on, 3"),
        ("train", PHOTOS, "photos has no labels to train on: sort its images into a subfolder for each class"),
        ("train", ["--images", "lost"], "lost has one image of each class"),
        ("train", ["--images", "fewer"], r"net.network has 3 classes \(a, b, c\), fewer has 1 subfolders: give it"),
        ("train", ["--epsilons"], "--epsilons takes one value at least"),
        ("train", ["--images", "classes", "--dataset", "mnist"], "choose one of --images and --dataset"))),
    ("train", ["--model", "net.py:function", "--images", "classes"], "returns a function, whose parameters are not"),
    ("train", ["--images", "classes"], "--images go with the network that takes them: --model FILE.py:NAME, or"),
    *((job, [*OWN, "--out", "net.py"], r"the output folder net.py cannot be written \(File exists\): choose another")
      for job in JOBS)]


def photo(path, size=(10, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder with everything that is wrong."""
    root = tmp_path_factory.mktemp("place")
    (root / "net.py").write_text(FILE)
    for name in ("photos/a.png", "photos/b.png", "one/a.png", "cut/a.png", "lost/a.png", "index/a.png", "fewer/d/1.png",
                 "fewer/d/2.png", *(f"classes/{c}/{i}.png" for c in "abc" for i in (1, 2))):
        photo(root / name, (200, 200) if name.startswith("cut") else (10, 10))
    whole = (root / "cut" / "a.png").read_bytes()
    (root / "cut" / "a.png").write_bytes(whole[:len(whole) // 2])
    for name in ("empty", "text", "deep"):
        (root / name).mkdir()
    (root / "text" / "a.png").write_text("no image")
    Image.fromarray(np.ones((9, 9), np.float32)).save(root / "deep" / "a.tif")
    (root / "index" / "index.csv").write_text("file;class\na.png;1\n")
    (root / "lost" / "index.csv").write_text("image,class_index\na.png,0\nb.png,1\n")
    (root / "text.safetensors").write_text("no weights")
    save_file({"x": np.ones(3, np.float32)}, root / "other.safetensors")
    return root


@pytest.fixture
def here(place, monkeypatch):
    """The user's folder as it is; whatever a command adds is taken away."""
    monkeypatch.chdir(place)
    before = {*place.iterdir()}
    yield place
    for path in {*place.iterdir()} - before:
        shutil.rmtree(path)


def said(job, arguments):
    """What a command says when it stops, which is one line."""
    with pytest.raises(SystemExit) as stop:
        JOBS[job].run([*arguments, *([] if "--out" in arguments else ["--out", "out"])])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.parametrize(("job", "arguments", "says"), CASES, ids=[f"{i} {job}" for i, (job, *_) in enumerate(CASES)])
def test_a_wrong_input_is_one_line(job, arguments, says, here):
    line = said(job, arguments)
    assert line.startswith(f"{job}: ") and re.search(says, line), line
    assert not runs.computed(here / "out")


def test_every_job_is_asked_enough():
    counts = Counter(job for job, *_ in CASES)
    assert len(CASES) >= 60 and counts.keys() == JOBS.keys() and min(counts.values()) >= 12, counts


@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk(job, here, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    images = {"cost": [], "train": ["--images", "classes", "--batch", "3"]}.get(job, PHOTOS)
    assert re.search(r"out/\S+ cannot be written \(No space left on device\): what is finished is kept, make room",
                          said(job, [*OWN, *images]))


def test_images_that_only_look_wrong(tmp_path):
    """Names with spaces and umlauts, turned by a camera, other modes, an animation, one pixel, twenty thousand."""
    folder = tmp_path / "schöne Bilder (1)"
    folder.mkdir()
    half = Image.new("RGB", (40, 20), "blue")
    half.paste("red", (0, 0, 20, 20))  # the left half
    turned = Image.Exif()
    turned[274] = 6  # the camera was turned: what is left is the top
    half.save(folder / "a gedreht.jpg", exif=turned, quality=95)
    half.convert("CMYK").save(folder / "b cmyk.jpg", quality=95)
    half.quantize(2).save(folder / "c palette.png")
    half.save(folder / "d bewegt.gif", save_all=True, append_images=[Image.new("RGB", (40, 20), "green")])
    half.convert("RGBA").save(folder / "e äöü.webp", lossless=True)
    Image.fromarray(np.full((20, 40), 40_000, np.uint16)).save(folder / "f sechzehn.png")
    Image.new("1", (1, 1), 1).save(folder / "g punkt.bmp")
    half.resize((20_000, 20), Image.Resampling.NEAREST).save(folder / "h breit.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "._a.png").write_text("what a Mac leaves in archives")
    names, images, labels = data.read_folder(folder, 8)
    assert [name[0] for name in names] == [*"abcdefgh"] and labels is None
    red, blue = np.array([1, 0, 0]), np.array([0, 0, 1])
    assert np.abs(images[0, 0] - red).max() < 0.1 and np.abs(images[0, -1] - blue).max() < 0.1
    for i in (1, 2, 3, 4, 7):
        assert np.abs(images[i, :, 0] - red).max() < 0.1, names[i]
        assert np.abs(images[i, :, -1] - blue).max() < 0.1, names[i]
    np.testing.assert_allclose(images[5], 156 / 255, atol=1e-6)
    np.testing.assert_array_equal(images[6], 1)
