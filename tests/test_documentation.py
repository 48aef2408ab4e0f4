"""What a reader follows: links, lists of what is there, tutorials with their pictures, the pictures of the theory."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

import reproduce

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def loaded(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path):
    """The text of a page, or of a notebook's text cells, without its code."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```$|(?<!`)`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The addresses of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", prose(page)):
        target = page.parent / link if link else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in nav, page
    for notebook in NOTEBOOKS:
        assert f": tutorials/{notebook.stem}.md\n" in nav


def test_questions_are_answered_within_two_clicks():
    first = (ROOT / "docs" / "index.md").read_text()
    questions = sorted((ROOT / "docs" / "howto").glob("*.md"))
    assert len(questions) == 16
    assert all(f"](howto/{page.name})" in first for page in questions)


def test_the_list_of_names_is_as_generated():
    page = loaded(ROOT / ".ci" / "reference.py").page()
    assert (ROOT / "docs" / "reference.md").read_text() == page, "python .ci/reference.py writes it"


def test_every_study_and_every_shared_part_is_in_the_index():
    index = (ROOT / "experiments" / "README.md").read_text()
    assert set(re.findall(r"\| `(\w+)` \| \[", index)) == set(reproduce.studies())
    assert set(re.findall(r"^\| `(\w+\.py)` \|", index, re.MULTILINE)) == {
        file.name for file in (ROOT / "experiments" / "common").glob("*.py")}
    doors = {file.name for file in (ROOT / "experiments").glob("*.py")} - {"reproduce.py"}
    assert set(re.findall(r"`python experiments/(\w+\.py)` \|", index)) == doors


def test_every_benchmark_is_in_the_index():
    index = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(file.name in index for file in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_their_pictures(path):
    assert path.stat().st_size < 1.5e6
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "notebooks/store.py runs it"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    figures = [output["data"] for output in outputs if "<Figure" in str(output.get("data", {}).get("text/plain"))]
    assert figures and all("image/png" in figure for figure in figures)


@pytest.mark.usefixtures("x64")
def test_the_picture_of_theorem_1():
    theory = loaded(ROOT / "docs" / "figures" / "theory.py")
    bound, ends, turn = (np.asarray(line.get_ydata()) for line in theory.turns(np.array([1.0, 3.4])).axes[0].lines)
    assert (bound >= turn).all() and (ends[1] < turn[1])  # the ends' curvature is no bound
