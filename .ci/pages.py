"""For the site: pages that lie outside docs/, notebooks as they are stored, links between them, formulas.

Links are written as a repository viewer follows them. Here each becomes a link to the page that the file is in the
site, and a file that is no page is named instead. Formulas (```math fences and $`...`$, which such a viewer draws as
well) become MathML, so that a page needs no script.
"""

import base64
import json
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {f"notebooks/{file.name}": f"tutorials/{file.stem}.md" for file in (ROOT / "notebooks").glob("*.ipynb")}
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md", "README.md": "index.md",
         "experiments/README.md": "experiments.md", "benchmarks/README.md": "benchmarks.md", "zoo/README.md": "zoo.md",
         **NOTEBOOKS}
SOURCES = {page: source for source, page in PAGES.items() if source != "README.md"}
LINK = re.compile(r"(?<=\[)((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)([^)\s#]+\.\w+|LICENSE|[^)\s#]+/)(#[^)\s]*)?\)")


def markdown(notebook, name):
    """A stored notebook as (Markdown, {file: bytes of a picture}), the pictures beside the page."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append("```python\n" + re.sub(r"^%.*\n", "", text) + "\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the code draws]({picture})")
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip() + "\n```")
    return "\n\n".join(parts) + "\n", pictures


def linked(text, source, page):
    """The text of a page of the site, its links, relative to the repository's file `source`, made those of the page."""
    def replaced(match):
        label, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if file.endswith(".png") and place is None:
            return match.group(0)  # of a notebook, beside its page
        if place is None:
            return f"{label}] (`{file}`)"
        return f"{label}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    # What stays without an address loses its brackets as well.
    return re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\] (\(`[^`]*`\))", r"\1 \2", LINK.sub(replaced, text))


def outside_code(change, text):
    """The text with what is no fence changed."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def drawn(text):
    """The text with its formulas as MathML."""
    block = lambda m: f'<div style="overflow-x: auto">{convert(m.group(1), display="block")}</div>'
    text = re.sub(r"^```math\n(.*?)\n```$", block, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\$`([^`]*)`\$", lambda m: f"<span>{convert(m.group(1))}</span>", text)


def on_files(files, config):
    for page, source in SOURCES.items():
        if source not in NOTEBOOKS:
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
            continue
        content, pictures = markdown(json.loads((ROOT / source).read_text()), Path(page).stem)
        files.append(File.generated(config, page, content=content))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
    return files


def on_page_markdown(text, page, config, files):
    at = page.file.src_uri
    source = SOURCES.get(at, f"docs/{at}")
    if at == "reference.md":
        text = named(text)
    return drawn(outside_code(lambda part: linked(part, source, at), text))


def named(text):
    """The list of names, each a link to its description."""
    def section(match):
        room = match.group(1)
        links = lambda m: m.group(0).replace("`" + m.group(1) + "`",
                                             f"[`{m.group(1)}`](api/{room}.md#xmanip_jax.{room}.{m.group(1)})")
        return re.sub(r"(?<=[|\s])`(\w+)`(?=[\s|])", links, match.group(0))

    return re.sub(r"^## (\w+)\n.*?(?=^## |\Z)", section, text, flags=re.MULTILINE | re.DOTALL)
