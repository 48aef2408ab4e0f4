"""What fits the default suite of the two fuzz runs (benchmarks/fuzz.py), and the run itself."""

import json
import sys
from pathlib import Path

import jax
import pytest

import soundness
import twins

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import fuzz

pytestmark = pytest.mark.promotes("ranks", "types")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, *[pytest.param(s, marks=pytest.mark.slow) for s in (2, *range(200, 220))]])
def test_nothing_sampled_leaves_what_is_certified(seed):
    with jax.enable_x64(seed % 2 == 1):
        record = soundness.check(seed, networks=5, points=100)
    assert not record["refused"] and not record["broken"] and record["held"]["gradients"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, *[pytest.param(s, marks=pytest.mark.slow) for s in (8, 24, *range(2000, 2020))]])
def test_two_spellings_have_the_same_explanations(seed, x64):
    pair = twins.twins(seed)
    differences = {name: twins.difference(*both) for name, both in twins.maps(pair).items()}
    assert not {name: d for name, d in differences.items() if not d <= fuzz.TOLERANCE}, pair.name


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(fuzz, "soundness", lambda seed, config: seen.append(seed) or {
        "seed": seed, "spelling": "a", "networks": config.networks, "refused": "sort" if seed == 1 else None,
        "held": {"gradients": 3}, "broken": {"outputs": 1} if seed == 2 else {}})
    config = fuzz.Config("soundness", count=2, networks=4, log=tmp_path / "log.jsonl", out=tmp_path)
    fuzz.main(config)
    fuzz.main(config.__class__(**{**config.__dict__, "count": 4}))
    assert seen == [0, 1, 2, 3]
    found = json.loads((tmp_path / "fuzz_soundness.json").read_text())["summary"]
    assert (found["networks"], found["refused_networks"], found["broken_seeds"]) == (16, 4, [2])
    assert found["held"] == {"gradients": 12} and found["broken"] == {"outputs": 1}
    with pytest.raises(SystemExit, match="was written with"):
        fuzz.main(config.__class__(**{**config.__dict__, "networks": 5}))
    assert "seed 2: a: {'outputs': 1}" in capsys.readouterr().out
