"""Which defences make the map of a network worth defending steadier, at what price, and is it their curvature?

    python experiments/reproduce.py resnet20
    python experiments/reproduce.py resnet20 --quick        # without data: does everything run?

ResNet-20 on CIFAR-10 (accuracy 0.917). Every relu becomes a softplus of beta = kappa / s, s the standard deviation of
that activation's inputs over 32 training images, and the network learns for --base-steps to live with it ("softplus").
From there each smooth defence of FAMILY goes on for --steps, or some times as many where a step is cheap, and so does
"longer", the control without a penalty; the others go on from the relu network.
Each is judged on the first --count test images: the largest change of the gradient map, 1 - Pearson correlation, within
each of --epsilons, by `attack.largest_change` and a search that sees no gradient, with the flags of `attack.flags`; the
curvature of the predicted class's logit on the first --curved; the accuracy on the whole test split. "untrained" is the
softplus network before any training, "plain" the relu network as it is.

The run folder gets results.json and table.md after every piece that is finished (summaries with bootstrap intervals,
flags, the values of every image), and the weights of every network; killed, --resume goes on. A median says how many
images are behind it; one within another budget, or of fewer images, is compared with the plain network's on the same.

Run time: about an hour on 2 idle cores.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from rich.console import Console

from common import files, inputs, program, report, robustness, runs, training, training_data, user_model
from xmanip_jax import checkpoint, data, defend, explain, geometry, metrics, models, smooth, train

NAME, GRADIENT = "cifar10_resnet20", explain.gradient()
PART = 25  # images of a piece


class Member(NamedTuple):
    """terms(epsilon, teacher): of train.training_loss;  smooth: from the softplus network, else from the relu one;

    longer: how many times --steps it learns, where a step is cheap;  frozen: whether BatchNorm keeps its statistics,
    as it must beside a penalty (see `fitted`); such a network learns at --learning-rate, others at that of the base.
    """

    terms: Callable[[float, Any], tuple] = lambda epsilon, teacher: ()
    smooth: bool = True
    label_weight: float = 1.0
    decay: float = 0.0
    longer: int = 1
    frozen: bool = True


def _ascent(epsilon):
    return train.Ascent(epsilon, 1.25 * epsilon, 1, low=0, high=1)  # one step, as Wong et al. 2020


_CAM = explain.cam("features")
FAMILY = {
    "longer": Member(longer=4, frozen=False),
    "smooth_adversarial": Member(lambda epsilon, teacher: ((1.0, defend.adversarial(_ascent(epsilon))),), longer=4,
                                 frozen=False),
    "hessian": Member(lambda epsilon, teacher: ((1e-6, defend.hessian()),)),
    "gradient_alignment": Member(lambda epsilon, teacher: ((1.0, defend.gradient_alignment(radius=2 * epsilon)),)),
    "smooth_adversarial_half": Member(lambda epsilon, teacher: ((1.0, defend.adversarial(_ascent(epsilon / 2))),),
                                      longer=8, frozen=False),
    "cure": Member(lambda epsilon, teacher: ((1e-3, defend.cure(step=1.5)),)),
    "atex": Member(lambda epsilon, teacher: ((1.0, defend.atex(teacher, radius=epsilon, neighbours=2, samples=4)),),
                   label_weight=0.0),
    "weight_decay": Member(smooth=False, decay=0.1, longer=4, frozen=False),
    "adversarial": Member(lambda epsilon, teacher: ((1.0, defend.adversarial(_ascent(epsilon))),), smooth=False,
                          longer=4, frozen=False),
    "trades": Member(lambda epsilon, teacher: ((6.0, defend.trades(_ascent(epsilon))),), smooth=False),
    "int": Member(lambda epsilon, teacher: ((0.01, defend.interpretability(_ascent(epsilon), _CAM)),), smooth=False),
}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """The family of one network."""

    names: Annotated[tuple[str, ...], runs.choices("The trainings that go on", FAMILY)] = (
        "smooth_adversarial", "gradient_alignment", "cure", "smooth_adversarial_half", "hessian", "atex", "longer",
        "adversarial")
    kappa: float = 1.0
    """Sharpness of softplus, relative to the spread of each activation's inputs."""
    base_images: int = 10_000
    """Number of images that the softplus network learns on first, the first ones of the training split."""
    base_steps: int = 200
    """Number of training steps of the softplus network."""
    steps: int = 40
    """Number of training steps of what goes on from it."""
    batch: int = 50
    """Number of images of a training step."""
    base_learning_rate: float = 1e-3
    """Learning rate of the softplus network's first step, decayed to 0 by a cosine."""
    learning_rate: float = 1e-4
    """Learning rate of the first step of what goes on from it with a penalty, decayed to 0 by a cosine."""
    epsilons: tuple[float, ...] = (2, 1, 4)
    """Largest changes of any channel of a pixel, in 255ths; defences train for the first."""
    count: int = 200
    """Number of test images that are attacked."""
    curved: int = 20
    """Number of test images at which curvature is measured."""
    ascent: int = 10
    """Number of steps of the attack from each start."""
    restarts: int = 2
    """Number of random starts of the attack, at least 2."""
    quick: bool = False
    """Random images, a few steps, one defence: does everything run?"""


