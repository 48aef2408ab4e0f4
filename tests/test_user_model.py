"""A network of the user's in every job: six libraries through five front doors, and every wrong file in one line."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import cost
import curvature
import judge
import manipulate
import train
from common import inputs, robustness, user_model
from xmanip_jax import models, plot

pytestmark = pytest.mark.promotes("ranks", "types")

EXAMPLES = Path(__file__).parent.parent / "experiments" / "models"
NETWORKS = "plain_jax", "flax_nnx", "flax_linen", "equinox_model", "keras_model", "converted_torch"
JOBS = {
    "manipulate": (manipulate, ["--images", "photos", "--steps", "2", "--count", "2"], "map_pearson"),
    "judge": (judge, ["--quick"], "verdicts"),
    "curvature": (curvature, ["--quick", "--k", "10"], "radii"),
    "cost": (cost, ["--quick"], "step.flop_ratio"),
    "train": (train, ["--images", "classes", "--quick", "--epochs", "1", "--batch", "4", "--epsilons", "0.1"],
              "Labels are the subfolders of classes, "),
}
DEFAULT = {("cost", "flax_nnx")}  # the other jobs run on TINY
PAIRS = [pytest.param(job, name, marks=[] if (job, name) in DEFAULT else pytest.mark.slow)
         for job in JOBS for name in NETWORKS]


TINY = """
import jax, jax.numpy as jnp, numpy as np
rng = np.random.default_rng(0)
WEIGHTS = {"a": np.float32(rng.normal(size=(192, 6)) / 8), "b": np.float32(rng.normal(size=(6, 3)))}

def apply(params, x):
    return jax.nn.gelu(x.ravel() @ params["a"]) @ params["b"]

def network():
    return {"apply": apply, "params": WEIGHTS, "input_shape": (8, 8, 3), "preprocess": lambda p: 2 * p - 1}

def another():
    return network() | {"params": {k: v + 0.1 for k, v in WEIGHTS.items()}}

def function():
    return {"model": lambda x: apply(WEIGHTS, x), "input_shape": (8, 8, 3), "classes": 3,
            "preprocess": lambda p: 1 - 2 * p}

def other():
    return {"apply": lambda params, x: x.ravel() @ params[0], "params": [WEIGHTS["a"]], "input_shape": (8, 8, 3)}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the user's, with two photographs; what a quick run switches off is switched on again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "photos").mkdir()
    for i, colour in enumerate(("red", "blue")):
        Image.linear_gradient("L").convert("RGB").rotate(90 * i).resize((48, 40)).save(f"photos/{colour}.png")
    for name in ("cat", "cup", "rocket", "face", "eye"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for colour in ("red", "blue"):
            shutil.copy(f"photos/{colour}.png", tmp_path / "classes" / name)
    yield tmp_path
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(("job", "name"), PAIRS)
def test_six_networks_through_five_jobs(job, name, here):
    module, options, holds = JOBS[job]
    module.run(["--model", f"{EXAMPLES / name}.py:network", *options, "--out", "out"])
    results = (here / "out" / "results.json").read_text()
    assert holds in results and name in results
    assert name in (here / "out" / "report.html").read_text()


def test_manipulation_of_a_small_one(here):
    Path("tiny.py").write_text(TINY)
    manipulate.run(["--model", "tiny.py:function", *JOBS["manipulate"][1], "--out", "out"])
    assert np.load("out/arrays.npz")["map_adv"].shape == (2, 8, 8)
    Path("tiny.py").write_text(TINY.replace("1 - 2 * p", "1 - 3 * p"))
    with pytest.raises(SystemExit, match=r"cannot go on with other inputs \(other contents of tiny\.py\)"):
        manipulate.run(["--model", "tiny.py:function", *JOBS["manipulate"][1], "--out", "out", "--resume"])


@pytest.mark.parametrize("searches", [("ascent", "random"), pytest.param(
    ("ascent", "random", "transfer"), marks=pytest.mark.slow)])
def test_what_judge_says(searches, here, capsys):
    """Changes are those of the maps, within epsilon; flags and verdict follow; a run that goes on says the same."""
    Path("tiny.py").write_text(TINY)
    second = ["--transfer-from", "tiny.py:another"] if "transfer" in searches else []
    arguments = ["--model", "tiny.py:network", "--images", "photos", *second, "--epsilons", "0.05", "--steps", "4",
                 "--out", "out"]
    judge.run(arguments)
    printed = " ".join(capsys.readouterr().out.split())
    first, arrays = json.loads(Path("out/results.json").read_text()), dict(np.load("out/arrays.npz"))
    for search in searches:
        moved, maps = arrays[f"pixels_{search}@0.05"], arrays[f"map_{search}@0.05"]
        labels = [arrays[f"logits_{of}@0.05"].argmax(1).tolist() for of in (search, "original")]
        assert np.abs(moved - arrays["x"]).max() <= 0.05 + 1e-6
        left = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in
                zip(maps, arrays["map_original@0.05"], strict=True)]
        np.testing.assert_allclose(arrays[f"change_{search}@0.05"], 1 - np.array(left), atol=1e-4)
        assert labels[0] == labels[1]
    best = np.max([arrays[f"change_{search}@0.05"] for search in searches], axis=0)
    assert best.max() > 1e-3 and first["per_image"]["0.05"] == pytest.approx(best.tolist())
    verdict, page = first["verdicts"]["0.05"], Path("out/report.html").read_text()
    assert verdict in printed and verdict in page and page.count("<img") == 4
    assert f"a correlation of {1 - np.median(best):.2f} with what it was" in verdict
    raised = [flag["raised"] for flag in first["flags"]["0.05"].values()]
    assert len(raised) == 5 and ("To be read with care" in verdict) == any(raised)
    for file in ("results.json", "arrays.npz", "report.html"):
        Path("out", file).unlink()
    judge.run([*arguments, "--resume"])
    again = json.loads(Path("out/results.json").read_text())
    assert again["per_image"] == first["per_image"] and again["verdicts"] == first["verdicts"]
    assert Path("out/figure.png").stat().st_size > 10_000 and Path("out/report.html").exists()


