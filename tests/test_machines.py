"""A run that devices and processes share: the same numbers, one result, and a killed process leaves what resumes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from common import machines, runs

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
PLAIN = f"{EXPERIMENTS / 'models' / 'plain_jax.py'}:network"

# A study whose parts are numbers: which process made each, and what all of them know in the end.
STUDY = """
import dataclasses, os, signal
import numpy as np
from common import batches, files, runs

@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    '''A study.'''

def main(config):
    out, settings = runs.begin("study", config)
    def compute(part, index):
        if os.environ.get("DIES") == str(index):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"index": np.array([index]), "by": np.array([os.getpid()])}
    found = batches.in_batches(compute, 6, 1, lambda i, c: runs.finished(out, i, c))
    files.write_json(out / "results.json", {k: v.tolist() for k, v in found.items()} | {"written by": os.getpid()})
    print("told", found["index"].sum())

runs.command("study", Config, main, "", None)
"""


def start(*arguments, **environment):
    """One process of a command; code that is no file runs as such."""
    code = [arguments[0]] if str(arguments[0]).endswith(".py") else ["-c", arguments[0]]
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    return subprocess.Popen([sys.executable, *map(str, (*code, *arguments[1:]))], text=True, cwd=EXPERIMENTS,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment)


def pair(*arguments, **environment):
    """Two processes that share a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(*arguments, "--process", f"{i}/2@localhost:{port}", **environment) for i in range(2)]


def ended(processes):
    """What they printed; all have to end well."""
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def test_two_processes_share_a_run_and_a_killed_one_leaves_what_resumes(tmp_path):
    out = tmp_path / "out"
    processes = pair(STUDY, "--out", out, DIES="3")
    processes[1].communicate()
    assert [process.poll() for process in processes] == [None, -signal.SIGKILL]
    processes[0].kill()  # as a scheduler does, or JAX after 100 seconds
    processes[0].communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*")}
    assert {"00000.npz", "00001.npz", "00002.npz"} <= set(kept) and "00003.npz" not in kept
    [[first, _], [second, _]] = ended(processes := pair(STUDY, "--out", out, "--resume"))
    assert "told 15" in first and "told" not in second
    results = json.loads((out / "results.json").read_text())
    assert results["index"] == list(range(6)) and results["written by"] == processes[0].pid
    assert results["by"][3] == results["by"][5] == processes[1].pid and results["by"][4] == processes[0].pid
    assert all(out.joinpath("parts", name).stat().st_mtime_ns == at for name, at in kept.items())
    failed = pair(STUDY, "--out", out)
    for process in failed:
        assert "already holds results: pass --resume" in process.communicate()[1] and process.returncode == 1


def test_what_is_refused(capsys, tmp_path):
    for match, options in (("--devices 9: there are 1 to 2 here, of the kind cpu", ["--devices", "9"]),
                           ("--devices 0: there are 1 to 2 here", ["--devices", "0"]),
                           ("--process is auto, or RANK/COUNT@HOST:PORT", ["--process", "one"]),
                           ("of 2 processes the last is 1", ["--process", "2/2@localhost:1"])):
        with pytest.raises(SystemExit, match=match):
            train.run(["--quick", "--out", str(tmp_path / "no"), *options])
    with pytest.raises(SystemExit, match="--process needs the run folder that all processes share: --out"):
        train.run(["--quick", "--process", "0/2@localhost:1"])
    with pytest.raises(SystemExit, match="--images go with the network that takes them"):
        train.run(["--images", str(tmp_path), "--out", str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()


def test_a_batch_takes_as_many_devices_as_divide_it():
    machines.begin(2, None)
    assert [len(machines.own(n)) for n in (4, 3, 1)] == [2, 1, 1] and len(machines.everywhere()) == 2
    assert len(machines.spread(np.ones((4, 3))).sharding.device_set) == 2
    machines.begin(None, None)
    assert len(machines.own(4)) == 1 and isinstance(machines.spread(np.ones(4)), np.ndarray)


def photographs(folder, count=8):
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
def test_manipulate_over_devices_and_processes(tmp_path):
    ways = {"one": [], "four": ["--devices", 4], "two": ["--devices", 4]}
    command = [EXPERIMENTS / "manipulate.py", "--model", PLAIN, "--images", photographs(tmp_path / "images"),
               "--batch", 4, "--steps", 3]
    for name, options in ways.items():
        run = pair if name == "two" else lambda *arguments: [start(*arguments)]
        ended(run(*command, *options, "--out", tmp_path / name))
    one, *others = (np.load(tmp_path / name / "arrays.npz") for name in ways)
    for other in others:
        np.testing.assert_allclose(other["x_adv"], one["x_adv"], atol=1e-6)


@pytest.mark.slow
def test_train_over_processes_and_a_folder(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            photographs(tmp_path / "images" / split / label)
    command = [EXPERIMENTS / "train.py", "--model", PLAIN, "--images", tmp_path / "images", "--batch", 8, "--count", 4,
               "--epsilons", 0.1]
    ended([start(*command, "--devices", 1, "--out", tmp_path / "one")])
    ended(pair(*command, "--out", tmp_path / "two"))
    one, two = (runs.read_arrays(tmp_path / name / "arrays.npz", "") for name in ("one", "two"))
    np.testing.assert_allclose(one["map_change@0.1"], two["map_change@0.1"], atol=1e-3)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines()[-1].split(",") for name in ("one", "two")]
    np.testing.assert_allclose(*np.array(logs, float), rtol=1e-4)
