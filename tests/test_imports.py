"""Imports point one way and run in no circle, the light parts stay light, and only methods know their names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hf_condense.methods import list_methods

PACKAGE = Path(__file__).parents[1] / "hf_condense"
# a part imports only parts that stand before it
ORDER = (
    "text", "errors", "files", "records", "processes", "memory", "callbacks", "progress", "precision", "snapshots", "config", "data", "plan", "models", "selection",
    "objectives", "labels", "methods", "shard_optimiser", "engine", "evaluation", "hub", "run", "trainer",
    "reproduction", "pictures", "leaderboard", "cli_parser", "cli_help", "cli", "__main__",
)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file names in its imports, those for typing and inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative path"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return (found & FILES.keys()) - {module_name(path)}


def part(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_one_way(module: str):
    if module == "hf_condense":  # the public names, which load when they are asked for
        return
    own = ORDER.index(part(module))
    upward = {other for other in imported(FILES[module]) if part(other) and ORDER.index(part(other)) > own}
    assert not upward, f"{module} imports upward from {upward}"


def circles(edges: dict[str, set[str]]) -> set[str]:
    """Modules that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in edges[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    return {module for module in edges if module in reached(module)}


def test_no_imports_run_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}
    edges = {module: imported(path) for module, path in FILES.items() if module != "hf_condense"}
    assert not circles({m: {o for o in others if o in edges} for m, others in edges.items()})


# words that are a method's name and something else as well
OTHER_MEANINGS = {
    "hf_condense.evaluation.classic": "protocols are called after the papers that they are from",
    "hf_condense.evaluation.published": "protocols are called after the papers that they are from",
    "hf_condense.objectives.inner_loop": "a kind of gradient is called after the paper of its equation",
}


def test_only_methods_know_the_names_of_methods():
    names, found = set(list_methods()) - {"random"}, []
    for module, path in FILES.items():
        if part(module) != "methods" and module not in OTHER_MEANINGS:
            found += [
                f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and node.value in names
            ]
    assert not found


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
