"""What experiments print: tables of 80 columns in which no word is broken, and one value for one image."""

import io

import numpy as np
import pytest
from rich.console import Console

from common import curvature_report, report, study
from papers import dombrowski2019_report
from papers.dombrowski2019_smoothing import MEASURES

pytestmark = pytest.mark.promotes("ranks", "types")

EXPLANATIONS = ("gradient", "gradient_x_input", "integrated_gradients", "guided_backprop", "lrp", "pattern_attribution")
NETWORKS = ("mnist_smallgap_normal", "mnist_smallgap_intadv")


def printed(*tables):
    """The text of tables on a terminal of 80 columns; every word of their cells is in it, whole."""
    console = Console(width=80, file=io.StringIO())
    console.print(*tables)
    text = console.file.getvalue()
    for column in (column for table in tables for column in table.columns):
        for cell in (column.header, *column.cells):
            assert set(cell.split()) <= set(text.split()), cell
    return text


def row(value, count=200):
    return {"statistic": "median", "value": value, "low": 0.9 * value, "high": 1.1 * value, "count": count,
            "undefined": 0}


def rows(measures, count=200):
    return {m: row(2.4e-7 if "mse" in m else 0.56789, count) for m in measures}


@pytest.mark.parametrize("count", [1, 2])
def test_one_value_for_one_image(count):
    measured = rows(report._HINTS, count) | {"map_pearson": row(-0.012345, count)}
    text = printed(report.table(measured, "gradient of efficientnet_lite0"))
    assert ("-0.0123" in text.split()) and ("median" in text) == (" .. " in text) == (count == 2)
    assert len(text.strip().splitlines()) == 4 + len(measured)  # a line for each measure
    assert report.interval(row(0.5, count), 2) == ("0.50" if count == 1 else "0.50 (0.45 to 0.55)")
    assert report.cell(row(2.4e-7, count)) == ("2.4e-07" if count == 1 else "2.4e-07\n(2.2..2.6)e-07")
    assert report.cell(row(0.5, count)) == ("0.500" if count == 1 else "0.500\n0.450..0.550")


def test_an_undefined_value_is_shown_as_such():
    assert report.cell(row(float("nan"))) == "nan\nnan..nan"


def test_tables_of_the_studies():
    measures = {*dombrowski2019_report._MAPS, *dombrowski2019_report._IMAGES}
    printed(*dombrowski2019_report.attack_tables({e: rows(measures) for e in EXPLANATIONS}, "cifar10_resnet20"))
    smoothed = {label: rows(MEASURES) for label in ("undefended", "softplus kappa=0.3", "SmoothGrad 0.1")}
    printed(dombrowski2019_report.smoothing_table(dict.fromkeys(EXPLANATIONS, smoothed), "cifar10_resnet20"))
    epsilons = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    of_epsilon = [f"{m}@{e:g}" for e in epsilons for m in ("attacked_change", "change_linear", "attacked_top",
                                                           "top_linear")]
    bends = rows([*curvature_report.CURVATURES, *of_epsilon]) | {
        "radii": {"certified_top": 1e-4, "certified_signs": 1e-3, "attacked_top": None, "kind": "linear"}}
    bent = {network: dict.fromkeys(("relu", "softplus 10"), bends) for network in NETWORKS}
    printed(*curvature_report.tables(bent, epsilons, 100))
    trained = {"accuracy": row(0.98), "map_change@0.05": row(0.1) | {"reduction": row(0.85)},
               "adversarial_accuracy@0.05": row(0.5)}
    printed(*study.tables({"gradient_alignment": trained}, (0.05,)))


def test_class_names():
    arrays = {"logits_original": np.eye(3)[[2, 0]], "logits_adv": np.eye(3)[[2, 1]]}
    names = report.predictions(arrays, ("cat", "dog", "cup"))
    assert names == {"original": ["cup", "cat"], "manipulated": ["cup", "dog"]}
    assert report.predictions(arrays, ())["manipulated"] == ["class 2", "class 1"]