def test_curvature_of_a_function_alone(here, monkeypatch):
    """Its preprocessing turns the pixels around, and no bound may notice."""
    monkeypatch.setattr(plot, "save", lambda figure, path: None)  # figures of other networks are tested
    Path("tiny.py").write_text(TINY)
    curvature.run(["--model", "tiny.py:function", "--quick", "--k", "10", "--out", "out"])
    arrays = np.load("out/arrays.npz")
    assert "attack changes the heat map of tiny.function, smooth" in Path("out/report.html").read_text()
    of = lambda name: arrays[f"tiny.function/smooth/{name}"]
    assert (of("spectral_norm") <= of("hessian_bound")).all() and (of("spectral_norm") > 0).all()
    for eps in ("0.001", "0.01"):
        assert 0 < of(f"attacked_change@{eps}")[0] <= of(f"change_intervals@{eps}")[0]


@pytest.fixture
def unjudged(monkeypatch):
    """How a trained network is judged is judge's; here it takes no time."""
    accuracy = {"accuracy": np.ones(4, np.float32)}
    monkeypatch.setattr(robustness, "judged", lambda *arguments, **options: (accuracy, {}))


@pytest.mark.slow
def test_training_of_one_of_the_projects_networks(here, unjudged):
    """From its weights, here random ones, which the file then holds under the names that --weights reads."""
    train.run(["--network", "cifar10_resnet20", "--quick", "--learning-rate", "1e-6", "--out", "out"])
    trained = models.load("small_cnn_cifar10", Path("out/weights.safetensors"))
    start = models.load("small_cnn_cifar10", inputs.random_weights("small_cnn_cifar10", 0))
    for now, before in zip(jax.tree.leaves(trained.params), jax.tree.leaves(start.params), strict=True):
        assert 0 < np.abs(now - before).max() < 1e-4


def test_training_and_its_weights(here, unjudged):
    Path("tiny.py").write_text(TINY)
    for unknown in ("face", "rocket"):
        shutil.rmtree(f"classes/{unknown}")
    train.run(["--model", "tiny.py:network", "--images", "classes", "--batch", "2", "--quick", "--out", "out"])
    weights, labels = Path("out/weights.safetensors"), "Labels are the subfolders of classes, with so many images to "
    assert labels in Path("out/report.html").read_text() and labels in Path("out/results.json").read_text()
    assert "cat (1 and 1), cup (1 and 1), eye (1 and 1); every fifth" in Path("out/report.html").read_text()
    assert "tiny.network, trained with plain" in Path("out/report.html").read_text()
    before, after = user_model.read("tiny.py:network"), user_model.read("tiny.py:network", weights)
    assert list(after.params) == ["a", "b"] and not np.array_equal(after.params["b"], before.params["b"])
    with pytest.raises(user_model.ModelError, match=r"fit: missing params\.0; unexpected params\.a; unexpected"):
        user_model.read("tiny.py:other", weights)


