"""What is installed elsewhere: wheel and sdist hold every template and preset that the code reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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
    assert len(DATA) > 50 and not set(DATA) - names
