"""What a trained network's explanation is worth: the change that an attack finds, and whether to trust the attack."""

from functools import partial

import jax
import numpy as np

from xmanip_jax import attack, certify, explain, smooth, train

STEPS = 20


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0))
def right(model, x, y):
    """Whether the prediction is the label."""
    return model(x).argmax() == y


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
    found = {"accuracy": np.concatenate([np.float32(right(model, images[i:i + 500], labels[i:i + 500]))
                                         for i in range(0, len(images), 500)])}
    x, y = images[:count], labels[:count]
    for epsilon in epsilons:
        z = x
        for _ in range(STEPS):
            z = climbed(model, x, y, z, epsilon, 2.5 * epsilon / STEPS)
        found[f"adversarial_accuracy@{epsilon:g}"] = np.float32(right(model, z, y))
        search = attack.largest_change(explain.gradient(), epsilon=epsilon, steps=STEPS, restarts=restarts,
                                       surrogate=surrogate)
        changed = search(model, x, labels=y, key=jax.random.key(seed))
        found[f"map_change@{epsilon:g}"] = np.asarray(changed.change)
    blind = attack.random_search(explain.gradient(), epsilon=epsilons[-1], steps=2 * STEPS * restarts, restarts=1)
    return found, attack.flags(changed, blind(model, x, labels=y, key=jax.random.key(seed)))._asdict()


def surrogate_of(act):
    """relu networks are climbed on their softplus, smooth ones as they are."""
    return None if act is jax.nn.relu else smooth.none()
