"""Run notebooks and keep what they show in the files, for those who only read them.

    python notebooks/store.py                     # all of them, 15 minutes on 2 cores
    python notebooks/store.py geometry
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
WIDTH = 680  # pixels of a stored picture, at most: a column of the site, and small enough for a repository viewer


def shrunk(picture):
    """A PNG in base64, no wider than WIDTH."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    if image.width <= WIDTH:
        return picture
    kept, size = io.BytesIO(), (WIDTH, round(image.height * WIDTH / image.width))
    image.resize(size, Image.Resampling.LANCZOS).save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


def stored(notebook):
    """The notebook, executed: outputs without what a run says on its error channel and when, as nothing to read."""
    NotebookClient(notebook, timeout=None, record_timing=False, coalesce_streams=True,
                   resources={"metadata": {"path": str(FOLDER)}}).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    print(output.text, file=sys.stderr)
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = shrunk(output.data["image/png"])
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main(names):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(stored(nbformat.read(path, as_version=4)), path)
        print(f"{path.name}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
