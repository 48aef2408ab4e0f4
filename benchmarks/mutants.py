"""Do the tests notice a wrong operator? One small error at a time in the library, each judged by its module's tests.

    python benchmarks/mutants.py                  # 60 minutes on one core; goes on where it stopped
    python benchmarks/mutants.py --again          # survivors once more, after the tests were mended

A mutant (`mutations.py`) is made in a copy of the repository. It is judged by those tests of its module (`TESTS`) that
run its lines on the clean tree, fastest first, as many as take `seconds` there; the first that fails kills it, and so
does running six times as long as the clean tests. Results are lines of results/mutants.jsonl, the last one of a mutant
counts; results/mutants_equivalent.json says of survivors why no test can tell them. Writes docs/mutants.md.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import cache, partial
from pathlib import Path

import mutations

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.jsonl"
EQUIVALENT = ROOT / "benchmarks" / "results" / "mutants_equivalent.json"
PAGE = ROOT / "docs" / "mutants.md"
LEFT_OUT = ("data.py", "datasets.py", "plot.py", "types.py", "__init__.py")
TESTS = {  # of a file, else of its room; beside the doctests of the room
    "arguments.py": "geometry attack",
    "attack": "known_answers attack_steps attack largest_change diagnosis masking sneaking",
    "certify": "known_answers enclosure certificates intervals",
    "checkpoint.py": "checkpoint",
    "defend": "known_answers budgets defend",
    "defend/penalties.py": "known_answers defend training_loss lcnn",
    "devices.py": "devices",
    "explain": "cam heatmaps propagation explanation_oracles explain",
    "extras.py": "package errors",
    "fool": "known_answers fooling",
    "geometry": "known_answers geometry level_set smooth_hessian sweep piecewise",
    "memory.py": "memory",
    "metrics": "known_answers metrics heatmaps",
    "metrics/fooling.py": "known_answers fooling",
    "models": "known_answers models weights",
    "models/lipschitz.py": "lcnn",
    "nonlinearities.py": "smooth rewrite spellings",
    "numerics.py": "geometry explain sweep",
    "objectives.py": "known_answers attack fooling",
    "precision.py": "precision",
    "programs.py": "memory",
    "pooling.py": "known_answers models",
    "rewrite": "known_answers rewrite smooth spellings",
    "rewrite/operations.py": "known_answers rewrite propagation",
    "smooth.py": "smooth",
    "train": "known_answers budgets training_loss defend train",
}


def module(path):
    return path.removeprefix("xmanip_jax/").split("/")[0]


def sites():
    files = [file for file in sorted((ROOT / "xmanip_jax").rglob("*.py")) if file.name not in LEFT_OUT]
    return [site for file in files for site in mutations.sites(str(file.relative_to(ROOT)), file.read_bytes())]


def copied(work):
    """A copy of what git knows of the tree."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def pytest(tree, *options, limit=None, **environment):
    """pytest in the tree, in one process: (exit code, None past the limit of seconds; what it said)."""
    environment = os.environ | {"PYTHONPATH": f"{tree}:{tree / 'benchmarks'}"} | environment
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *options]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit,
                              check=False)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout


@cache
def clean(tree, work, name):
    """{test: [seconds, {file: lines of it that the test runs}]} of a test file or package that must pass as it is."""
    read = sorted({*(tree / "xmanip_jax").rglob("*.py"), *(tree / "tests").glob(Path(name).name)})
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in read)).hexdigest()[:16]
    kept = work / f"{Path(name).stem}-{digest}.json"
    if not kept.exists():
        code, said = pytest(tree, "-p", "covered_lines", name, COVERED_LINES=str(kept))
        if code not in (0, 5):
            kept.unlink(missing_ok=True)
            raise SystemExit(f"{name} must pass before it can judge:\n{said}")
    return json.loads(kept.read_text())


def chosen(site, tests, seconds):
    """The tests that run the site's lines, fastest first, then the others of their files, as far as the seconds go.

    The latter because what is built or compiled once in a process is seen to run only in the first test that needs it.
    """
    file = lambda test: test.partition("::")[0]
    files = {file(test) for test, (_, lines) in tests.items() if site.path in lines}
    ran = {test: set(lines.get(site.path, ())) for test, (_, lines) in tests.items() if file(test) in files}
    some, total = [], 0.0
    for test in sorted(ran, key=lambda test: (ran[test].isdisjoint(site.lines), not ran[test], tests[test][0])):
        if not some or total + tests[test][0] <= seconds:
            some.append(test)
            total += tests[test][0]
    return some, total


