"""Signatures: every public function is annotated, annotations hold without jaxtyping, and breaking one is noticed."""

import ast
import runpy
import sys
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import xmanip_jax
from annotations import checked
from xmanip_jax.types import Array, Float

PACKAGE = Path(xmanip_jax.__file__).parent


def _public(path):
    """(name, definition) of every public function of a file, and of every method that a public class shows."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{method.name}", method) for method in node.body
                        if isinstance(method, ast.FunctionDef)
                        and (not method.name.startswith("_") or method.name in ("__init__", "__call__")))


def _missing(function):
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    own = [v.arg for v in every if v.annotation is None and v.arg not in ("self", "cls")]
    return own + ["its result"] * (function.returns is None)


def test_every_public_function_is_annotated():
    bare = {f"{path.relative_to(PACKAGE)}: {name}": left for path in sorted(PACKAGE.rglob("*.py"))
            for name, function in _public(path) if (left := _missing(function))}
    assert not bare


def test_without_jaxtyping_an_array_with_a_shape_is_an_array():
    with mock.patch.dict(sys.modules, {"jaxtyping": None}):
        types = runpy.run_path(str(PACKAGE / "types.py"))
    assert types["Float"][types["Array"], "h w c"] is types["Array"]
    assert types["Target"] == types["ArrayLike"]


def test_what_breaks_its_annotation_is_refused_or_noticed():
    def mean(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if a.ndim != b.ndim:
            raise ValueError("two shapes")
        return (a + b) / 2

    mean = checked(mean)
    assert mean(jnp.zeros(2), jnp.ones(2)).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="two shapes"):
        mean(jnp.zeros(2), jnp.ones((1, 2)))
    for a, b in ((jnp.zeros(2), jnp.ones(1)), (np.zeros(2), jnp.ones(2)), (jnp.zeros(2, int), jnp.ones(2, int))):
        with pytest.raises(jaxtyping.TypeCheckError):
            mean(a, b)


def test_the_library_is_checked_while_it_is_tested():
    with pytest.raises(jaxtyping.TypeCheckError):
        xmanip_jax.objectives.squares(jnp.zeros(2), jnp.zeros(1))
