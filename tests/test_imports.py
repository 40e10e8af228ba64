"""Imports point one way, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_condense"
# a part may import parts with a smaller or equal number
LEVEL = {
    "errors": 0, "files": 0, "snapshots": 0, "config": 0, "progress": 0, "memory": 0, "precision": 0,
    "data": 1, "models": 2, "objectives": 3, "selection": 3, "methods": 4, "labels": 4,
    "resolve": 5, "stages": 5, "engine": 5, "evaluation": 5, "hub": 5, "estimate": 6, "report": 6, "run_stages": 6, "scored_rows": 6, "preflight": 6, "publishing": 6, "trainer": 7, "reproduction": 8, "cli": 9, "__main__": 9,
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Parts of the package that a file imports when it is run (not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("hf_condense")
            and id(node) not in typing_only
        ):
            parts = node.module.split(".")
            found.update([parts[1]] if len(parts) > 1 else [a.name for a in node.names])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    upward = {other for other in imports(path) if LEVEL[other] > LEVEL[part]}
    assert not upward, f"{path.name} imports upward from {upward}"


@pytest.mark.parametrize(
    "code",
    [
        "import hf_condense, hf_condense.methods, hf_condense.config",
        "from hf_condense.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from hf_condense.cli import main\nmain(['methods'])",
    ],
)
def test_light_parts_load_nothing_heavy(code):
    """Which is what makes them quick: torch, timm and datasets take seconds each."""
    heavy = "import sys; found = {'torch', 'timm', 'datasets', 'transformers', 'numpy'} & {*sys.modules}; assert not found, found"
    subprocess.run([sys.executable, "-c", f"{code}\n{heavy}"], check=True, capture_output=True)


def test_every_file_says_its_idea():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
