"""ResNet-20's defended family: what is trained from what, what is kept and shown."""

import json

import numpy as np
import pytest

from papers import resnet20
from results import pages


def found(**changes):
    """Results of a plain network and of others, by their change within 2/255."""
    rows = {name: resnet20.row({"map_change@2/255": np.float32(v), "accuracy": np.ones(4)}, 0)
            for name, v in changes.items()}
    flags = {"plain": {"2": {"restarts_help": {"raised": True}, "random_maps": {"raised": False}}}}
    return {"results": rows, "flags": flags}


def test_a_change_is_compared_on_the_same_images():
    plain = np.float32([0.8, 0.8, 0.8, 0.1, 0.1])
    assert resnet20.compared(plain[:3] / 4, plain, 0)["value"] == pytest.approx(0.75)


def test_the_table_says_what_was_measured_on_how_many_images():
    lines = resnet20.markdown(found(plain=[0.8, 0.8], hessian=[0.25] * 3)).splitlines()
    assert lines[2].startswith("| plain | 1.000 (1.000 to 1.000) | 0.80 (0.80 to 0.80), 2 images | ")
    assert lines[2].endswith("| restarts help |") and "0.25 (0.25 to 0.25), 3 images" in lines[3]


def test_values_of_images_are_kept_with_their_summary():
    row = resnet20.row({"map_change@2/255": np.float32([0.25, 0.5]), "accuracy": np.ones(4)}, 0)
    assert row["map_change@2/255"]["values"] == [0.25, 0.5] and "values" not in row["accuracy"]


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_shows_what_is_stored(name):
    assert pages.PAGES[name][0].read_text() == pages.written(name)


@pytest.mark.slow  # it compiles a training, its attack and its curvature, twice
def test_quick(tmp_path):
    arguments = ["--quick", "--names", "longer", "--out", str(tmp_path)]
    resnet20.run(arguments)
    stored = (tmp_path / "results.json").read_text()
    results = json.loads(stored)["results"]
    assert [*results] == ["plain", "untrained", "softplus", "longer"]
    assert all(len(results[n]["map_change@2/255"]["values"]) == 4 for n in ("plain", "softplus", "longer"))
    assert (tmp_path / "longer.safetensors").is_file()
    resnet20.run([*arguments, "--resume"])
    assert (tmp_path / "results.json").read_text() == stored
