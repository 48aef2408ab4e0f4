"""A network of your own, named FILE.py:NAME or module:NAME, as the experiments take one: models.Pretrained.

NAME is a function without arguments. It returns one of the project's networks, models.Pretrained, or a dictionary:

  model: a function of one example, x -> logits Float[classes]; where it is a flax nnx module, or another module that is
    a tree of arrays (equinox), its parameters are known as well;
  or apply and params, and state if it has one: apply(params, state, x), or apply(params, x) without; apply may be a
    models.Net;  train_apply(params, state, xs, key) -> (logits Float[b, classes], state): where training differs;
  input_shape: (h, w, c) of an image;
  preprocess, if wanted: the pixels of one image, Float[h, w, c] in [0, 1] -> x. Explanations are of x where it has the
    pixels' shape, and of the pixels where it has another one, as with channels first;
  classes, if wanted: how many, or their names.

A network that is given by a function alone is explained, attacked and measured, but not trained.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.tree_util import Partial

from xmanip_jax import models

__all__ = ["ModelError", "file_of", "named", "of_pixels", "read", "tensors", "with_weights"]

_KEYS = ("model", "apply", "params", "state", "train_apply", "input_shape", "preprocess", "classes")
_PAGE = "docs/howto/own-network-in-the-jobs.md shows one"


class ModelError(ValueError):
    """A network of the user's that cannot be taken as it is: which one, what is wrong, what to do."""


def named(name: str) -> bool:
    """Whether this names a network of the user's, and none of the project's."""
    return ":" in name


def file_of(name: str) -> Path:
    """FILE.py of FILE.py:NAME."""
    return Path(name.rpartition(":")[0])


def read(name: str, weights: Path | None = None) -> models.Pretrained:
    """The network that NAME returns, checked; weights: a file of `tensors` in the place of its own.

    Raises ModelError, in one line, for everything that is wrong.
    """
    try:
        network = _described(f"{file_of(name).stem}.{name.rpartition(':')[2]}", _called(name))
        network = with_weights(network, weights) if weights else network
        _check_weights(network)
        _check_values(network)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    return network


def of_pixels(network: models.Pretrained) -> models.Pretrained:
    """The network whose input are the pixels: what it makes of them first is its first layer."""
    net, pre = network.net, network.preprocess
    train_apply = net.train_apply and (lambda p, s, xs, key=None: net.train_apply(p, s, jax.vmap(pre)(xs), key))
    whole = models.Net(lambda params, state, pixels: net.apply(params, state, pre(pixels)), train_apply)
    model = Partial(whole.apply, network.params, network.state)
    return network._replace(model=model, net=whole, preprocess=lambda pixels: pixels)


def tensors(params: Any, state: Any) -> dict[str, np.ndarray]:
    """The weights by name, as `models.save_tensors` keeps them and `with_weights` takes them."""
    found, _ = jax.tree_util.tree_flatten_with_path({"params": params, "state": state})
    return {_key(path): np.asarray(v) for path, v in found}


def _key(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


def with_weights(network: models.Pretrained, file: Path) -> models.Pretrained:
    """The network with the weights of a file.

    Raises ModelError listing every name that is missing or strange, and every wrong shape.
    """
    own, given = tensors(network.params, network.state), models.read_tensors(file)
    problems = [f"missing {k}" for k in own if k not in given]
    problems += [f"unexpected {k}" for k in sorted(given) if k not in own]
    problems += [f"{k} has shape {given[k].shape}, expected {v.shape}" for k, v in own.items()
                 if k in given and given[k].shape != v.shape]
    if problems:
        raise ModelError(f"{file} does not fit: {'; '.join(problems)}")
    leaves, structure = jax.tree.flatten({"params": network.params, "state": network.state})
    taken = [jnp.asarray(given[k], jnp.result_type(v)) for k, v in zip(own, leaves, strict=True)]
    weights = jax.tree.unflatten(structure, taken)
    return network._replace(model=Partial(network.net.apply, weights["params"], weights["state"]), **weights)


def _called(name):
    """What NAME returns."""
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise ModelError("a network of your own is FILE.py:NAME or module:NAME")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    if not hasattr(module, function):
        own = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise ModelError(f"{place} defines no {function}; it defines {', '.join(own) or 'no function'}")
    make = getattr(module, function)
    if isinstance(make, dict) or not callable(make):
        raise ModelError(f"is a {type(make).__name__} and not a function: write def {function}(): return ...")
    return _run(make, getattr(module, "__file__", None), f"{function}()")


def _from_file(path):
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"user_model_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    _beside(path.resolve().parent)
    _run(lambda: spec.loader.exec_module(module), str(path), "the file")
    return module


def _from_module(name):
    _beside(Path.cwd())
    return _run(lambda: importlib.import_module(name), None, "the module")


def _beside(folder):
    """What a file imports may lie beside it, as when Python runs it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _run(call, file, what):
    """The result of a call of the user's code; whatever it raises is a ModelError with the line that did."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        same = lambda frame: file and Path(frame.filename).resolve() == Path(file).resolve()
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if same(frame)]
        at = f" in line {lines[-1]}" if lines else ""
        raise ModelError(f"{what} raises {type(error).__name__}{at}: {_first_line(error)}") from error


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), "no reason given")[:300]