def networks(config, images) -> tuple[models.Pretrained, models.Pretrained, np.ndarray]:
    """(the relu network, its softplus, the beta of every activation), as functions of the pixels."""
    plain = user_model.of_pixels(inputs.network(NAME, quick=config.quick))
    scales = jax.jit(jax.vmap(lambda x: smooth.activation_scales(plain.model, x)))(images[:32]).mean(0)
    betas = config.kappa / scales
    net = training.softened(plain.net, betas)
    model = Partial(net.apply, plain.params, plain.state)
    return plain, plain._replace(model=model, net=net), np.asarray(betas)


def fitted(network, member, config, steps, rate, images, labels, file, console) -> models.Pretrained:
    """The network trained, read from `file` if it was before; checkpoints lie beside it.

    Beside a penalty BatchNorm keeps its statistics: the penalty sees those, the cross entropy of a batch others, and
    the one would flatten what the other does not use.
    """
    if file.exists():
        return user_model.with_weights(network, file)
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.adamw(schedule, weight_decay=member.decay) if member.decay else optax.adam(schedule)
    net, state = (train.frozen(network.net, network.state), {}) if member.frozen else (network.net, network.state)
    start, folder = train.begin(network.params, state, optimizer, seed=config.seed), file.with_suffix(".steps")
    if checkpoint.latest_step(folder) is not None:
        start = checkpoint.load_step(folder, like=start)

    def keep(training):
        with program.WHOLE:
            checkpoint.save_step(folder, int(training.step), training)

    def show(step, numbers):
        console.print(f"{file.stem} {step}/{steps}", "  ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

    fit = train.fit(optimizer, terms=member.terms(config.epsilons[0] / 255, network.model), batch=config.batch,
                    label_weight=member.label_weight, steps=steps, every=min(20, steps),
                    scale=lambda step: jnp.minimum(1.0, 2 * step / steps) if member.label_weight else 1.0)
    done = fit(net, start, images, labels, callback=show, keep=keep)
    with program.WHOLE:
        models.save_tensors(user_model.tensors(done.params, network.state if member.frozen else done.state), file)
    return user_model.with_weights(network, file)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def curvature(model, x):
    """Of the logit of the predicted class at x."""
    y = model(x).argmax()
    found = geometry.normalised_curvature(lambda z: model(z)[y], x)
    return {"spectral_norm": geometry.spectral_norm(lambda z: model(z)[y], x, steps=16).value,
            "normalised_curvature": found.value, "gradient_norm": found.gradient_norm}


def row(parts, seed):
    """Summaries of {measure: Float[n]} with the values of each image, but for the accuracy."""
    values = {m: {"values": [float(f"{v:.5g}") for v in of]} for m, of in parts.items() if m != "accuracy"}
    return {m: s | values.get(m, {}) for m, s in report.summary(parts, seed, mean=("accuracy",)).items()}


def compared(values, plain, seed):
    """1 - median / median of the plain network, the same images being drawn for both."""
    n = min(len(values), len(plain))
    ratio = lambda i, axis: 1 - np.median(values[np.intp(i)], axis) / np.median(plain[np.intp(i)], axis)
    return metrics.bootstrap_interval(np.arange(n), key=jax.random.key(seed), statistic=ratio)._asdict()


def markdown(found) -> str:
    """The table of results.json: a line for each network, the number of images behind each median."""
    budgets = sorted({m for of in found["results"].values() for m in of if m.startswith("map_change")}, key=_budget)
    head = ["network", "accuracy", *(f"change within {m.partition('@')[2]}" for m in budgets),
            *(f"less than plain within {m.partition('@')[2]}" for m in budgets), "spectral norm of the Hessian",
            "normalised curvature", "flags raised"]
    lines = []
    for name, of in found["results"].items():
        judged = found["flags"].get(name, {}).values()
        raised = sorted({report.words(flag) for at in judged for flag, f in at.items() if f["raised"]})
        less = [of.get(m, {}).get("less than plain") for m in budgets]
        lines.append([report.words(name), _shown(of, "accuracy", 3), *(_shown(of, m, 2, counted=True) for m in budgets),
                      *(f"{100 * v['value']:.0f} % ({100 * v['low']:.0f} to {100 * v['high']:.0f})" if v else ""
                        for v in less),
                      _shown(of, "spectral_norm", 1), _shown(of, "normalised_curvature", 2),
                      ", ".join(raised) or "none" * bool(judged)])
    return report.markdown(head, lines)


def _budget(measure):
    return float(measure.partition("@")[2].removesuffix("/255"))


def _shown(of, measure, digits, counted=False):
    """A summary with the number of its images, if wanted; nothing where it was not measured."""
    if measure not in of:
        return ""
    return report.interval(of[measure], digits) + f", {of[measure]['count']} images" * counted


class Study:
    """A run on its way: what is finished, and where results.json stands."""

    def __init__(self, config, out, settings, console):
        self.config, self.out, self.settings, self.console = config, out, settings, console
        self.values, self.flags, self.about = {}, {}, {}

    def part(self, name, i, compute):
        """Piece i of a measure of a network: read if it is there, else computed."""
        return runs.finished(self.out, i, compute, name=name)

    def add(self, name, measures):
        """Note {measure: Float[n]} of a network, in the place of what was noted of fewer images."""
        self.values.setdefault(name, {}).update(measures)
        self.write()

    def write(self):
        """results.json with all that is finished."""
        rows = {name: row(parts, self.config.seed) for name, parts in self.values.items()}
        for name, measures in rows.items():
            for m, of in measures.items():
                if name != "plain" and m.startswith("map_change") and m in self.values["plain"]:
                    of["less than plain"] = compared(self.values[name][m], self.values["plain"][m], self.config.seed)
        found = {"config": self.settings, **runs.environment(), **self.about, "results": rows, "flags": self.flags}
        files.write_json(self.out / "results.json", found)
        files.write_text(self.out / "table.md", markdown(found))


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    out, settings = runs.begin("resnet20", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    images, labels, test, test_labels = read(config)
    runs.same_inputs(out, {"the training images": (images, labels), "the test images": (test, test_labels)})
    plain, soft, betas = networks(config, images)
    study = Study(config, out, settings, console)
    study.about = {"network": NAME, "betas": betas.tolist()}
    known = {"plain": plain, "untrained": soft}
    searches = {e: robustness.searching((GRADIENT, GRADIENT), epsilon=e / 255, steps=config.ascent,
                                        restarts=config.restarts) for e in config.epsilons}
    key = jax.random.key(config.seed)

    def judge(name, epsilon, count):
        """The change of a network's map on the first `count` images."""
        images = test[:count]
        search = lambda i: searches[epsilon](known[name].model, images[i:i + PART], jax.random.fold_in(key, i))
        pieces = [study.part(f"{name}-{epsilon:g}", i, partial(search, i)) for i in range(0, count, PART)]
        found = {k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}
        study.flags.setdefault(name, {})[f"{epsilon:g}"] = {
            k: f._asdict() for k, f in robustness.flags_of(images, found).items()}
        study.add(name, {f"map_change@{epsilon:g}/255": found["change_ascent"],
                         f"by_random_search@{epsilon:g}/255": found["change_random"]})
        console.print(f"{name} within {epsilon:g}/255, {count} images: {np.median(found['change_ascent']):.3f}")

    def measure(name):
        """Its accuracy, and its curvature where it is smooth."""
        found = study.part(f"{name}-accuracy", 0, lambda: {
            "accuracy": robustness.right(known[name].model, test, test_labels)})
        if known[name].net is soft.net:
            found |= study.part(f"{name}-curvature", 0, lambda: curvature(known[name].model, test[:config.curved]))
        study.add(name, found)
        console.print(f"{name}: accuracy {found['accuracy'].mean():.4f}")

    def learn(name, member, start, steps, rate, count):
        known[name] = fitted(start, member, config, steps, rate, images[:count], labels[:count],
                             out / f"{name}.safetensors", console)
        measure(name)
        judge(name, config.epsilons[0], min(PART, config.count))

    judge("plain", config.epsilons[0], min(PART, config.count))
    measure("plain")
    measure("untrained")
    learn("softplus", Member(frozen=False), soft, config.base_steps, config.base_learning_rate, config.base_images)
    for name in config.names:
        member = FAMILY[name]
        rate = config.learning_rate if member.frozen else config.base_learning_rate
        learn(name, member, known["softplus" if member.smooth else "plain"], member.longer * config.steps, rate,
              len(images))
    for epsilon in config.epsilons:
        for count in range(PART, config.count + PART, PART):
            for name in known:
                judge(name, epsilon, min(count, config.count))


def read(config):
    """(training images, labels, test images, labels)."""
    if config.quick:
        return training_data.stand_ins((32, 32, 3), 10)[:4]
    return *data.load_dataset("cifar10", "train"), *data.load_dataset("cifar10", "test")


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is computed."""
    if config.quick:
        config = dataclasses.replace(config, names=config.names[:1], base_steps=2, steps=2, batch=16, count=4, curved=2,
                                     ascent=2, epsilons=config.epsilons[:1])
    runs.check_known("training", config.names, FAMILY)
    runs.check_positive(config, "kappa", "base_images", "base_steps", "steps", "batch", "base_learning_rate",
                        "learning_rate", "epsilons", "count", "curved", "ascent")
    if config.restarts < 2:
        raise ValueError(f"--restarts is at least 2: the flags compare them, got {config.restarts}")
    return config


def run(arguments=None) -> None:
    runs.command("resnet20", Config, main, __doc__, arguments)
