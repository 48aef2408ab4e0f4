"""report.html: one well-formed file, for hand-made numbers of every size; file names and class names of any kind."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from jax.tree_util import Partial

import cost
import judge
import manipulate
from common import curvature_report, files, html_report, report, robustness, training, training_report
from xmanip_jax import attack, models

pytestmark = pytest.mark.promotes("ranks", "types")

VOID = {"meta", "img", "br", "circle", "path", "polyline"}
ODD = "Übung <b>\"&' $\\frac$.png"


class Page(HTMLParser):
    """A document as a browser sees it: its text, its attributes; every element is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, name):
        return [value for key, value in self.attributes if key == name]


def checked(text):
    """The page of a text, which asks for nothing from elsewhere and runs nothing."""
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert all(link.startswith("#") for link in page.of("href"))
    assert {link[1:] for link in page.of("href")} == set(page.of("id"))
    assert all(source.startswith("data:image/png;base64,") for source in page.of("src"))
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert not re.search(r"https?://|@import|url\(", text)
    return page


def written(tmp_path, **results):
    """The folder of a run whose results are these."""
    files.write_json(tmp_path / "results.json", {
        "config": {"network": ODD, "count": None, "epsilons": [0.01, 0.03], "resume": True}, "commit": "abc123",
        "python": "3.11", "versions": {"jax": "0.10.2"}, "device": "cpu x1", **results})
    return tmp_path


def row(value):
    return {"statistic": "median", "value": value, "low": value, "high": value, "count": 2, "undefined": 0}


def attacked(n, side=8):
    """Arrays of manipulate.py and judge.py, made up."""
    random = np.random.default_rng(0)
    pixels, maps = random.uniform(size=(6, n, side, side, 3)), random.dirichlet(np.ones(side**2), (6, n))
    maps, logits = maps.reshape(6, n, side, side), random.normal(size=(2, n, 3))
    arrays = {"x": pixels[0], "x_adv": pixels[1], "x_target": pixels[2], "map_original": maps[0], "map_adv": maps[1],
              "map_target": maps[2], "logits_original": logits[0], "logits_adv": logits[1]}
    for i, name in enumerate(("ascent", "random")):
        arrays |= {f"change_{name}": random.uniform(size=n), f"pixels_{name}": pixels[3 + i],
                   f"map_{name}": maps[3 + i], f"logits_{name}": logits[1]}
    return arrays


def test_the_page_is_escaped_and_complete():
    tables = [report.grid((ODD, "b"), [(ODD, "1\n2")], title=ODD, caption=ODD)]
    verdicts = [html_report.Verdict(ODD), html_report.Verdict("said", ["zero_gradient"]), html_report.Verdict("s", [])]
    graphs = [html_report.curve(ODD, [(1, 2.0), (2, 0.5), (3, np.nan)], ODD), html_report.bars(ODD, {ODD: 1, "b": 2}),
              html_report.curve("one", [(100_000, 3e-7)], "x"), html_report.curve("none", [(1, np.inf)], "x")]
    text = html_report.page(ODD, ODD, verdicts, [html_report.Picture(ODD, ODD, [b"png"])], tables, graphs,
                            {ODD: ODD, "nested": [None, True]}, {"versions": {"jax": "1"}})
    page = checked(text)
    assert page.text.count(ODD) == 16 and page.of("alt") == [ODD]
    order = ["Summary", "Pictures", "Graphs", "Tables", "Settings", "Environment"]
    assert re.findall("<h2>(.*?)</h2>", text) == order
    assert ">100000<" in text and ">3e-07<" in text
    for words in ("flags raised: zero gradient", "no flag raised", ", 1 not finite", "not given yes", "jax 1"):
        assert words in page.text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "<section" in text and "Graphs" not in html_report.page("t", "a", [], [], [], [], {"a": 1}, {"b": 2})


def test_few_pictures_only():
    pictures = [html_report.Picture(str(i), "", [b"12"] * 5) for i in range(4)]
    page = checked(html_report.page("t", "a", [], pictures, [], [], {"a": 1}, {}))
    assert page.tags.count("img") == 10 <= html_report.MOST_PICTURES and "2 more would make" in page.text
    table = html_report.by_image(("image",), [(str(i),) for i in range(30)], "t")
    assert html_report.table(table).count("<tr>") == 21 and "20 of 30" in html_report.table(table)


