"""What a trained network's explanation is worth: the change that an attack finds, and whether to trust the attack."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import batches, machines
from xmanip_jax import attack, certify, explain, models, objectives, smooth, train

STEPS = 20


def right(model, images, labels) -> np.ndarray:
    """Float[n]: 1 where the prediction is the label, else 0."""
    return batches.over(_right, images, labels, model=model, batch=500)


def _right(model, x, y):
    return jnp.float32(model(x).argmax() == y)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0, None, None))
def climbed(model, x, y, z, epsilon, step):
    """A sign step on the cross entropy within epsilon of x."""
    loss = lambda z: train.cross_entropy(model(z), y)
    return train.sign_step(loss, z, certify.ball(x, epsilon, 0, 1), step)


def judged(model, images, labels, *, epsilons, count, restarts, seed, surrogate=None):
    """({measure: a value for each image}, {flag: attack.Flag} at the last epsilon).

    model: a jax.tree_util.Partial;  images, labels: a test split, the first `count` of which are attacked;  surrogate:
    that of `attack.largest_change`, smooth.none() for a smooth network.
    """
    found = {"accuracy": right(model, images, labels)}
    x, y = machines.spread((images[:count], labels[:count]))
    for epsilon in epsilons:
        z = x
        for _ in range(STEPS):
            z = climbed(model, x, y, z, epsilon, 2.5 * epsilon / STEPS)
        found[f"adversarial_accuracy@{epsilon:g}"] = right(model, z, y)
        search = attack.largest_change(explain.gradient(), epsilon=epsilon, steps=STEPS, restarts=restarts,
                                       surrogate=surrogate)
        changed = search(model, x, labels=y, key=jax.random.key(seed))
        found[f"map_change@{epsilon:g}"] = np.asarray(changed.change)
    blind = attack.random_search(explain.gradient(), epsilon=epsilons[-1], steps=2 * STEPS * restarts, restarts=1)
    return found, attack.flags(changed, blind(model, x, labels=y, key=jax.random.key(seed)))._asdict()


def surrogate_of(act):
    """relu networks are climbed on their softplus, smooth ones as they are."""
    return None if act is jax.nn.relu else smooth.none()


SEARCHES = {"ascent": "gradient ascent", "random": "random search", "transfer": "transfer"}
READING = {  # what a raised flag means, and what to do
    "zero_gradient": "at {:.0%} of the steps the ascent had no gradient to climb",
    "gradient_free_wins": "searches that do not see the network's gradient found {:.0%} of the change that the ascent "
                          "missed",
    "restarts_help": "later restarts found {:.0%} of the change: raise --restarts or --steps",
    "surrogate_only": "the smooth surrogate's map changed by {:.0%} more than the network's own",
    "random_maps": "noise of a hundredth of epsilon makes {:.0%} of the change: the map says little in the first place",
}


def searches(pair: tuple, network: models.Pretrained, *, epsilon: float, steps: int, restarts: int,
             other: models.Pretrained | None = None, **computing: Any) -> Callable[..., dict[str, np.ndarray]]:
    """`run(images, key) -> arrays` of a batch: `searching` on one network."""
    run = searching(pair, epsilon=epsilon, steps=steps, restarts=restarts, other=other, preprocess=network.preprocess,
                    **computing)
    return lambda images, key: run(network.model, images, key)


def searching(pair: tuple, *, epsilon: float, steps: int, restarts: int, other: models.Pretrained | None = None,
              preprocess: Callable = lambda pixels: pixels, **computing: Any) -> Callable[..., dict[str, np.ndarray]]:
    """`run(model, images, key) -> arrays` of a batch: every search for the largest change within epsilon.

    pair: the explanation that is climbed and the one that judges, see named_explanations.method;  steps: of the ascent
    from each of the restarts; the random search looks as often as the ascent steps, twice;  other: a network on which
    changes are found, too, to be judged on this one;  preprocess: pixels -> the model's input;
    computing: memory and precision.

    Of each search in SEARCHES that is run: change_<search>, pixels_<search>, map_<search>, logits_<search>; of the
    clean image: map_original, logits_original; of the ascent what its flags read.
    """
    climbed, judge = pair
    ascend = partial(attack.largest_change, climbed, epsilon=epsilon, steps=steps, restarts=restarts, judged_by=judge,
                     **computing)
    own = ascend(preprocess=preprocess)
    blind = attack.random_search(judge, epsilon=epsilon, steps=2 * steps * restarts, preprocess=preprocess,
                                 **computing)
    transfer = attack.transfer(judge, preprocess=preprocess, **computing)
    foreign = other and ascend(preprocess=other.preprocess)

    def run(model, images, key):
        found = {"ascent": own(model, images, key=key), "random": blind(model, images, key=key)}
        if other:
            found["transfer"] = transfer(model, foreign(other.model, images, key=key), key=key)
        ascent = found["ascent"]
        arrays = {"map_original": ascent.clean.heatmap, "logits_original": ascent.clean.logits,
                  "by_restart": ascent.by_restart.T, "under_surrogate": ascent.under_surrogate,
                  "zero_gradient": ascent.zero_gradient, "by_noise": ascent.by_noise}
        for name, of in found.items():
            arrays |= {f"change_{name}": of.change, f"pixels_{name}": of.pixels, f"map_{name}": of.heatmap,
                       f"logits_{name}": of.logits}
        return {name: np.asarray(v) for name, v in arrays.items()}

    return run


def largest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Float[n]: the largest change that any of the searches found."""
    return np.max([v for name, v in arrays.items() if name.startswith("change_")], axis=0)


def flags_of(images: np.ndarray, arrays: dict[str, np.ndarray]) -> attack.Flags:
    """`attack.flags` of the arrays of `searches`: the ascent's, beside the searches that do not see the gradient."""
    clean = objectives.View(images, arrays["map_original"], arrays["logits_original"])

    def changed(name):
        of = [arrays[f"{part}_{name}"] for part in ("pixels", "map", "logits")]
        return attack.Changed(*of, clean, arrays[f"change_{name}"], arrays["by_restart"].T, arrays["under_surrogate"],
                              arrays["zero_gradient"], arrays["by_noise"], 0)

    return attack.flags(changed("ascent"), *(changed(name) for name in SEARCHES if name != "ascent"
                                             and f"change_{name}" in arrays))
