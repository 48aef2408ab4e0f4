"""The kinds of function that carry everything, as Protocols that show how each is called; shapes in signatures.

`Float[Array, "h w c"]` is an array of real numbers in three axes: one example, channels last, no batch axis. The same
name in one signature is the same length, `*shape` any number of axes, `""` a single number. Where jaxtyping is
installed these are its types, checked in the tests; the core does without, and then they are the array's type alone.

Batching (`jax.vmap`), compiling (`jax.jit`) and differentiating (`jax.grad`) belong to the caller.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from jax import Array, ShapeDtypeStruct
from jax.typing import ArrayLike
from numpy import ndarray

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Integer, Key, Num, Shaped, UInt32

    from .attack import Changed, Manipulated, Progress, Sneaked
    from .objectives import View
    from .train import Training
else:
    try:
        from jaxtyping import Bool, Float, Int, Integer, Key, Num, Shaped, UInt32
    except ModuleNotFoundError:

        class _Shapeless:
            def __class_getitem__(cls, array_and_shape):
                return array_and_shape[0]

        Bool = Float = Int = Integer = Key = Num = Shaped = UInt32 = _Shapeless

__all__ = ["AnyArray", "Apply", "Array", "ArrayLike", "Bool", "Channels", "Constraint", "Example",
           "Explanation", "Float", "Heat", "Int", "Integer", "Key", "LargestChange", "Loss", "Manipulate",
           "Model", "Nested", "Num", "Objective", "Penalty", "RandomKey", "Release", "Rewrite", "Shaped", "Sneak",
           "Source", "Target", "Traced", "Train", "Transfer"]

# The axis of a map that is summed over in its heat map; None: every entry is a place; "auto": the last of three or more
# axes, none of one or two. See metrics.places.
Channels = int | Literal["auto"] | None

# A class, or a direction over the logits.
Target = Integer[ArrayLike, ""] | Float[ArrayLike, " classes"]

# On a device or on the host: numpy's arrays do where JAX's do, but a type checker is told of JAX's alone, as in JAX.
if TYPE_CHECKING:
    AnyArray = Array
else:
    AnyArray = Array | ndarray

# An input, or its shape and type alone where nothing is computed.
Example = ArrayLike | ShapeDtypeStruct

# A key of jax.random, typed or as before it.
RandomKey = Key[Array, ""] | UInt32[AnyArray, "2"]

# Numbers in lists, as jnp.asarray takes them: their shape is known when they are an array.
Nested = Sequence[Any]


@runtime_checkable
class Model(Protocol):
    """One example -> logits; parameters are closed over, or bound with jax.tree_util.Partial."""

    def __call__(self, x: Float[AnyArray, "*shape"], /) -> Float[AnyArray, " classes"]: ...


@runtime_checkable
class Explanation(Protocol):
    """A map of one example, of its shape or one number for each place of a layer; key: of its noise, if any."""

    def __call__(self, f: Model, x: Float[AnyArray, "*shape"], target: Target, /, *,
                 key: RandomKey | None = None) -> Float[Array, "*map"]: ...


@runtime_checkable
class Traced(Protocol):
    """An explanation in the form that returns (map, logits)."""

    def __call__(self, f: Model, x: Float[AnyArray, "*shape"], target: Target, /, *,
                 key: RandomKey | None = None) -> tuple[Float[Array, "*map"], Float[AnyArray, " classes"]]: ...


@runtime_checkable
class Heat(Protocol):
    """From a map to its heat map, one value for each place: `explain.heatmap` and its neighbours."""

    def __call__(self, map: Float[AnyArray, "*map"], /, *, channels: Channels) -> Float[Array, "*places"]: ...


@runtime_checkable
class Rewrite(Protocol):
    """A model with other insides: the same signature, the same parameters."""

    def __call__(self, f: Model, /) -> Model: ...


@runtime_checkable
class Objective(Protocol):
    """What an attack minimises, of what is seen now and was seen before; goal: the heat map wanted, if any."""

    def __call__(self, now: "View", clean: "View", goal: Any, /) -> Float[Array, ""]: ...


@runtime_checkable
class Constraint(Protocol):
    """The allowed pixels nearest to those given, in [0, 1]."""

    def __call__(self, pixels: Float[AnyArray, "*shape"], clean: Float[AnyArray, "*shape"],
                 /) -> Float[Array, "*shape"]: ...


@runtime_checkable
class Apply(Protocol):
    """A network of trees of parameters and of state, of one example."""

    def __call__(self, params: Any, state: Any, x: Float[AnyArray, "*shape"], /) -> Float[Array, " classes"]: ...


@runtime_checkable
class Penalty(Protocol):
    """What a defence adds to the training loss, of one example and its label."""

    def __call__(self, apply: Apply, params: Any, state: Any, x: Float[AnyArray, "*shape"], y: Integer[ArrayLike, ""],
                 key: RandomKey | None = None, /) -> Float[Array, ""]: ...


@runtime_checkable
class Loss(Protocol):
    """The training loss of a batch, and the numbers that it is made of; scale multiplies the penalties."""

    def __call__(self, apply: Apply, params: Any, state: Any, xs: Float[AnyArray, " b *shape"],
                 ys: Integer[AnyArray, " b"],
                 keys: Key[Array, " b"] | None = None, scale: ArrayLike = 1.0,
                 ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]: ...


@runtime_checkable
class Manipulate(Protocol):
    """An attack towards a goal, on a batch: see `attack.manipulation`."""

    def __call__(self, model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested, goal: Any = None, *,
                 labels: Integer[ArrayLike, " b"] | Nested | None = None, key: RandomKey,
                 callback: "Callable[[Progress], None] | None" = None) -> "Manipulated": ...


@runtime_checkable
class LargestChange(Protocol):
    """A search for the largest change of an explanation, on a batch: see `attack.largest_change`."""

    def __call__(self, model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested, *,
                 labels: Integer[ArrayLike, " b"] | Nested | None = None, key: RandomKey) -> "Changed": ...


@runtime_checkable
class Transfer(Protocol):
    """The verdict of one network on what was found on another: see `attack.transfer`."""

    def __call__(self, model: Model, found: "Changed", *, labels: Integer[ArrayLike, " b"] | Nested | None = None,
                 key: RandomKey) -> "Changed": ...


@runtime_checkable
class Release(Protocol):
    """Undo what a sparse attack does not need: see `attack.release_pixels`."""

    def __call__(self, model: Model, result: "Manipulated", *, labels: Integer[ArrayLike, " b"] | Nested | None,
                 key: RandomKey) -> "Manipulated": ...


@runtime_checkable
class Sneak(Protocol):
    """An attack on the prediction that spares the explanation, on a batch: see `attack.sneaking`."""

    def __call__(self, model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested,
                 targets: Integer[ArrayLike, " b"] | Nested, *, labels: Integer[ArrayLike, " b"] | Nested | None = None,
                 key: RandomKey | None = None) -> "Sneaked": ...


@runtime_checkable
class Source(Protocol):
    """Images that are read when they are asked for, pixels in [0, 1], [n, h, w, c] in all: see `data.Folder`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def read(self, indices: Integer[ndarray, " m"]) -> Float[ndarray, "m h w c"]: ...


@runtime_checkable
class Train(Protocol):
    """A training loop: see `train.fit`."""

    def __call__(self, net: Any, training: "Training", images: Float[AnyArray, " n *shape"] | Source,
                 labels: Integer[AnyArray, " n"], *, callback: Callable[[int, dict[str, float]], None] | None = None,
                 keep: "Callable[[Training], None] | None" = None) -> "Training": ...
