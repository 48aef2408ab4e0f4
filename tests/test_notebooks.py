"""Every notebook runs from top to bottom, small."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FIRST = "manipulation"  # of the others, what they show is tested by itself
NOTEBOOKS = [pytest.param(path, marks=[] if path.stem == FIRST else pytest.mark.slow, id=path.stem)
             for path in sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("path", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_notebook(path, monkeypatch):
    monkeypatch.setenv("XMANIP_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", f"{path.parent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