def _described(name, found) -> models.Pretrained:
    """The network of what NAME returned."""
    if isinstance(found, models.Pretrained):
        count = _count(found.model, _seen(found.preprocess, found.input_shape))
        return found._replace(classes=_names(found.classes or found.num_classes, count))
    _check_keys(found)
    shape, preprocess = _shape(found.get("input_shape")), found.get("preprocess", lambda pixels: pixels)
    x = _seen(preprocess, shape)
    net, params, state = _weighted(found) if "apply" in found else _split(found["model"], x)
    for path, v in jax.tree_util.tree_flatten_with_path({"params": params, "state": state})[0]:
        if not isinstance(v, jax.Array | np.ndarray | np.generic | float | int):
            raise ModelError(f"{_key(path)} is {_what(v)} and not an array")
    count = _count(lambda x: net.apply(params, state, x), x)
    if "train_apply" in found:
        _check_training(net, params, state, x, count)
    model, names = Partial(net.apply, params, state), _names(found.get("classes", count), count)
    network = models.Pretrained(name, model, net, params, state, _any_batch(preprocess), shape, count, names)
    return network if x.shape == shape else of_pixels(network)


def _check_keys(found):
    if not isinstance(found, Mapping):
        raise ModelError(f"returns a {type(found).__name__}; a dictionary with {', '.join(_KEYS)} or models.Pretrained "
                         f"is wanted ({_PAGE})")
    if strange := [str(key) for key in found if key not in _KEYS]:
        raise ModelError(f"returns a dictionary with unknown {', '.join(strange)}; known: {', '.join(_KEYS)}")
    if ("model" in found) == ("apply" in found):
        raise ModelError("returns a dictionary with both model and apply: choose one" if "model" in found else
                         f"returns a dictionary without model or apply ({_PAGE})")
    for key in ("model", "apply", "preprocess", "train_apply"):
        if key in found and not callable(found[key]) and not isinstance(found[key], models.Net):
            raise ModelError(f"{key} is a {type(found[key]).__name__} and not a function")


def _seen(preprocess, shape):
    """The shape and type of the network's input."""
    x = _shape_of(preprocess, jax.ShapeDtypeStruct(shape, jnp.float32), "preprocess", "the pixels of one image")
    if not hasattr(x, "shape") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ModelError(f"preprocess returns {_what(x)}, one array of floating-point numbers is wanted")
    return x


def _check_training(net, params, state, x, count):
    xs = jax.ShapeDtypeStruct((2, *x.shape), x.dtype)
    found = _shape_of(lambda xs: net.train_apply(params, state, xs, jax.random.key(0)), xs, "train_apply",
                      "params, state, a batch and a key")
    same = lambda a, b: jax.tree.structure(a) == jax.tree.structure(b)
    if not isinstance(found, tuple) or len(found) != 2 or not same(found[1], state):
        raise ModelError("train_apply returns something else than (logits of the batch, a state like the one given)")
    if getattr(found[0], "shape", None) != (2, count):
        raise ModelError(f"train_apply returns {_what(found[0])} for a batch of 2, float32[2, {count}] is wanted")


def _names(classes, count):
    """The names of the classes, if they have any."""
    if not isinstance(classes, int | tuple | list):
        raise ModelError(f"classes is a {type(classes).__name__}; their number or a list of their names is wanted")
    names = () if isinstance(classes, int) else tuple(map(str, classes))
    if count != (len(names) if names else classes):
        raise ModelError(f"classes says {len(names) if names else classes}, the network returns {count} logits")
    return names


def _shape(shape):
    if shape is None:
        raise ModelError("returns a dictionary without input_shape, the (height, width, channels) of an image")
    whole = isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    if not whole or shape[0] != shape[1]:
        raise ModelError(f"input_shape is {shape}; (height, width, channels) of square images is wanted, three numbers")
    return tuple(shape)


