"""Annotations checked while the tests run: beartype and jaxtyping around every function whose signature states shapes.

What does not fit its annotation must be refused by the function itself, with its own error; where it is computed, or a
result does not fit, that is jaxtyping's TypeCheckError. (jaxtyping.install_import_hook would wrap every function and
closure, which takes too long, and would hide the library's own errors behind its own.)
"""

import ast
import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader

import jaxtyping
from beartype import BeartypeConf, beartype

PACKAGE = "xmanip_jax"
_DECORATOR = f"__import__({__name__!r}).checked"
_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in every type checker


def checked(function):
    """`function`, which keeps its annotations for all that it does not refuse."""
    typed = jaxtyping.jaxtyped(function, typechecker=_CHECK)

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return typed(*args, **kwargs)
        except jaxtyping.TypeCheckError:
            function(*args, **kwargs)
            raise

    return call


def _states_a_shape(annotation):
    """Whether an annotation has the form Float[Array, "h w"] somewhere in it."""
    return annotation is not None and any(
        isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[1], ast.Constant)
        and isinstance(node.elts[1].value, str) for node in ast.walk(annotation))


class _Decorate(ast.NodeTransformer):
    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        arguments = node.args
        each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        if any(map(_states_a_shape, (node.returns, *(a and a.annotation for a in each)))):
            node.decorator_list.append(ast.copy_location(ast.parse(_DECORATOR, mode="eval").body, node))
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname):  # past the cache of compiled files, which is that of the plain ones
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.fix_missing_locations(_Decorate().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != PACKAGE and not fullname.startswith(PACKAGE + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_annotations():
    """From now on; what has been imported before stays as it is."""
    sys.meta_path.insert(0, _Finder())
