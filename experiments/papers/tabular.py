"""Hide the use of a protected feature: a decision on tabular data that discriminates and shows that it does not.

    python experiments/reproduce.py tabular
    python experiments/reproduce.py tabular --quick

Simulated applicants (no data set is needed): ten standard normal features and a protected one, +-1; the decision that
is learnt is the sign of x1 + x2 / 2 + 2 * protected. A network of two hidden layers learns it, and is then fine-tuned:
outputs as they were, the share of the protected feature in an explanation as small as can be (`fool.fooling`). For the
gradient, gradient x input and integrated gradients, each hidden in a network of its own, on held-out applicants: the
protected feature's share in every explanation, the share of decisions that stay, and of those that another value of the
protected feature turns. Heo et al. 2019's reviewers asked for it; Slack et al. 2020 and Dimanov et al. 2020 did alike.

The run folder gets results.json, with the value of every applicant; --resume goes on.

Run time: a minute on 2 cores.
"""

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from rich.console import Console

from common import files, report, runs
from xmanip_jax import explain, fool, metrics, objectives, smooth, train

FEATURES = 11
PROTECTED = 10
OTHERS = np.arange(FEATURES) != PROTECTED
EXPLANATIONS = {"gradient": explain.gradient(), "gradient x input": explain.gradient_x_input(),
                "integrated gradients": explain.integrated_gradients(steps=20)}


@dataclasses.dataclass(frozen=True)
class Config(runs.Run):
    """A protected feature, used and hidden."""

    seeds: int = 3
    """Number of seeds: of the applicants and of the networks."""
    applicants: int = 4000
    """Number to train on."""
    count: int = 300
    """Number of held-out applicants."""
    steps: int = 2000
    """Number of steps of each training."""
    weight: float = 3.0
    """Weight of the protected feature's share beside the squared change of the outputs."""
    quick: bool = False
    """A few steps: does everything run?"""


def apply(params, state, x):
    """Two hidden layers of softplus: Float[11] -> Float[2]."""
    for weights, bias in params[:-1]:
        x = smooth.softplus_beta(x @ weights + bias, 5.0)
    return x @ params[-1][0] + params[-1][1]


NET = SimpleNamespace(apply=apply)


def applicants(count, seed):
    """(Float[count, 11], Int[count]): their features and the decisions that a network learns."""
    random = np.random.default_rng(seed)
    x = np.float32(random.normal(size=(count, FEATURES)))
    x[:, PROTECTED] = random.choice([-1, 1], count)
    return x, np.int32(x[:, 0] + x[:, 1] / 2 + 2 * x[:, PROTECTED] > 0)


def drawn(seed):
    """Random weights: 11, 32, 32, 2."""
    random = np.random.default_rng(seed)
    sizes = (FEATURES, 32, 32, 2)
    return [(np.float32(random.normal(size=size, scale=np.sqrt(2 / size[0]))), np.zeros(size[1], np.float32))
            for size in itertools.pairwise(sizes)]


def fitted(config, params, x, y, **options):
    """The parameters after a training."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, config.steps))
    run = train.fit(optimizer, batch=100, steps=config.steps, devices=jax.devices()[:1], every=config.steps, **options)
    return run(NET, train.begin(params, {}, optimizer), x, y).params


def hidden(config, params, e, x, y):
    """The parameters after the protected feature was hidden from an explanation."""
    quiet = objectives.weighted((1.0, objectives.keep_logits(metrics.mse)),
                                (config.weight, objectives.raise_region(OTHERS)))
    term = fool.fooling(e, Partial(apply, params, {}), quiet, channels=None, predicted=True)
    return fitted(config, params, x, y, terms=((1.0, term),), label_weight=0.0)


@partial(jax.jit, static_argnums=2)
@partial(jax.vmap, in_axes=(None, 0, None))
def share(params, x, name):
    """The protected feature's part of an explanation's heat map."""
    f = Partial(apply, params, {})
    return explain.heatmap(EXPLANATIONS[name](f, x, f(x).argmax()), channels=None)[PROTECTED]


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def decided(params, x):
    return apply(params, {}, x).argmax()


def judged(params, honest, x, y):
    """{measure: Float[count]} of a network beside the honest one."""
    turned = x * np.where(OTHERS, 1, -1)
    now = decided(params, x)
    found = {f"share, {name}": share(params, x, name) for name in EXPLANATIONS}
    return found | {"accuracy": now == y, "decisions_kept": now == decided(honest, x),
                    "turned_by_the_feature": now != decided(params, jnp.float32(turned))}


def carried_out(config, seed):
    """{network and measure: Float[count]}: the honest network and one for each explanation."""
    (x, y), (z, w) = applicants(config.applicants, 2 * seed), applicants(config.count, 2 * seed + 1)
    honest = fitted(config, drawn(seed), x, y)
    found = {"honest": judged(honest, honest, z, w)}
    for name, e in EXPLANATIONS.items():
        found[f"hidden from {name}"] = judged(hidden(config, honest, e, x, y), honest, z, w)
    return {f"{network}/{m}": np.float32(v) for network, measures in found.items() for m, v in measures.items()}


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, seeds=1, steps=20, applicants=200, count=20)
    runs.check_positive(config, "seeds", "applicants", "count", "steps", "weight")
    out, settings = runs.begin("tabular", config)
    parts = [runs.finished(out, seed, partial(carried_out, config, seed), name="seed") for seed in range(config.seeds)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mean = [name for name in found if "share" not in name]
    flat, rows = report.summary(found, 0, mean=mean), {}
    for name, row in flat.items():
        network, measure = name.split("/")
        rows.setdefault(network, {})[measure] = row
    files.write_arrays(out / "arrays.npz", found)
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(), "results": rows,
        "per_applicant": {name: np.round(np.float64(v), 4).tolist() for name, v in found.items()}})
    console.print(report.grid(("", *rows), [
        (report.words(measure), *(report.cell(row[measure]) for row in rows.values())) for measure in rows["honest"]]))


def run(arguments=None) -> None:
    runs.command("tabular", Config, main, __doc__, arguments)
