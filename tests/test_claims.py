"""Pages quote what is stored; the page of claims is as written, every verdict stands on its conditions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments" / "results"))

import claims  # noqa: E402
import quotes  # noqa: E402

KNOWN = claims.claims()


def test_the_page_is_as_written():
    assert claims.PAGE.read_text() == claims.page(), "python experiments/results/claims.py writes it"


@pytest.mark.parametrize("claim", KNOWN, ids=lambda claim: claim["id"])
def test_a_verdict_stands_on_numbers(claim):
    for name in ("id", "paper", "claim", "number", "sample", "command", "deviation"):
        assert claim[name].strip(), name
    assert claim["verdict"] in claims.VERDICTS
    if claim["verdict"] == "not testable here":
        return
    assert claim["holds"] and claims.sources(claim)
    for condition in claim["holds"]:
        assert quotes.holds(condition), condition
    assert claim.get("tries") or claim["verdict"] == "reproduced"


def test_every_claim_of_the_five_papers_is_there():
    """D19-1 to 4, D22-1 to 5, H-1 to 6, A-1 to 6, B-1 to 5."""
    ids = {claim["id"].split(" ")[0] for claim in KNOWN}
    wanted = {f"{letter}-{i}" for letter, count in {"D19": 4, "D22": 5, "H": 6, "A": 6, "B": 5}.items()
              for i in range(1, count + 1)}
    assert wanted <= ids, sorted(wanted - ids)


def test_commands_exist():
    for claim in KNOWN:
        for command in claim["command"].split("; "):
            script, *arguments = command.split()
            known = ROOT / "experiments" / script, ROOT / script
            assert any(place.is_file() for place in known), command
            if script == "reproduce.py":
                assert (ROOT / "experiments" / "papers" / f"{arguments[0]}.py").is_file(), command


def test_the_results_name_commits_of_this_history():
    """A number's commit can be looked up; those from before a commit was noted clean are remade one by one."""
    known = subprocess.run(["git", "log", "--format=%h"], cwd=ROOT, capture_output=True, text=True, check=False)
    if known.returncode:
        pytest.skip("no history here: not a clone")
    for name in {name for claim in KNOWN for name in claims.sources(claim)}:
        for commit in re.findall(r'"commit": "([0-9a-f]{7})', quotes.place(name).read_text()):
            assert commit in known.stdout, (name, commit)


def test_quotes():
    assert quotes.wilson(0.5, 100) == pytest.approx({"value": 0.5, "low": 0.4038, "high": 0.5962}, abs=1e-4)
    assert quotes.wilson(1.0, 1000)["high"] == pytest.approx(1) and quotes.wilson(1.0, 1000)["low"] < 1
    reference = "dombrowski2022_mnist > results > plain > accuracy"
    assert quotes.filled(f"a {{{reference} : .3f}}.") == "a 0.970 (0.967 to 0.973)."
    assert quotes.holds(f"{reference} > low >> 0.9") and not quotes.holds(f"{reference} > high <= 0.9")
    with pytest.raises(KeyError, match="plainest"):
        quotes.filled("{dombrowski2022_mnist > results > plainest > accuracy}")


def plain_text(page):
    """A page's text without its line breaks."""
    return " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize(("page", "text"), quotes.quotations(), ids=lambda value: value[:40])
def test_pages_quote_what_is_stored(page, text):
    assert " ".join(text.split()) in plain_text(page)
