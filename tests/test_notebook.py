"""The notebook of docs/ runs from top to bottom in a Jupyter kernel, and is kept without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "condense_digits.ipynb"


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 8
    assert not [c for c in cells if c.get("outputs") or c.get("execution_count")], "clear all outputs before a commit"


@pytest.mark.slow
def test_it_runs_and_says_what_it_promises(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed (extra dev)")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")
    book = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(book, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    top1 = {
        (row, regime): float(value)
        for row, regime, value in re.findall(r"^(\w+) +(hard|stored)? *(\d+\.\d) ±", text, re.M)
    }
    assert top1["dm", ""] > top1["random", ""] + 8, "the gain that the notebook shows is 15 points"
    assert top1["random", "stored"] > top1["random", "hard"] + 15, "soft labels do more than any of it"
    assert [o for o in outputs if "image/png" in o.get("data", {})], "the images are shown"
