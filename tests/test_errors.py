"""Wrong input, a table of it: one line that says what was found, what was expected, and what to do."""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import NoneType, SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import cost
import curvature
import judge
import manipulate
import train
from common import files, fine_tuning, inputs, named_explanations, program, runs, study
from common.defence_recipes import RECIPES
from papers import (
    atex2022,
    backdoor,
    boopathy2020,
    defences,
    dombrowski2019,
    dombrowski2022,
    fairwashing,
    gallery,
    heo2019,
    patterns,
    sneaking,
    zoo,
)
from xmanip_jax import attack, certify, data, explain, geometry, models, rewrite, smooth
from xmanip_jax.models.net import abstract
from xmanip_jax.models.weights import weight_shapes

ROOT = Path(__file__).parent.parent
X = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(2, 2, 3)
KEY, OLD = jax.random.key(0), jax.random.PRNGKey(0)
W = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
GRADIENT, NOISY = explain.gradient(), explain.smoothgrad(explain.gradient(), sigma=0.1, samples=2)
AROUND = np.full((1, 2, 2), 0.25, np.float32)


def dense(x):
    """Flattens, so that a batch does not fit."""
    return jax.nn.relu(x.ravel() @ W)


def pooled(x):
    """Takes a batch as well, like most modules."""
    return x.mean((-3, -2)) @ W[:3]


@functools.cache
def network():
    return models.load("small_cnn_cifar10", inputs.random_weights("small_cnn_cifar10", 0))


def attacking(model, pixels=X[None], goal=AROUND, key=KEY, **options):
    run = attack.manipulation(GRADIENT, steps=1, surrogate=smooth.none(), **options)
    return run(model, pixels, goal, key=key)


def scalar(f):
    return geometry.hvp(lambda x: f(x)[0], X, X)


