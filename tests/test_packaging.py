"""What is installed elsewhere: wheel and sdist hold every template and preset that the code reads."""

from __future__ import annotations

import ast
import os
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
    p.relative_to(ROOT).as_posix() for s in ("jinja", "yaml", "c") for p in (ROOT / "hf_condense").rglob(f"*.{s}")
)
TRY = (
    "run --method dm --dataset digits --ipc 1 --iterations 2 --max_per_class 12 --max_test 20 --student_epochs 1 --student_seeds 1"
).split()  # fmt: skip
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


@pytest.fixture(scope="module")
def archives(tree, tmp_path_factory) -> dict[str, Path]:
    """Wheel and sdist, built from that copy."""
    folder = tmp_path_factory.mktemp("archives")
    for kind in ("wheel", "sdist"):
        subprocess.run(
            [sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=tree, check=True, capture_output=True
        )
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def test_archives_hold_templates_and_presets(archives):
    wheel = set(zipfile.ZipFile(archives["wheel"]).namelist())
    with tarfile.open(archives["sdist"]) as opened:
        sdist = {name.partition("/")[2] for name in opened.getnames()}
    assert (
        len(DATA) > 50 and not {*DATA, "hf_condense/py.typed"} - wheel and not {*DATA, "hf_condense/py.typed"} - sdist
    )


def run(*command: str, folder: Path, **variables: str) -> str:
    """What a command prints, in a folder away from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_away_from_the_checkout(archives, tmp_path):
    zipfile.ZipFile(archives["wheel"]).extractall(tmp_path)
    where = run(sys.executable, "-c", "import hf_condense; print(hf_condense.__file__)", folder=tmp_path)
    assert where.strip() == str(tmp_path / "hf_condense" / "__init__.py")
    shown = run(sys.executable, "-m", "hf_condense", *TRY, "--help", folder=tmp_path)
    assert "convnet_d1" in shown, "a value of the preset dm/digits"


@pytest.mark.slow
def test_wheel_and_sdist_work_in_an_empty_environment(archives, tmp_path):
    """With the dependencies that they name and no extra. The first install downloads them, where uv has none of them."""
    uv = (sys.executable, "-m", "uv")
    run(*uv, "venv", "--python", sys.executable, "env", folder=tmp_path)
    python = str(tmp_path / "env" / "bin" / "python")
    install = (*uv, "pip", "install", "--python", python, "--constraint", str(ROOT / "constraints.txt"))
    run(*install, str(archives["wheel"]), folder=tmp_path)
    command = str(tmp_path / "env" / "bin" / "hf-condense")
    assert run(command, "--version", folder=tmp_path).split() == ["hf-condense", hf_condense.__version__]
    made = run(command, *TRY, "--output_dir", "made", folder=tmp_path, HF_CONDENSE_CACHE=str(tmp_path / "cache"))
    assert "load with load_dataset" in made and (tmp_path / "made" / "dataset" / "README.md").is_file()
    assert "content  holds" in run(command, "inspect", "made", folder=tmp_path)
    run(*install, "--reinstall-package", "hf-condense", str(archives["sdist"]), folder=tmp_path)
    assert "content  holds" in run(command, "inspect", "made", folder=tmp_path)


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
