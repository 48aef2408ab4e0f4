"""The mutation run: which errors it makes, that it draws the same ones again, and that it goes on where it stopped."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import mutants
import mutations

SOURCE = b'''def f(x, axis=-1):
    """2 + 2, said of \xce\xb2."""
    if x.ndim != 1 or x.size < 4:
        raise ValueError(f"{x.ndim + 1} axes")
    best = jnp.where(x > 0, x.sum(), -jnp.inf)  # \xce\xb2 - 1
    return best / (x - best) if not axis else "a" + "b"
'''
MADE = {
    "x.ndim == 1", "!= (2)", "1 and x.size", "size <= 4", "< (5)", "if (not (x.ndim != 1 or x.size < 4)):",
    "x >= 0", "> (1)", "x.mean()", "+jnp.inf", "0, -jnp.inf, x.sum())",
    "best * (x", "x + best)", "if (not (not axis)) else", "if     axis else",
}


def test_each_error_is_made_once_and_nothing_else_changes():
    made = [mutations.applied(site, SOURCE).decode() for site in mutations.sites("f.py", SOURCE)]
    assert len(made) == len(set(made)) == len(MADE)
    for text in MADE:
        assert sum(text in mutant for mutant in made) == 1, text
    for mutant in made:
        compile(mutant, "f.py", "exec")
        changed = [a for a, b in zip(SOURCE.decode().splitlines(), mutant.splitlines(), strict=True) if a != b]
        assert len(changed) == 1 and '"""' not in changed[0] and "def" not in changed[0] and "raise" not in changed[0]


def test_a_site_keeps_its_name_when_lines_above_it_change():
    ids = [site.id for site in mutations.sites("f.py", SOURCE)]
    assert ids == [site.id for site in mutations.sites("f.py", b"import jax\n" + SOURCE)]
    assert not set(ids) & {site.id for site in mutations.sites("g.py", SOURCE)}


def test_a_sample_is_drawn_by_seed_and_spread_over_the_files():
    sites = [site for name in ("f.py", "g.py") for site in mutations.sites(name, SOURCE)]
    few, more, other = (mutations.sample(sites, count, seed) for count, seed in ((4, 0), (8, 0), (8, 1)))
    assert set(few) < set(more) != set(other)
    assert [site.path for site in more] == ["f.py"] * 4 + ["g.py"] * 4


def test_the_tests_of_its_lines_come_first_within_the_seconds():
    site = mutations.sites("f.py", SOURCE)[0]
    tests = {"a::slow": [9.0, {"f.py": [1, 3]}], "b::fast": [1.0, {"f.py": [3]}], "a::near": [0.5, {"f.py": [6]}],
             "b::far": [0.1, {"g.py": [3]}], "c::other": [0.1, {"g.py": [3]}], "a::long": [90.0, {"f.py": [3]}]}
    assert mutants.chosen(site, tests, 12.0) == (["b::fast", "a::slow", "a::near", "b::far"], 10.6)


def test_every_file_has_tests_that_are_there():
    for path in {site.path for site in mutants.sites()}:
        assert path.removeprefix("xmanip_jax/") in mutants.TESTS or mutants.module(path) in mutants.TESTS, path
    for names in mutants.TESTS.values():
        assert all((mutants.ROOT / "tests" / f"test_{name}.py").exists() for name in names.split())


def test_a_run_goes_on_where_it_stopped_and_repeats_survivors_when_asked(tmp_path, capsys):
    sample, asked = mutations.sites("f.py", SOURCE)[:4], []

    def judge(site):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(site)
        return {"id": site.id, "verdict": "survived" if site == sample[0] else "killed", "by": None, "seconds": 1.0,
                "clean_seconds": 2.0}

    try:
        mutants.run(sample, judge, tmp_path / "found.jsonl")
    except KeyboardInterrupt:
        asked.clear()
    mutants.run(sample, judge, tmp_path / "found.jsonl")
    assert asked == sample[2:]
    asked.clear()
    mutants.run(sample, judge, tmp_path / "found.jsonl", again={site.id for site in sample})
    assert asked == sample[:1]
    found = mutants.records(tmp_path / "found.jsonl")
    assert [record["id"] for record in found] == [site.id for site in (*sample, sample[0])]
    text = "\n".join(mutants.page(sample, sample, found, {sample[0].id: "no test can tell"}, 0))
    assert "| all | 4 | 4 | 3 | 3 | 1 | 75 % |" in text and "equivalent: no test can tell" in text
