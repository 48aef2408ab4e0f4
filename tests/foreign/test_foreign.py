"""Every foreign model through every feature: right, or refused by the library's own words.

The default suite runs a few of the models, without the features that take long; `-m slow` the rest; `make table`
everything, and writes docs/models.md; with `--cells FILE` in parts, the last of which writes. What fails today is
listed in known_failures.txt, one line a cell, strictly: a cell that is mended has to leave the list (`--write-known`
writes it from a run).
"""

import functools
import importlib

import pytest

from foreign.features import FEATURES
from foreign.judge import Subject, first_line, verdict
from foreign.table import DOCUMENT, known_failures

pytestmark = pytest.mark.promotes("ranks", "types")

PACKAGES = {"plain": "jax", "products": "jax", "spellings": "jax", "control": "jax", "linen": "flax", "nnx": "flax",
            "equinox_": "equinox", "haiku_": "haiku", "keras_": "keras"}
DEAR = {"manipulation", "largest_change", "weights_in_place", "gradient_bounds", "integrated_gradients", "softplus",
        "gradient_change_bound", "hessian_bound", "hessian_bound_anywhere", "smoothgrad"}
SAMPLE = {"control/bfloat16", "linen/prelu_and_weight_norm", "equinox/vmapped_linear", "keras/mlp"}


def _models():
    """The models of every package that is installed, and the packages that are not."""
    found, missing = {}, []
    for module, package in PACKAGES.items():
        try:
            found |= importlib.import_module(f"foreign.{module}").MODELS
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            missing.append(package)
    return found, missing


MODELS, MISSING = _models()


def _cells():
    known = known_failures()
    for model in MODELS:
        for feature in FEATURES:
            marks = [] if model in SAMPLE and feature not in DEAR else [pytest.mark.slow]
            if (model, feature) in known:
                marks.append(pytest.mark.xfail(strict=True, reason=known[model, feature]))
            yield pytest.param(model, feature, marks=marks, id=f"{model}-{feature}")
    for package in MISSING:
        yield pytest.param(package, "", marks=pytest.mark.skip(reason=f"{package} is not installed"), id=package)


@functools.lru_cache(maxsize=1)
def subject(model):
    return Subject(MODELS[model])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("model", "feature"), _cells())
def test_right_or_refused(model, feature, record_property, x64):
    if feature == "weights_in_place" and not subject(model).update:
        record_property("cell", [model, MODELS[model].family, feature, ""])
        return
    try:
        words = verdict(FEATURES[feature], subject(model))
    except Exception as error:
        words = f"wrong: {type(error).__name__}: {first_line(error)}"
        raise
    finally:
        record_property("cell", [model, MODELS[model].family, feature, words])


def test_known_failures_are_cells():
    assert [cell for cell in known_failures() if cell[1] not in FEATURES or not (cell[0] in MODELS or MISSING)] == []


def test_the_zoo_is_large():
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed")
    assert len(MODELS) >= 65
    for package in ("linen", "nnx", "equinox", "haiku", "keras"):
        assert sum(name.startswith(package) for name in MODELS) >= 8


def test_the_table_names_every_family_and_feature():
    if not DOCUMENT.exists():
        pytest.skip("docs/models.md is not written yet: make table")
    text = DOCUMENT.read_text()
    families = {model.family for model in MODELS.values()}
    assert [f for f in families if f"| {f} (" not in text] == []
    assert [f for f in FEATURES if f"**{f.replace('_', ' ')}**" not in text] == []