def test_the_examples_are_the_same_network_everywhere():
    """Logits of the example file by hand, and classes and preprocessing as it says."""
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    network = user_model.read(f"{EXAMPLES / 'plain_jax'}.py:network")
    x = pixels[0]
    for kernel in network.params["convolutions"]:
        padded = np.pad(x, ((0, 1), (0, 1), (0, 0)))  # SAME with stride 2 of an even side
        x = np.maximum(sum(padded[i:, j:][:len(x):2, :len(x):2] @ np.asarray(kernel[i, j])
                           for i in range(3) for j in range(3)), 0)
    np.testing.assert_allclose(network.model(pixels[0]), x.mean((0, 1)) @ network.params["dense"], rtol=1e-4, atol=1e-6)
    assert network.classes[2] == "rocket" and network.num_classes == 5 and network.input_shape == (32, 32, 3)
    assert network.name == "plain_jax.network"


DENSE = "lambda p, x: x.ravel() @ p, 'params': np.ones((12, 3), 'float32'), 'input_shape': (2, 2, 3)"
WRONG = {
    "no colon": ("", "net.py", "a network of your own is FILE.py:NAME or module:NAME"),
    "no name": ("", "net.py:", "a network of your own is FILE.py:NAME"),
    "no file": ("", "none.py:network", "none.py: no such file"),
    "no module": ("", "none_such:network", "the module raises ModuleNotFoundError: No module named 'none_such'"),
    "no such name": ("def net(): pass", "net.py:network", "net.py defines no network; it defines net"),
    "no name at all": ("", "net.py:network", "defines no network; it defines no function"),
    "syntax": ("def network(:", "net.py:network", "the file raises SyntaxError: invalid syntax (net.py, line 1)"),
    "a library that lacks": ("\nimport none_such", "net.py:network", "raises ModuleNotFoundError in line 2: No"),
    "exits": ("import sys; sys.exit('gone')", "net.py:network", "the file raises SystemExit in line 1: gone"),
    "raises": ("def network():\n    return {}['weights']", "net.py:network",
               "network() raises KeyError in line 2: 'weights'"),
    "takes arguments": ("def network(size): pass", "net.py:network", "missing 1 required positional argument: 'size'"),
    "no function": ("network = {}", "net.py:network", "is a dict and not a function: write def network(): return ..."),
    "returns nothing": ("def network(): pass", "net.py:network", "returns a NoneType; a dictionary with model, apply,"),
    "an unknown key": ("network = lambda: {'mode': 1}", "net.py:network", "with unknown mode; known: model,"),
    "neither": ("network = lambda: {'classes': 3}", "net.py:network", "a dictionary without model or apply"),
    "both": ("network = lambda: {'model': 1, 'apply': 1}", "net.py:network", "both model and apply: choose one"),
    "no shape": ("network = lambda: {'model': abs}", "net.py:network", "without input_shape, the (height,"),
    "a shape of two": ("network = lambda: {'model': abs, 'input_shape': (4, 4)}", "net.py:network",
                       "input_shape is (4, 4); (height, width, channels) of square images is wanted"),
    "not square": ("network = lambda: {'model': abs, 'input_shape': (4, 5, 3)}", "net.py:network", "of square images"),
    "not callable": ("network = lambda: {'model': 3, 'input_shape': (2, 2, 3)}", "net.py:network",
                     "model is a int and not a function"),
    "no params": ("network = lambda: {'apply': abs, 'input_shape': (2, 2, 3)}", "net.py:network", "without params"),
    "params with code": ("network = lambda: {'apply': lambda p, x: x[0, 0], 'params': [abs], 'input_shape': (2, 2, 3)}",
                         "net.py:network", "params.0 is a builtin_function_or_method and not an array"),
    "takes a batch": ("network = lambda: {'model': lambda x: x.reshape(len(x), 12)[:, :3], 'input_shape': (2, 2, 3)}",
                      "net.py:network", "the network takes a batch, a function of one example is wanted"),
    "returns a batch": ("network = lambda: {'model': lambda x: x[None, 0, 0], 'input_shape': (2, 2, 3)}",
                        "net.py:network", "returns float32[1, 3] for one example, its logits Float[classes] are"),
    "returns several": ("network = lambda: {'model': lambda x: (x[0, 0], x), 'input_shape': (2, 2, 3)}",
                        "net.py:network", "the network returns a tuple for one example"),
    "returns a class": ("network = lambda: {'model': lambda x: x[0, 0].argmax(), 'input_shape': (2, 2, 3)}",
                        "net.py:network", "the network returns int32[] for one example"),
    "other weights": ("network = lambda: {'model': lambda x: x @ np.ones(5), 'input_shape': (2, 2, 3)}",
                      "net.py:network", "the network cannot be called with one example, float32[2, 2, 3]: TypeError"),
    "class names": (f"network = lambda: {{'apply': {DENSE}, 'classes': ['cat', 'dog']}}", "net.py:network",
                    "classes says 2, the network returns 3 logits"),
    "class number": (f"network = lambda: {{'apply': {DENSE}, 'classes': 4}}", "net.py:network", "classes says 4, the"),
    "classes of a file": (f"network = lambda: {{'apply': {DENSE}, 'classes': 'a.txt'}}", "net.py:network",
                          "classes is a str; their number or a list of their names is wanted"),
    "preprocess raises": (f"network = lambda: {{'apply': {DENSE}, 'preprocess': lambda p: p - np.ones(5)}}",
                          "net.py:network", "preprocess cannot be called with the pixels of one image, float32[2,"),
    "preprocess returns integers": (f"network = lambda: {{'apply': {DENSE}, 'preprocess': lambda p: p.astype(int)}}",
                                    "net.py:network", "preprocess returns int32[2, 2, 3], one array of floating-point"),
    "training returns logits": (f"network = lambda: {{'apply': {DENSE}, 'train_apply': lambda p, s, xs, key: xs}}",
                                "net.py:network", "train_apply returns something else than (logits of the batch, a"),
    "training of one": (f"network = lambda: {{'apply': {DENSE}, 'train_apply': lambda p, s, x, k: (x[0, 0, 0], s)}}",
                        "net.py:network", "train_apply returns float32[3] for a batch of 2, float32[2, 3] is wanted"),
    "training takes less": (f"network = lambda: {{'apply': {DENSE}, 'train_apply': lambda p, xs: xs}}",
                            "net.py:network", "train_apply cannot be called with params, state, a batch and a key"),
    "the project's": ("from xmanip_jax import models\nfrom common.inputs import random_weights as w\n"
                      "network = lambda: models.load('small_cnn', w('small_cnn', 0))._replace(classes=('a', 'b'))",
                      "net.py:network", "classes says 2, the network returns 10 logits"),
    "NaN weights": ("network = lambda: {'apply': lambda p, x: x[0, 0] @ p['w'], 'input_shape': (2, 2, 3),\n"
                    "'params': {'w': np.full((3, 3), np.nan, 'float32')}}", "net.py:network",
                    "weights are NaN or infinite: params.w"),
    "NaN weights inside": ("network = lambda: {'model': lambda x: x[0, 0] @ np.full((3, 3), np.inf, 'float32'),\n"
                           "'input_shape': (2, 2, 3)}", "net.py:network", "weights are NaN or infinite: params.0"),
    "NaN logits": (f"network = lambda: {{'apply': {DENSE}, 'preprocess': lambda p: (p - 0.5) / (p - 0.5)}}",
                   "net.py:network", "preprocess returns NaN for a grey image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name, here):
    text, asked, expected = WRONG[name]
    Path("net.py").write_text(f"import numpy as np; {text}" if "np." in text else text)
    with pytest.raises(user_model.ModelError) as caught:
        user_model.read(asked)
    said = str(caught.value)
    assert expected in said and said.startswith(asked) and "\n" not in said, said


def test_the_front_doors_refuse_in_one_line(here):
    Path("tiny.py").write_text(TINY)
    own = ["--model", "tiny.py:network"]
    for job, arguments, expected in (
            (manipulate, [*own, "--network", "small_cnn"], "manipulate: choose one of --network and --model"),
            (judge, ["--model", "small_cnn"], "judge: --model is FILE.py:NAME or module:NAME, got 'small_cnn'"),
            (judge, [*own, "--restarts", "1"], "judge: --restarts is at least 2"),
            (judge, [*own, "--explanation", "lime"], "judge: unknown explanation 'lime'; known: gradient,"),
            (judge, [*own, "--transfer-from", "tiny.py:none"], "judge: tiny.py:none: tiny.py defines no none; it"),
            (judge, [*own, "--images", "photos", "--dataset", "mnist"], "judge: choose one of --images and --dataset"),
            (judge, [*own, "--images", "none"], "judge: none: no such folder"),
            (cost, [*own, "--explanations", "lime"], "cost: unknown explanation 'lime'"),
            (cost, [*own, "--batches", "0"], "cost: --batches must be positive"),
            (curvature, [*own, "--networks", "small_cnn"], "curvature: choose one of --networks and --model"),
            (curvature, ["--networks", "a", "b", "--weights", "w"], "curvature: --weights goes with a single network"),
            (train, [*own, "--defence", "lcnn"], "train: lcnn trains a network of its own kind: leave --model out"),
            (train, ["--model", "tiny.py:function", "--quick"], "train: tiny.py:function returns a function, whose"),
            (train, [*own, "--quick", "--defence", "int"], "train: no layer 'features'"),
            (train, ["--model", "none.py:network"], "train: none.py:network: none.py: no such file")):
        with pytest.raises(SystemExit) as stop:
            job.run([*arguments, "--out", "out"])
        assert stop.value.code.startswith(expected) and "\n" not in stop.value.code, stop.value.code