def _shape_of(f, x, name, given):
    """The shape of f at x; nothing is computed."""
    try:
        return jax.eval_shape(lambda x: f(x), x)
    except Exception as error:
        raise ModelError(f"{name} cannot be called with {given}, {_what(x)}: {type(error).__name__}: "
                         f"{_first_line(error)}") from error


def _what(x):
    if hasattr(x, "shape"):
        return f"{x.dtype}{list(x.shape)}"
    return f"a {type(x).__name__}"


def _count(f, x):
    """How many logits f returns for one example."""
    try:
        logits = _shape_of(f, x, "the network", "one example")
    except ModelError as error:
        if _takes_batches(f, x):
            raise _batched() from error
        raise
    if _takes_batches(f, x) and getattr(logits, "ndim", 1) != 1:
        raise _batched()
    if getattr(logits, "ndim", None) != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ModelError(f"the network returns {_what(logits)} for one example, its logits Float[classes] are wanted: "
                         "choose them, as in lambda x: f(x)[0]")
    return len(logits)


def _takes_batches(f, x):
    try:
        logits = jax.eval_shape(lambda x: f(x), jax.ShapeDtypeStruct((2, *x.shape), x.dtype))
    except Exception:
        return False
    return getattr(logits, "ndim", 0) == 2 and len(logits) == 2


def _batched():
    return ModelError("the network takes a batch, a function of one example is wanted: lambda x: f(x[None])[0]")


def _weighted(found):
    """(net, params, state) of apply and what belongs to it."""
    apply, params, state = found["apply"], found.get("params"), found.get("state", {})
    if params is None:
        raise ModelError("returns apply without params, the tree of its weights")
    if isinstance(apply, models.Net):
        return apply, params, state
    single = apply if "state" in found else lambda params, _, x: apply(params, x)
    one = lambda params, state, xs, key=None: (jax.vmap(lambda x: single(params, state, x))(xs), state)
    return models.Net(single, found.get("train_apply", one)), params, state


def _split(model, x):
    """(net, params, state) of a function of one example."""
    if isinstance(model, nnx.Module):
        return models.functional(model)
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    real = lambda v: isinstance(v, jax.Array | np.ndarray) and jnp.issubdtype(v.dtype, jnp.floating)
    if not any(real(v) for _, v in leaves):
        return _held(model, x)
    keys = [_key(path) if real(v) else None for path, v in leaves]
    whole = lambda params: structure.unflatten([v if k is None else params[k] for k, (_, v) in
                                                zip(keys, leaves, strict=True)])
    params = {k: jnp.asarray(v) for k, (_, v) in zip(keys, leaves, strict=True) if k is not None}
    one = lambda params, state, xs, key=None: (jax.vmap(whole(params))(xs), state)
    return models.Net(lambda params, state, x: whole(params)(x), one), params, {}


def _held(f, x):
    """A function whose arrays, found where it closes over them, are its parameters; which of them train is not known.

    Compiled functions then take them as arguments, and a run that goes on sees that they are the same.
    """
    traced = lambda x: jax.make_jaxpr(lambda x: f(x), return_shape=True)(x)

    def apply(params, state, x):
        closed, out = traced(x)
        held = [jnp.asarray(p, jnp.result_type(c)) for p, c in zip(params, closed.consts, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(out), jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, held))(x))

    try:
        params = [jnp.asarray(c) for c in traced(x)[0].consts]
    except Exception:  # _count says what is wrong
        return models.Net(lambda params, state, x: f(x), None), (), {}
    return models.Net(apply, None), params, {}


def _any_batch(preprocess: Callable) -> Callable:
    """preprocess of images with any axes before their own three."""

    def whole(pixels):
        f = preprocess
        for _ in range(pixels.ndim - 3):
            f = jax.vmap(f)
        return f(pixels)

    return whole


def _check_weights(network):
    bad = [name for name, v in tensors(network.params, network.state).items()
           if jnp.issubdtype(v.dtype, jnp.floating) and not np.isfinite(v.astype(np.float32)).all()]
    if bad:
        raise ModelError(f"weights are NaN or infinite: {', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}")


def _check_values(network):
    grey = jnp.full(network.input_shape, 0.5, jnp.float32)
    x = network.preprocess(grey)
    for what, values in (("preprocess", x), ("the network", jax.jit(lambda model, x: model(x))(network.model, x))):
        if jnp.isnan(values).any():
            raise ModelError(f"{what} returns NaN for a grey image")
