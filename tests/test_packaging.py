"""What is installed elsewhere: wheel and sdist hold every template and preset that the code reads."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hf_condense

ROOT = Path(__file__).parents[1]
DATA = sorted(
    p.relative_to(ROOT).as_posix() for s in ("jinja", "yaml") for p in (ROOT / "hf_condense").rglob(f"*.{s}")
)
BUILD = "import sys; from setuptools.build_meta import build_{0} as build; build(sys.argv[1])"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what the package is built from, because a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "hf_condense", folder / "hf_condense", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def test_no_file_of_the_package_is_a_link():
    """Windows checkouts turn symbolic links into text files."""
    assert not [p for p in (ROOT / "hf_condense").rglob("*") if p.is_symlink()]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_archives_hold_templates_and_presets(kind, tree, tmp_path):
    subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(tmp_path)], cwd=tree, check=True, capture_output=True
    )
    (archive,) = tmp_path.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    if kind == "wheel":
        names = set(zipfile.ZipFile(archive).namelist())
    else:
        with tarfile.open(archive) as opened:
            names = {name.partition("/")[2] for name in opened.getnames()}
    assert len(DATA) > 50 and not {*DATA, "hf_condense/py.typed"} - names


def test_what_people_cite_and_read_names_this_version():
    for name in ("CITATION.cff", "CHANGELOG.md"):
        assert hf_condense.__version__ in (ROOT / name).read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project["version"] == hf_condense.__version__
    assert cited["license"] == project["license"] and cited["keywords"] == project["keywords"]
    assert "Typing :: Typed" in project["classifiers"]


def test_public_names_are_there_and_are_declared_for_type_checkers():
    tree = ast.parse((ROOT / "hf_condense" / "__init__.py").read_text(encoding="utf-8"))
    declared = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(hf_condense.__all__) <= declared and set(hf_condense.__all__) <= set(dir(hf_condense))
    assert all(callable(getattr(hf_condense, name)) for name in hf_condense.__all__)
