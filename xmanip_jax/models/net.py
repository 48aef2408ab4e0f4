"""A module as pure functions of its parameters: what training, defences and fooling differentiate."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
from flax import nnx

__all__ = ["Net", "abstract", "functional"]


class Net(NamedTuple):
    """apply(params, state, x: Float[h, w, c]) -> logits Float[classes], in evaluation.

    train_apply(params, state, xs: Float[b, h, w, c], key=None) -> (logits Float[b, classes], state): BatchNorm
    normalises with the batch and updates its running statistics, dropout draws from the key.
    """

    apply: Callable[..., Any]
    train_apply: Callable[..., Any]


def functional(module: nnx.Module) -> tuple[Net, Any, Any]:
    """Split a module into (net, params, state); the module itself is left alone.

    params holds what is trained, state the running statistics: nested dicts of arrays, named as in the module.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from xmanip_jax import models
    >>> net, params, state = models.functional(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    >>> jax.tree.map(jnp.shape, params), net.apply(params, state, jnp.ones(2)).shape
    ({'bias': (3,), 'kernel': (2, 3)}, (3,))
    """
    module = nnx.clone(module)
    module.set_attributes(nnx.Dropout, rngs=None, raise_if_not_found=False)
    module.eval()
    eval_def, params, state = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]  # its overloads end in a tuple
    module.train()
    train_def = nnx.graphdef(module)

    def apply(params, state, x):
        return nnx.merge(eval_def, params, state, copy=True)(x)

    def train_apply(params, state, xs, key=None):
        live = nnx.merge(train_def, params, state, copy=True)
        if key is not None:
            live.set_attributes(nnx.Dropout, rngs=nnx.Rngs(key), raise_if_not_found=False)
        return live(xs), nnx.to_pure_dict(nnx.state(live, nnx.Not(nnx.Any(nnx.Param, nnx.RngState))))

    return Net(apply, train_apply), nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def abstract(build: Callable[..., nnx.Module]) -> nnx.Module:
    """The module build(rngs=...) with shapes in place of its arrays, for load_weights to fill; nothing is computed.

    Drawing initial values that weights replace would cost seconds of compiling.
    """
    # nnx.Rngs counts its draws in a variable, and flax asks each new count for its sharding: of a traced value that
    # takes a walk over the whole trace, together 4 s for DenseNet-121. Abstract draws can share a key.
    key = jax.random.key(0)
    return nnx.eval_shape(lambda: build(rngs=SimpleNamespace(params=lambda: key)))
