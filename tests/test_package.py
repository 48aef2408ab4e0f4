"""What the package promises as a whole."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import xmanip_jax

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "xmanip_jax").rglob("*.py"))


def test_the_core_needs_jax_optax_and_numpy_only():
    extras = ["flax", "orbax", "tensorflow_datasets", "matplotlib", "PIL", "skimage", "scipy", "safetensors", "chex",
              "matfree", "jaxtyping", "beartype"]
    core = [name for name in xmanip_jax._MODULES if name not in xmanip_jax._EXTRAS]
    code = f"import sys; sys.modules.update(dict.fromkeys({extras!r})); import xmanip_jax."
    code += ", xmanip_jax.".join(core)
    # jax itself imports scipy, so it is blocked only afterwards.
    code = "import jax, optax; " + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_imports_point_downwards():
    floors = [["types", "extras"], ["datasets", "arguments", "devices", "memory", "precision"], ["metrics"],
              ["nonlinearities", "pooling"], ["rewrite"], ["programs"], ["numerics"], ["smooth"], ["explain"],
              ["certify"], ["geometry"], ["train"], ["objectives"], ["attack", "fool", "defend"],
              ["data", "checkpoint", "plot"], ["models"]]
    floor = {room: i for i, rooms in enumerate(floors) for room in rooms}
    for path in SOURCES:
        room, *inside = path.relative_to(ROOT / "xmanip_jax").with_suffix("").parts
        loaded = [node for node in ast.parse(path.read_text()).body  # not what a type checker alone reads
                  if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
        for node in (inner for outer in loaded for inner in ast.walk(outer)):
            if room == "__init__" or not isinstance(node, ast.ImportFrom) or node.level != 1 + len(inside):
                continue
            for used in [node.module.split(".")[0]] if node.module else [name.name for name in node.names]:
                assert floor[used] < floor[room] or (used == room and inside == ["__init__"]), f"{path}: {used}"


def test_tab_shows_public_names_only():
    for module in xmanip_jax._MODULES:
        loaded = importlib.import_module(f"xmanip_jax.{module}")
        if loaded.__file__.endswith("__init__.py"):
            assert sorted(dir(loaded)) == sorted(loaded.__all__)


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_modules_are_loaded_when_they_are_used():
    done = _python("import sys, xmanip_jax as x; before = 'jax' in sys.modules; x.explain.gradient(); "
                   "print(before, sorted(x.__dict__.keys() & {'attack', 'models'}), 'data' in dir(x))")
    assert done.stdout == "False [] True\n", done.stderr


def test_a_missing_extra_is_named():
    done = _python("import sys; sys.modules['flax'] = None; from xmanip_jax import models")
    assert "xmanip_jax.models needs flax: pip install 'xmanip-jax[models]'" in done.stderr
    done = _python("import xmanip_jax; xmanip_jax.explane")
    assert "module 'xmanip_jax' has no attribute 'explane'" in done.stderr


def test_no_private_jax_and_no_printing():
    for path in SOURCES:
        text = path.read_text()
        assert "jax._src" not in text, path
        assert not re.search(r"^\s*print\(", text, re.MULTILINE), path


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == xmanip_jax.__version__
    assert f"version: {xmanip_jax.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {xmanip_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_exists_and_is_documented():
    for module in xmanip_jax._MODULES:
        loaded = importlib.import_module(f"xmanip_jax.{module}")
        for name in loaded.__all__:
            value = getattr(loaded, name)
            if callable(value) and not isinstance(value, type) and not name.isupper():
                assert value.__doc__, f"{module}.{name} has no docstring"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