@pytest.mark.parametrize(("count", "classes"), [(1, ("cat", "dog", "<cup>")), (5, ())])
def test_manipulate_and_judge(count, classes, tmp_path):
    arrays, names = attacked(count), [f"{i} {ODD}" for i in range(count)]
    numbers = report.measure({name: np.float32(v) for name, v in arrays.items()})
    found = manipulate.pictures(names, arrays, numbers, classes)
    html_report.write(written(tmp_path), "title", "about", [manipulate.verdict("net", "lrp", numbers)], found,
                      [manipulate.by_image(names, numbers, report.predictions(arrays, classes))])
    page = checked((tmp_path / "report.html").read_text())
    assert page.tags.count("img") == 2 * min(count, 3) and all(name in page.text for name in names)
    assert f"for {numbers['prediction_unchanged'].sum():.0f} of {count}." in page.text
    assert ("median of" in page.text) == (count > 1)
    labels = {report.class_name(classes, label) for label in arrays["logits_original"].argmax(1)}
    assert all(f"{label}, probability" in page.text or count > 3 for label in labels)
    best = int(np.argmax(numbers["map_pearson"]))
    assert found[0].title.startswith(f"{best} ") and ("closest" in found[0].title) == (count > 2)
    for source in page.of("src"):
        assert base64.b64decode(source.split(",")[1]).startswith(b"\x89PNG")
    by = {0.01: arrays, 0.03: arrays}
    flags = {e: {"zero_gradient": attack.Flag(e > 0.02, 0.5, 0.05)} for e in by}
    rows = {e: {"change": row(0.3), "ascent": row(0.3), "random": row(0.2)} for e in by}
    worst = judge.pictures(names, arrays["x"], arrays, classes, 0.03)
    html_report.write(tmp_path, "title", "about", [], [*worst, *judge.curves(rows)],
                      [judge.table(rows, flags, "t"), *judge.details(names, classes, by, flags)])
    page = checked((tmp_path / "report.html").read_text())
    assert page.tags.count("img") == 2 * min(count, 3) + 1 and not judge.curves({0.01: rows[0.01]})
    assert robustness.largest(arrays).max() == pytest.approx(float(
        re.search(r"most changed first.*?(\d\.\d{3})", page.text, re.DOTALL)[1]), abs=1e-3)


def test_cost(tmp_path):
    made = {f"{part}.{key}": 2.5 for part in ("map", "step") for key in ("time_ratio", "flop_ratio", "ms",
                                                                          "temporary_mib", "compile_s")}
    rows = [("gradient", 1, made), ("gradient", 8, made), ("grad_cam", 1, "no layer <features>")]
    shown = report.grid(cost.HEAD, [cost.cells(*r) for r in rows])
    cost.write_page(written(tmp_path, seconds=3), "net", rows, shown, {"grad_cam": rows[2][2]})
    page = checked((tmp_path / "report.html").read_text())
    assert "no layer <features>" in page.text and "the time of 2.5 forward passes" in page.text
    cost.write_page(tmp_path, "net", rows[2:], shown, {"grad_cam": "no"})
    assert "net has none of these" in checked((tmp_path / "report.html").read_text()).text


def test_curvature_and_train(tmp_path):
    pixels, model = np.random.default_rng(0).uniform(size=(4, 6, 6, 3)), Partial(lambda x: (x**2).sum((0, 1)))
    arrays = {"y": np.array([0, 1, 2, 0]), "attacked_change@0.1": np.array([0.1, 0.4, 0.2, 0.3])} | {
        name: np.arange(4.0) for name in curvature_report._BENT}
    maps = html_report.gradients(model, lambda p: p, pixels, arrays["y"])
    np.testing.assert_allclose(maps[1], 2 * pixels[1, ..., 1], rtol=1e-5)
    network = models.Pretrained("net", model, None, None, None, lambda p: p, (6, 6, 3), 3, ("a", "b", "c"))
    picture, table = curvature_report.worst("net", (network, [f"{i}.png" for i in range(4)], pixels),
                                            {"smooth": arrays}, 0.1)
    assert picture.caption.startswith("1: 1.png (b); 2: 3.png (a); 3: 2.png (c).")
    assert [*table.columns[0].cells] == ["1.png", "3.png", "2.png", "0.png"]
    of = {"attacked_change@0.1": row(0.2), "change_linear@0.1": row(0.5), "radii": {"kind": "linear"}}
    said, vague = curvature_report.verdicts({"net": {"relu": of, "soft": of | {"radii": {"kind": None}}}}, 0.1)
    assert "none exceeds 0.5 is certified" in said.text and "nothing is certified" in vague.text
    (tmp_path / "log.csv").write_text("step,loss,penalty\n1,0.5,2\n2,0.25,1\n2,0.25,1\n")
    curves = training_report.curves(tmp_path / "log.csv")
    assert len(curves) == 2 and curves[0].count("<circle") == 2 and ">0.25<" in curves[0]
    said = training_report.verdict(training.Config(), {"accuracy": row(0.9)}, {})
    html_report.write(written(tmp_path), "title", "about", [said],
                      training_report.pictures(network.model, network.model, pixels, arrays["y"], ()),
                      [training_report.table({"accuracy": row(0.9)})], curves)
    page = checked((tmp_path / "report.html").read_text())
    assert "Accuracy: 0.900." in page.text and "class 0, class 1, class 2" in page.text and page.tags.count("img") == 3
