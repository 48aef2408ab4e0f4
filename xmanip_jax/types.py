"""The shapes of the library's five kinds of function. Aliases only; nothing here runs.

Arrays are written `Float[h, w, c]` in comments and docstrings: one example, channels last, no batch axis.
Batching (`jax.vmap`), compiling (`jax.jit`) and differentiating (`jax.grad`) belong to the caller.
"""

from collections.abc import Callable
from typing import Any, Literal

from jax import Array
from jax.typing import ArrayLike

__all__ = ["Array", "ArrayLike", "Channels", "Constraint", "Explanation", "Heat", "Model", "Objective", "Penalty",
           "Rewrite", "Target"]

# The axis of a map that is summed over in its heat map; None: every entry is a place; "auto": the last of three or more
# axes, none of one or two. See metrics.places.
Channels = int | Literal["auto"] | None

# A class index (Int[]) or a direction over the logits (Float[classes]).
Target = ArrayLike

# Float[h, w, c] -> Float[classes]; parameters are closed over, or bound with jax.tree_util.Partial.
Model = Callable[[Array], Array]

# (model, x: Float[h, w, c], target, *, key=None) -> Float[h, w, c]
Explanation = Callable[..., Array]

# (map, *, channels) -> heat map, one value for each place: explain.heatmap and its neighbours
Heat = Callable[..., Array]

# A model with other insides: the same signature, the same parameters.
Rewrite = Callable[[Model], Model]

# (now, clean, goal) -> Float[]: what an attack minimises; now and clean are objectives.View values.
Objective = Callable[[Any, Any, Any], Array]

# (pixels, clean pixels) -> the allowed pixels nearest to the first: Float[h, w, c] in [0, 1].
Constraint = Callable[[Array, Array], Array]

# (apply, params, state, x, y, key) -> Float[]: what a defence adds to the training loss, one example.
Penalty = Callable[..., Array]