def judged(site, tree, work, seconds):
    """The site's record: killed by a test, by the time, or survived."""
    names = TESTS.get(site.path.removeprefix("xmanip_jax/")) or TESTS.get(module(site.path), "")
    tests = clean(tree, work, f"xmanip_jax/{module(site.path)}")
    for name in names.split():
        tests = tests | clean(tree, work, f"tests/test_{name}.py")
    some, expected = chosen(site, tests, seconds)
    source, start = (tree / site.path).read_bytes(), time.monotonic()
    (tree / site.path).write_bytes(mutations.applied(site, source))
    # A cache of bytecode knows a source by its size and its second: no two mutants may share both.
    os.utime(tree / site.path, (start, start))
    code, said = pytest(tree, "-x", *some, limit=60 + 6 * expected) if some else (0, "")
    shutil.copy2(ROOT / site.path, tree / site.path)
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return {"id": site.id, "path": site.path, "line": site.lines[0], "kind": site.kind, "before": site.before,
            "after": site.after, "tests": len(some), "clean_seconds": round(expected, 1),
            "verdict": {0: "survived", None: "timeout"}.get(code, "killed"), "code": code,
            "by": by and by.group(1), "seconds": round(time.monotonic() - start, 1)}


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(sample, judge, path, again=()):
    """Judge what of the sample has no record yet, or survived and is wanted `again`; one line of `path` each."""
    known = {record["id"]: record["verdict"] for record in records(path)}
    todo = [site for site in sample if site.id not in known or (site.id in again and known[site.id] == "survived")]
    for number, site in enumerate(todo):
        record = judge(site)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{number + 1}/{len(todo)} {record['verdict']} {record['seconds']} s {site.path}:{site.lines[0]} "
              f"{site.kind}: {site.after}", flush=True)


def page(sample, every, found, equivalent, seed):
    """The scores by module, and every mutant that survived the first time."""
    first, last = {}, {}
    for record in found:
        first.setdefault(record["id"], record)
        last[record["id"]] = record
    sample = [site for site in sample if site.id in last]
    rows, total = defaultdict(Counter), Counter(module(site.path) for site in every)
    for site in sample:
        for row in (module(site.path), "all"):
            rows[row] += Counter(sites=1, first=first[site.id]["verdict"] != "survived",
                                 now=last[site.id]["verdict"] != "survived", equivalent=site.id in equivalent)
    total["all"] = len(every)
    most = max((record["clean_seconds"] for record in first.values()), default=0)
    yield HEAD.format(seed=seed, left_out=", ".join(LEFT_OUT), most=most)
    yield "| module | possible | sampled | killed at first | killed now | equivalent | score |\n" + 7 * "|---" + "|"
    for name, row in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        yield (f"| {name} | {total[name]} | {row['sites']} | {row['first']} | {row['now']} | {row['equivalent']} | "
               f"{100 * row['now'] / row['sites']:.0f} % |")
    yield "\nSurvivors of the first run:\n\n| place | line | mutant | judgement |\n|---|---|---|---|"
    for site in sample:
        if first[site.id]["verdict"] == "survived":
            said = f"equivalent: {equivalent[site.id]}" if site.id in equivalent else "survives"
            if last[site.id]["verdict"] != "survived":
                said = f"mended: {last[site.id]['by'] or 'takes too long'}"
            cells = (text.replace("|", "\\|") for text in (site.before, site.after))
            yield f"| {site.path}:{site.lines[0]} | " + " | ".join(f"`{cell}`" for cell in cells) + f" | {said} |"


HEAD = """# Mutants

Written by `make mutants` (`benchmarks/mutants.py`): a random sample (seed {seed}) of single errors in the arithmetic
and the conditions of the library, spread evenly over its files. Left out are {left_out}, default
values, annotations, and what an error says. A mutant is judged by those tests of its module that run its lines, then
by the others of the same test files, in the first run at most {most:.0f} s of them on the clean tree; survivors
were judged again with more and with what was added to the tests. The score counts equivalent mutants as survivors.
Paths and lines are those of the tree that was judged.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=155)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the clean tests that judge one mutant")
    parser.add_argument("--again", action="store_true", help="judge survivors that are not equivalent once more")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "mutants")
    options = parser.parse_args()
    every = sites()
    sample = mutations.sample(every, options.count, options.seed)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    equivalent = json.loads(EQUIVALENT.read_text())
    again = {site.id for site in sample} - set(equivalent) if options.again else ()
    run(sample, partial(judged, tree=copied(work), work=work, seconds=options.seconds), RESULTS, again)
    PAGE.write_text("\n".join(page(sample, every, records(RESULTS), equivalent, options.seed)) + "\n")


if __name__ == "__main__":
    main()