class Training(nnx.Module):
    def __init__(self, layer):
        self.layer, self.linear = layer, nnx.Linear(3, 5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(self.layer(x)).mean((0, 1))


class Counting:
    """What Keras does in training mode: the statistics are the module's own, and a trace leaves its values there."""

    def __init__(self):
        self.mean = jnp.zeros(5)

    def __call__(self, x):
        y = pooled(x)
        self.mean = 0.9 * self.mean + 0.1 * y
        return y - self.mean


def twice(f):
    """A Keras-like model is seen at the second call of an explanation."""
    model = Counting()
    f(model)
    return f(model)


NORM = lambda: Training(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
DROP = lambda: Training(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
TRAINING = "is in training mode"
ONE = "first axis of the pixels is the batch of an attack, elsewhere jax.vmap maps over it"


def weights(**changed):
    shapes = weight_shapes(abstract(models.SmallCNN))
    found = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return found | {name.replace("__", "."): value for name, value in changed.items()}


def loaded(tensors):
    return models.load_weights(abstract(models.SmallCNN), tensors)


BROKEN = np.array([0, np.nan, np.inf] + [0] * 13, np.float32)
BATCH, BYTES, FIRST = np.stack([X, X]), (255 * X).astype(np.uint8), np.zeros((3, 32, 32), np.float32)
LARGEST = attack.largest_change(GRADIENT, epsilon=0.1, steps=2, restarts=1, surrogate=smooth.none())
LIBRARY = {
    "batch, pooled": (lambda: GRADIENT(pooled, X[None], 0), r"got shape \(1, 5\): give one example and vmap"),
    "batch, dense": (lambda: GRADIENT(dense, BATCH, 0), ONE),
    "batch, lrp": (lambda: explain.lrp()(dense, BATCH, 0), ONE),
    "batch, grad_cam": (lambda: explain.grad_cam("relu#0")(dense, BATCH, 0), ONE),
    "batch, smoothgrad": (lambda: NOISY(dense, BATCH, 0, key=KEY), ONE),
    "batch, geometry": (lambda: geometry.hvp(lambda x: pooled(x)[..., 0], X[None], X[None]),
                        r"outputs of shapes \[\(1,\)\]: select one logit, and vmap over a batch"),
    "batch, geometry, dense": (lambda: geometry.spectral_norm(lambda x: dense(x)[0], BATCH), ONE),
    "batch, certify": (lambda: jax.eval_shape(lambda x: certify.gradient_bounds(pooled, certify.ball(x, 0.1), 0),
                                              X[None]), r"got shape \(1, 5\): give one example"),
    "batch, certify, dense": (lambda: certify.output_bounds(dense, certify.ball(BATCH, 0.1)), ONE),
    "batch, rewrite": (lambda: smooth.softplus(dense, 2.0)(BATCH), ONE),
    "no batch, attack": (lambda: attacking(dense, X[0, 0]), "pixels are a batch"),
    "another shape, attack": (lambda: attacking(dense, np.ones((1, 3, 3, 3), np.float32)), ONE),
    "bytes, gradient": (lambda: GRADIENT(dense, BYTES, 0), "got uint8: divide pixels of 0 to 255"),
    "bytes, lrp": (lambda: explain.lrp()(dense, BYTES, 0), "got uint8: divide pixels of 0 to 255"),
    "bytes, geometry": (lambda: geometry.hvp(lambda x: dense(x)[0], BYTES, X), r"real floating.*uint8"),
    "bytes, attack": (lambda: attacking(dense, BYTES[None]), "got uint8: divide images of 0 to 255"),
    "bytes, network": (lambda: network().preprocess(np.zeros((32, 32, 3), np.uint8)), "got uint8: divide"),
    "bytes, images": (lambda: data.check_pixels(BYTES), "found uint8; divide bytes by 255"),
    "a list": (lambda: GRADIENT(dense, X.tolist(), 0), "x is one array, .* got list: jnp.asarray makes one"),
    "channels first, network": (lambda: network().model(FIRST), r"Float\[h, w, 3\], channels last, .*: move the"),
    "channels first, preprocess": (lambda: network().preprocess(FIRST[None]), r"got shape \(1, 3, 32, 32\): move"),
    "no channels, network": (lambda: network().model(FIRST[0, :, :3]), r"takes an image Float\[h, w, 3\], got shape"),
    "channels first, heat map": (lambda: explain.heatmap(FIRST), "say channels=0, or channels=-1"),
    "channels first, attack": (lambda: attacking(lambda x: x.mean((1, 2)), FIRST[None], None), "say channels=0, or"),
    "a seed for a key": (lambda: NOISY(pooled, X, 0, key=0), r"key is one key, such as jax.random.key\(0\), got 0"),
    "a seed, attack": (lambda: attacking(pooled, key=0), "key is one key, .* got 0"),
    "a seed, largest change": (lambda: LARGEST(pooled, X[None], key=3), "key is one key, .* got 3"),
    "a seed, geometry": (lambda: geometry.frobenius_norm(lambda x: (x**2).sum(), X, key=0), "key is one key, .* got 0"),
    "keys for a key": (lambda: NOISY(pooled, X, 0, key=jax.random.split(KEY, 3)), r"got key<fry>\[3\]: take one"),
    "old keys for a key": (lambda: NOISY(pooled, X, 0, key=jax.random.split(OLD, 3)), r"got uint32\[3, 2\]"),
    "no key": (lambda: NOISY(pooled, X, 0), r"averages over noise: pass key=jax.random.key"),
    "weights, prefix of some": (lambda: loaded({f"module.{name}" if name[0] == "c" else name: t for name, t in
                                                weights().items()}), "missing conv1.weight.*unexpected module"),
    "weights, not finite": (lambda: loaded(weights(conv1__bias=BROKEN)), "conv1.bias has 2 of 16 values that are NaN"),
    "training, nnx BatchNorm": (lambda: GRADIENT(NORM(), X, 0), rf"{TRAINING}.*model.eval\(\).*BatchStat"),
    "training, nnx dropout": (lambda: GRADIENT(DROP(), X, 0), rf"{TRAINING}.*RngCount"),
    "training, lrp": (lambda: explain.lrp()(NORM(), X, 0), TRAINING),
    "training, attack": (lambda: attacking(NORM()), TRAINING),
    "training, geometry": (lambda: scalar(DROP()), TRAINING),
    "training, certify": (lambda: certify.output_bounds(NORM(), certify.ball(X, 0.1)), TRAINING),
    "training, rewrite": (lambda: rewrite.inspect(DROP(), X), TRAINING),
    "training, equinox dropout": (lambda: GRADIENT(lambda x: eqx.nn.Dropout(0.5)(pooled(x)), X, 0),
                                  r"inference_mode.*requires a key"),
    "training, own statistics": (lambda: twice(lambda f: GRADIENT(f, X, 0)), f"{TRAINING}.*unexpected tracer"),
    "training, own, lrp": (lambda: twice(lambda f: explain.lrp()(f, X, 0)), TRAINING),
    "training, own, rewrite": (lambda: twice(lambda f: rewrite.inspect(f, X)), TRAINING),
    "training, own, attack": (lambda: attacking(Counting()), TRAINING),
    "training, own, geometry": (lambda: scalar(Counting()), TRAINING),
    "several outputs": (lambda: GRADIENT(lambda x: (dense(x), x), X, 0), r"got tuple: choose them"),
    "a class outside": (lambda: GRADIENT(dense, X, 5), "class 5 is outside 0..4"),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_says_it_in_one_line(name):
    call, says = LIBRARY[name]
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 420


def test_old_keys_are_keys():
    """The same numbers as from the typed key of the same bits; from numpy, too."""
    for key in (OLD, np.asarray(OLD)):
        np.testing.assert_array_equal(NOISY(dense, X, 0, key=key), NOISY(dense, X, 0, key=KEY))


@pytest.mark.slow
def test_old_keys_are_keys_of_attacks():
    curved = lambda x: pooled(jnp.sin(5 * x))
    for run in (lambda key: LARGEST(curved, X[None], key=key), lambda key: attacking(curved, key=key, start_noise=0.1)):
        np.testing.assert_array_equal(run(OLD).pixels, run(KEY).pixels)


def test_what_only_looks_wrong_is_taken():
    """Every name with DataParallel's prefix, channels first where that is said, dropout in inference."""
    tensors = weights(conv1__bias=np.arange(16, dtype=np.float32))
    module = loaded({f"module.{name}": tensor for name, tensor in tensors.items()})
    np.testing.assert_array_equal(module.conv1.bias[...], np.arange(16))
    assert explain.heatmap(np.ones((3, 8, 8), np.float32), channels=0).shape == (8, 8)
    assert GRADIENT(Training(nnx.Dropout(0.5, deterministic=True)), X, 0).shape == X.shape


COMMANDS = {module.__name__.rpartition(".")[2]: module for module in (
    manipulate, judge, curvature, cost, train, atex2022, backdoor, boopathy2020, defences, dombrowski2019,
    dombrowski2022, fairwashing, gallery, heo2019, patterns, sneaking, zoo)}
OPTIONS = [
    ("manipulate", ["--cout", "3"], r"Unrecognized options: --cout, 3, perhaps you meant --count \(--help lists"),
    ("manipulate", ["dog.png"], "Unrecognized options: dog.png"),
    ("manipulate", ["--steps"], "Missing value for argument '--steps'"),
    ("manipulate", ["--steps", "many"], "Error parsing --steps: invalid literal for int.*'many'"),
    ("manipulate", ["--dataset", "svhn"], "invalid choice 'svhn'.*'cifar10'"),
    ("manipulate", ["--explanation", "lime"], "unknown explanation 'lime'; known: gradient,"),
    ("manipulate", ["--network", "net"], "unknown network 'net'; known: squeezenet1_1,"),
    ("manipulate", ["--learning-rate", "0"], "--learning-rate must be positive, got 0"),
    ("judge", ["--restarts", "1"], "--restarts is at least 2: the flags compare them, got 1"),
    ("judge", ["--model", "small_cnn"], "--model is FILE.py:NAME or module:NAME, got 'small_cnn'"),
    ("cost", ["--explanations", "lime"], "unknown explanation 'lime'; known: gradient,"),
    ("cost", ["--batches", "0"], r"--batches must be positive, got \(0,\)"),
    ("curvature", ["--certified", "200"], "--certified is at most --count 100, got 200"),
    ("curvature", ["--networks", "net"], "unknown network 'net'; known: squeezenet1_1,"),
    ("train", ["--dataset", "svhn"], "invalid choice 'svhn'.*'cifar10'"),
    ("train", ["--defence", "magic"], "unknown defence 'magic'; known: plain,"),
    ("train", ["--rate", "1"], "Unrecognized options: --rate, 1, perhaps you meant --"),
    ("train", ["--train-images", "0"], "--train-images must be positive, got 0"),
    ("atex2022", ["--count", "0"], "--count must be positive, got 0"),
    ("backdoor", ["--goals", "magic"], "invalid choice 'magic'.*'single', 'herring', 'disguise'"),
    ("backdoor", ["--distances", "l7"], "invalid choice 'l7'.*'mse', 'dssim'"),
    ("boopathy2020", ["--epsilons", "0.1", "0"], r"--epsilons must be positive, got \(0.1, 0.0\)"),
    ("defences", ["--names", "plain", "magic"], "unknown defence 'magic'; known: plain,"),
    ("dombrowski2019", ["--networks", "net"], "unknown network 'net'; known: squeezenet1_1,"),
    ("dombrowski2022", ["--seeds", "x"], "Error parsing --seeds"),
    ("fairwashing", ["--keep", "all"], "invalid choice 'all'.*'logits', 'probabilities'"),
    ("gallery", ["--network", "net"], "unknown network 'net'; known: squeezenet1_1,"),
    ("heo2019", ["--kinds", "magic"], "invalid choice 'magic'.*'location', 'top_k', 'center_mass', 'active'"),
    ("heo2019", ["--images", "5", "--train-images", "0"], "--train-images must be positive, got 0"),
    ("patterns", [], "choose one of --images and --dataset"),
    ("patterns", ["--images", "nowhere", "--network", "net"], "unknown network 'net'; known: squeezenet1_1,"),
    ("sneaking", ["--multiples", "2", "1"], "multiples ascend from at least 1"),
    ("sneaking", ["--resume"], "--resume needs the run folder: --out"),
    ("zoo", ["--study", "nowhere"], "nowhere holds no config.json: is it a run folder?"),
]


def stopped(run, arguments):
    """What a command says when it stops, which is one line."""
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.parametrize(("name", "arguments", "says"), OPTIONS)
def test_a_wrong_option_is_one_line(name, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = stopped(COMMANDS[name].run, arguments)
    assert re.match(f"{name}: .*{says}", said), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_options_agree_and_stand_on_their_own(name):
    fields = dataclasses.fields(COMMANDS[name].Config)
    kinds = {f.name: str(f.type) for f in fields}
    assert kinds.keys().isdisjoint({"rate", "lr", "judged", "folder", "batch_size", "output", "number"})
    assert "Path" in kinds.get("images", "Path") and "int" in kinds.get("count", "int")
    helps, choices = {}, r"choices\(\s*['\"](.*?)['\"],"
    for kind in reversed(COMMANDS[name].Config.__mro__[:-1]):
        body = ast.parse(inspect.getsource(kind)).body[0].body
        for node, after in itertools.pairwise([*body, None]):
            if isinstance(node, ast.AnnAssign):
                listed = re.search(choices, ast.unparse(node))
                helps[node.target.id] = f"{listed[1]}." if listed else after.value.value
    assert helps.keys() == {f.name for f in fields}
    for option, told in helps.items():
        assert re.fullmatch(r"[A-Z](?!f |r |ne of xmanip).{8,}[.?]", told, re.DOTALL), (option, told)


def test_help_lists_what_there_is(capsys):
    for name, known in (("manipulate", (*models.NETWORKS, *named_explanations.EXPLANATIONS)),
                        ("train", RECIPES), ("heo2019", (*fine_tuning.PLACES, "top_k"))):
        with pytest.raises(SystemExit) as stop:
            COMMANDS[name].run(["--help"])
        said = capsys.readouterr().out
        assert stop.value.code == 0 and all(each in said for each in known)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(*options) of sneaking.py without anything to compute, in tmp_path/out: one network, two parts."""
    arguments = ["--networks", "net", "--multiples", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(data, "load_dataset", lambda *_, **options: (np.zeros((3, 32, 32, 3), np.float32), None))
    monkeypatch.setattr(inputs, "network", lambda name, **options: SimpleNamespace(name=name, params={}, state={}))
    monkeypatch.setattr(sneaking, "attacked", lambda *arguments: {
        **{m: np.ones((1, 3)) for m in ("success", "epsilon", "gamma", "distance", "kendall", "pearson")},
        "slope": np.ones(3)})
    return lambda *options: sneaking.run([*arguments, *options])


PART, NOTES = "parts/net-two_classes-00000.npz", ("config.json", "inputs-net.json", "files.json")
DAMAGED = {
    "part empty": (PART, b"", "two_classes-00000.npz is damaged .*: delete it, and --resume computes it again"),
    "part truncated": (PART, 200, "two_classes-00000.npz is damaged"),
    "part is text": (PART, b"no archive", "two_classes-00000.npz is damaged"),
    "part foreign": (PART, {"a": np.ones(3)}, "two_classes-00000.npz is not a part of this run: delete it, and"),
    "part of another place": (PART, "parts/net-label_alone-00000.npz", "is not a part of this run"),
    "part with objects": (PART, {"a": np.array([{}])}, "is damaged .*pickle"),
    "no config": ("config.json", None, "holds results, but no config.json that says what of: choose another --out"),
    "config empty": ("config.json", b"", "config.json is damaged, it holds no JSON .*: restore it, or choose another"),
    "config truncated": ("config.json", 20, "config.json is damaged, it holds no JSON"),
    "config is bytes": ("config.json", b"\xff\xfe\x00", "config.json is damaged, it holds no JSON"),
    "config is a list": ("config.json", b"[1, 2]", "holds no settings of a run"),
    "config of another study": ("config.json", b'{"steps": 3}', "another study or version .*steps.*: choose another"),
    "inputs truncated": ("inputs-net.json", 10, "inputs-net.json is damaged, it holds no JSON"),
    "inputs foreign": ("inputs-net.json", b'{"a": 1}', "inputs-net.json is not what a run notes of its inputs"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_run_folder_is_one_line(name, run, tmp_path):
    run()
    place, damage, says = DAMAGED[name]
    file = tmp_path / "out" / place
    {NoneType: lambda _: file.unlink(), int: lambda length: file.write_bytes(file.read_bytes()[:length]),
     bytes: file.write_bytes, str: lambda other: file.write_bytes((tmp_path / "out" / other).read_bytes()),
     dict: lambda arrays: np.savez(file, **arrays)}[type(damage)](damage)
    said = stopped(lambda _: run("--resume"), None)
    assert re.search(says, said), said


def test_a_training_whose_arrays_are_damaged(tmp_path):
    config = train.Config(dataset="mnist", out=tmp_path / "plain-0", resume=True)
    runs.begin("plain", config)
    (tmp_path / "plain-0" / "results.json").write_text("{}")
    (tmp_path / "plain-0" / "arrays.npz").write_bytes(b"half")
    with pytest.raises(files.RunError, match=r"arrays.npz is damaged .*: delete .*plain-0, and --resume trains it"):
        study.one(config, tmp_path / "plain-0", Console())


def test_a_folder_in_which_nothing_was_computed_is_as_good_as_none(run, tmp_path, monkeypatch):
    computed = sneaking.attacked

    def breaks(*arguments):
        raise OSError("no memory")

    monkeypatch.setattr(sneaking, "attacked", breaks)
    assert stopped(lambda _: run(), None) == "sneaking: no memory"
    assert {*NOTES, ".lock", ".run.json", "parts"} == {f.name for f in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "config.json").write_text("{")
    monkeypatch.setattr(sneaking, "attacked", computed)
    run("--seed", "3")  # without --resume, with other settings
    assert json.loads((tmp_path / "out" / "results.json").read_text())["config"]["seed"] == 3
    assert "already holds results: pass --resume" in stopped(lambda _: run("--seed", "3"), None)
    assert "(seed differ)" in stopped(lambda _: run("--resume"), None)
    run("--resume", "--seed", "3")


def test_a_run_from_before_options_were_renamed_goes_on(tmp_path):
    """Parts without a mark, and the settings by their names of then, which stay as they were noted."""
    before = {"rate": 0.1, "base_rate": 0.2, "judged": 3, "images": 4, "folder": None}
    now = {"learning_rate": 0.1, "base_learning_rate": 0.2, "count": 3, "train_images": 4, "images": None}
    (tmp_path / "parts").mkdir()
    np.savez(tmp_path / "parts" / "a-00000.npz", v=np.arange(3))
    (tmp_path / "config.json").write_text(json.dumps(before))
    runs.open_run(tmp_path, now, resume=True)
    assert runs.finished(tmp_path, 0, None, name="a")["v"].tolist() == [0, 1, 2]
    assert files.read_json(tmp_path / "config.json") == before


def test_an_interruption_is_one_line(run, monkeypatch, capsys):
    computed, calls = sneaking.attacked, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return computed(*arguments)

    monkeypatch.setattr(sneaking, "attacked", interrupted)
    for says in (r"nothing was finished yet, --out \S+ starts anew",
                 r"what is finished is kept: add --out \S+ --resume to go on"):
        with pytest.raises(SystemExit) as stop:
            run()
        assert stop.value.code == 130
        assert re.fullmatch(f"sneaking: interrupted; {says}\n", capsys.readouterr().err)


def test_a_foreign_exception_is_one_line_and_debug_shows_it(run, monkeypatch):
    def breaks(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 3 bytes")

    monkeypatch.setattr(sneaking, "attacked", breaks)
    assert stopped(lambda _: run(), None) == (
        "sneaking: RuntimeError: RESOURCE_EXHAUSTED: Out of memory (--debug shows everything)")
    monkeypatch.setattr(jax.config, "update", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="allocating 3 bytes"):
        run("--debug")
    assert program.line(MemoryError()) == "MemoryError (--debug shows everything)"
    assert program.line(ModuleNotFoundError("No module named 'tyro'", name="tyro")) == (
        "tyro is missing: pip install 'xmanip-jax[experiments]'")


def ended(process):
    """(exit code, stderr) of a process after Ctrl-C, which must not take long."""
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    return process.returncode, said


def test_ctrl_c_while_starting():
    command = [sys.executable, ROOT / "experiments" / "curvature.py"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2:  # before that, Python itself starts
        time.sleep(0.005)
    assert ended(process) == (130, "curvature: interrupted; nothing was computed yet, the same command starts anew\n")


def test_ctrl_c_while_compiling():
    """XLA holds the main thread for many seconds; Python's own handler would wait for it."""
    code = """
from common import program
program.watch()
import jax, jax.numpy as jnp
def long(x):
    for i in range(3000):
        x = jnp.sin(x) @ x + i
    return x
lowered = jax.jit(long).lower(jnp.ones((3, 3)))
print("compiling", flush=True)
lowered.compile()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT / "experiments", stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "compiling\n"
    time.sleep(0.3)
    start = time.monotonic()
    assert ended(process) == (130, "-c: interrupted; nothing was computed yet, the same command starts anew\n")
    assert time.monotonic() - start < 5


EXTRAS = [("flax", "import xmanip_jax.models", "models", "models"),
          ("safetensors", "from xmanip_jax.models import load", "models", "models"),
          ("orbax", "import xmanip_jax.checkpoint", "checkpoint", "checkpoint"),
          ("matplotlib", "from xmanip_jax import plot; plot.gallery({'': [[[0.0]]]}, [''])", "plot", "plot"),
          ("PIL", "from xmanip_jax import data; data.read_image('a.png')", "data", "data"),
          ("skimage", "from xmanip_jax import data; data.photograph()", "data", "demo"),
          ("tensorflow_datasets", "from xmanip_jax import data; data.load_dataset('mnist', 'test')", "data", "data")]


def test_every_module_names_the_extra_that_it_misses():
    """All in one interpreter, the modules anew for each."""
    code = """
import sys, json
found = []
for blocked, code in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.startswith("xmanip_jax.")]:
        del sys.modules[name]
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == blocked}
    sys.modules[blocked] = None
    try:
        exec(code)
    except ImportError as error:
        found.append(str(error))
    del sys.modules[blocked]
    sys.modules.update(kept)
print(json.dumps(found))
"""
    asked = json.dumps([each[:2] for each in EXTRAS])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, cwd=ROOT, check=False)
    assert json.loads(done.stdout) == [f"xmanip_jax.{module} needs {package}: pip install 'xmanip-jax[{extra}]'"
                                       for package, _, module, extra in EXTRAS], done.stderr
