"""The public names have types: mypy accepts a program that uses each of them, and finds the mistakes in it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hf_condense

ROOT = Path(__file__).parents[1]
CHECKED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]


def test_all_modules_of_public_names_are_checked():
    modules = {module.replace(".", "/") for module in hf_condense._WHERE.values()}
    files = {name.removesuffix(".py").removesuffix("/__init__") for name in CHECKED}
    assert not modules - files, "a module with a public name is missing under [tool.mypy] in pyproject.toml"


def test_the_program_uses_every_public_name():
    tree = ast.parse((ROOT / "tests" / "typed_program.py").read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not set(hf_condense.__all__) - used


def test_mypy_accepts_the_public_names():
    """The same command as in `make quality`, whose cache it uses."""
    pytest.importorskip("mypy", reason="mypy is not installed (extra dev)")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
