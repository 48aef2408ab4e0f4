"""Random models against what the library says of them, one line of JSON each; goes on where it stopped.

    python benchmarks/fuzz.py soundness           # are bounds and certificates kept? 125 spellings of 40 networks
    python benchmarks/fuzz.py spellings           # do two spellings of a network have the same explanations? 1000 pairs
    python benchmarks/fuzz.py soundness --count 2 --networks 4 --points 100   # a smoke test

Models: tests/random_spellings.py and tests/twins.py, by seed. Lines are appended to the log as they come; what it holds
already is not computed again, and a log of other settings is an error. At the end the whole is counted into
results/fuzz_soundness.json or results/fuzz_spellings.json.
"""

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Literal

# Compiles much, computes little. Not at optimisation level 0: there XLA's CPU compiler got a gradient of the model of
# seed 60 wrong by 1 % (0.0220; alone, in float64 and at the default level it is 0.0186).
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_llvm_disable_expensive_passes=true"

import jax
import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "tests")]
from common import files, runs  # noqa: E402

TOLERANCE = 1e-6  # of two spellings, relative to a map's largest value


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw models and check them."""

    kind: tyro.conf.Positional[Literal["soundness", "spellings"]]
    count: int | None = None
    """Spellings of "soundness" (125), pairs of "spellings" (1000)."""
    networks: int = 40
    """Of each spelling, for "soundness"."""
    points: int = 1000
    """Sampled in the box of each network, for "soundness"."""
    share: tuple[int, int] = (0, 1)
    """(k, n): the seeds k, k + n, k + 2 n ... only, for n processes side by side."""
    log: Path | None = None
    """Default runs/fuzz_KIND.jsonl."""
    out: Path = Path(__file__).parent / "results"
    """The folder of the summary."""


def soundness(seed: int, config: Config) -> dict:
    from soundness import check

    return check(seed, config.networks, config.points)


def spellings(seed: int, config: Config) -> dict:
    """The largest relative difference of each explanation, infinite where only one twin is refused.

    loops: explanations that one twin, a loop, is refused for, `rewrite.unroll` being the way out. Only patterns are
    left there, since unrolled they are estimated for each turn; all others are compared after unrolling.
    """
    from twins import difference, maps, twins

    jax.config.update("jax_enable_x64", True)
    pair = twins(seed)
    found = maps(pair, patterns=seed % 4 == 0)
    words = {name: " ".join(v for v in both if isinstance(v, str)) for name, both in found.items()}
    loops = [name for name, both in found.items() if difference(*both) > 1 and "rewrite.unroll" in words[name]]
    differences = {name: difference(*both) for name, both in found.items() if name not in loops}
    return {"seed": seed, "pair": pair.name, "different": {n: d for n, d in differences.items() if not d <= TOLERANCE},
            "refused": [n for n, (a, b) in found.items() if isinstance(a, str) and isinstance(b, str)],
            "loops": loops, "equal": len(differences), "largest": max(d for d in differences.values())}


def summary(kind: str, lines: list[dict]) -> dict:
    """What all lines say together."""
    if kind == "spellings":
        refused = Counter(name for line in lines for name in line["refused"])
        return {"pairs": len(lines), "comparisons": sum(line["equal"] for line in lines), "both_refused": dict(refused),
                "loops_to_unroll": sum(len(line.get("loops", ())) for line in lines),
                "different": {line["seed"]: line["different"] for line in lines if line["different"]}}
    networks = sum(line["networks"] for line in lines)
    refused = sum(line["networks"] for line in lines if line["refused"])
    held, broken = Counter(), Counter()
    for line in lines:
        held.update(line.get("held", {}))
        broken.update(line.get("broken", {}))
    return {"spellings": len(lines), "networks": networks, "refused_networks": refused,
            "refused_share": refused / max(networks, 1),
            "without_curvature": sum(line["networks"] for line in lines if line.get("curvature")),
            "held": dict(held), "broken": dict(broken),
            "broken_seeds": [line["seed"] for line in lines if line.get("broken")]}


def main(config: Config) -> None:
    log = config.log or Path("runs") / f"fuzz_{config.kind}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    settings = {k: v for k, v in runs.settings(config).items() if k in ("networks", "points")}
    commit = runs.environment()["commit"]
    if wrong := [line["settings"] for line in lines if line["settings"] != settings]:
        raise SystemExit(f"{log} was written with {wrong[0]}, not {settings}: name another --log")
    count = config.count or {"soundness": 125, "spellings": 1000}[config.kind]
    done, check = {line["seed"] for line in lines}, {"soundness": soundness, "spellings": spellings}[config.kind]
    for seed in range(config.share[0], count, config.share[1]):
        if seed in done:
            continue
        start = time.perf_counter()
        with jax.enable_x64(config.kind == "spellings" or seed % 2 == 1):
            line = check(seed, config)
        line |= {"seconds": round(time.perf_counter() - start, 1), "commit": commit, "settings": settings}
        with log.open("a") as f:
            f.write(json.dumps(line) + "\n")
        if bad := line.get("broken") or line.get("different"):
            print(f"seed {seed}: {line.get('spelling') or line.get('pair')}: {bad}", flush=True)
        if seed % 100 < 2:
            jax.clear_caches()
    lines = sorted(map(json.loads, log.read_text().splitlines()), key=lambda line: line["seed"])
    found = summary(config.kind, lines)
    print(json.dumps(found, indent=1))
    if len(lines) >= count:
        files.write_json(config.out / f"fuzz_{config.kind}.json", {
            "config": {**runs.settings(config), "log": log.name}, **runs.environment(),
            "commits": sorted({x["commit"] for x in lines}), "date": time.strftime("%Y-%m-%d"),
            "summary": found, "lines": lines})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
