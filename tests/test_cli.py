"""The command line as a person types it, and what it says when something is wrong."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from hf_condense import __version__
from hf_condense.cli import main, recipe
from hf_condense.config import setting_fields
from hf_condense.methods import list_methods, sections_of
from hf_condense.run.resolve import read_yaml

ROOT = Path(__file__).parents[1]
TINY = "--ipc 2 --max_per_class 12 --max-test 40 --base_model convnet_d1 --squeeze_epochs 2 --min_top1_over_chance 0".split()
TINY += (
    "--protocol small --student_epochs 2 --student_seeds 3 --students convnet_d1 --threads 1 --precision fp32".split()
)


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, str]:
    """The recipe through the real launcher, once."""
    folder = tmp_path_factory.mktemp("launched") / "run"
    launcher = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launcher, "recipes/edc.py", "--dataset", "digits", "--output_dir", str(folder), *TINY]
    command += ["--iterations", "3", "--trackers", "tensorboard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout + done.stderr


def test_a_recipe_leaves_a_scored_dataset_that_datasets_reads(launched):
    folder, said = launched
    data = load_dataset(str(folder / "dataset"))["train"]
    assert len(data) == 20 and data.features["label"].num_classes == 10 and len(data[0]["soft_label"]) == 10
    assert "squeeze: convnet_d1 (from scratch), top-1" in said
    assert "estimate on this machine" in said and "vs random" in said and "look at" in said
    for row in ("full", "random", "initial", "edc"):
        assert f"\n{row} " in said
    for regime in ("hard", "stored", "online"):
        assert regime in said
    assert (folder / "pictures" / "comparison.png").exists() and (folder / "dataset" / "preview.png").exists()
    assert list((folder / "logs").rglob("*tfevents*"))


def test_inspect_says_what_it_is_and_whether_it_holds(launched, capsys):
    assert main(["inspect", str(launched[0])]) == 0
    said = capsys.readouterr().out
    assert "EDC" in said and "holds: sha256" in said and "stored labels" in said
    assert main(["inspect", str(launched[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["content_hash"]["holds"]


def test_a_run_folder_is_gone_on_with(launched, capsys):
    assert main(["evaluate", str(launched[0])]) == 0
    assert main(["condense", "--lr", "0.05", str(launched[0])]) == 0, "the folder may stand after flags"
    assert main(["condense", str(launched[0]), "--iterations", "4"]) == 2
    assert "iterations=4: expected 3, with which condense" in capsys.readouterr().err


def test_networks_from_scratch_have_to_be_trained(tmp_path, capsys):
    asked = ["run", "--method", "random", "--dataset", "digits", "--base_model", "convnet_d1", "--squeeze_epochs", "0"]
    assert main([*asked, "--output_dir", str(tmp_path / "run")]) == 2
    assert "1 or more for convnet_d1, which begins from scratch" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path) -> Path:
    """An ImageFolder with two classes of RGB pictures of different sizes."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.integers(0, 256, (12 + i, 16, 3), np.uint8)).save(place / f"{i}.png")
    return tmp_path / "pets"


def test_a_folder_of_pictures(folder, tmp_path, capsys):
    arguments = ["--dataset", str(folder), "--image_size", "8", "--output_dir", str(tmp_path / "run"), *TINY]
    assert main(["run", "--method=random", *arguments]) == 0
    made = load_dataset(str(tmp_path / "run" / "dataset"))["train"]  # not what another folder "dataset" held before
    assert made.features["label"].names == ["cat", "dog"] and len(made) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "didgits"], "digits"),
        (["--dataset", "digits", "--label_column", "klass"], "label_column"),
        (["--dataset", "digits", "--base_model", "convnet_d11"], "convnet_d1"),
        (["--dataset", "digits", "--ipc", "0"], "ipc=0: expected 1 or more"),
        (["--dataset", "digits", "--protocol", "smal"], "small"),
        (["--dataset", "digits", "--config", "nowhere.yaml"], "config"),
        (["--dataset", "digits", "--output_dir", "/proc/nowhere"], "output_dir"),
        (
            ["--dataset", "digits", "--ipc", "500", "--squeeze_epochs", "1", "--max_test", "40"],
            "ipc=500",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, tmp_path, capsys):
    if "--output_dir" not in arguments:
        arguments = [*arguments, "--output_dir", str(tmp_path / "run")]
    short = [
        "--max_per_class",
        "12",
        "--base_model",
        "convnet_d1",
        "--squeeze_epochs",
        "1",
        "--min_top1_over_chance",
        "0",
    ]
    arguments = [*[a for a in short if not set(short[:1]) & set(arguments)], *arguments]
    assert main(["condense", "--method", "edc", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and ": expected " in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--icp 3", "arguments='--icp'.*Did you mean ipc"),
        ("--method edc --iteratons=3", "'--iteratons'.*settings of edc. Did you mean iterations"),
        ("--iterations 5", "'--iterations'.*a setting of a method (.*, edc, .*): say --method"),
        ("--regimes hard stored", "run folder='stored'.*with commas: --regimes hard,stored"),
        ("one two", "arguments='two'.*one run folder"),
        ("--method edc --quick maybe", "quick='maybe'.*Write --quick true or --quick false"),
        ("--method edc --prior_epochs 1,two", "prior_epochs=.*with commas between its values"),
        ("--method edc --protocol smal", "such as small,.*Did you mean small"),
    ],
)
def test_a_slip_of_the_keyboard_gets_a_hint(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments.split()]) == 2
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_recipe_runs_its_own_method_alone(tmp_path, capsys, monkeypatch):
    (tmp_path / "dm.yaml").write_text("method: dm\n")
    for said in (["--method", "dm"], ["--method=dm"], ["--config", str(tmp_path / "dm.yaml")]):
        monkeypatch.setattr(sys, "argv", ["recipes/edc.py", *said])
        with pytest.raises(SystemExit) as ended:
            recipe("edc")
        assert ended.value.code == 2
        assert "method='dm': expected edc, which this recipe runs" in capsys.readouterr().err


def test_a_truncated_parquet_is_named(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "train.parquet")
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    assert (
        main(["condense", "--method", "random", "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "run")])
        == 2
    )
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "run" / "shards").exists()


def shown(capsys, *arguments: str) -> list[str]:
    """The lines that a command prints when all goes well."""
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("method", list_methods())
def test_help_of_a_method_fits_a_screen(method, capsys):
    lines = shown(capsys, "run", "--method", method, "--help")
    assert 20 <= len(lines) <= 40 and max(map(len, lines)) <= 119
    said = "\n".join(lines)
    for part in ("--dataset NAME|FOLDER", "--ipc N", "--quick true|false", "--dry_run", "--help_all"):
        assert part in said
    fields = sections_of(method, None)["method"].__dataclass_fields__
    title = re.search(rf"^{method} settings( \((\d+) of (\d+)\))?:", said, re.M)
    assert bool(title) == bool(fields)
    if title and title[1]:
        assert int(title[3]) == len(fields) and int(title[2]) >= 15


def test_help_of_a_method_begins_with_its_own_settings(capsys):
    lines = shown(capsys, "run", "--method", "pdd", "--base_method", "mtt", "--help")
    first = lines.index(next(line for line in lines if line.startswith("pdd settings"))) + 1
    assert "--base_method NAME" in lines[first] and "--stages N" in lines[first + 1]


def test_help_all_lists_every_setting_in_full(capsys):
    said = "\n".join(shown(capsys, "run", "--method", "edc", "--help-all"))
    for name in setting_fields(sections_of("edc", None)):
        assert f"\n  --{name} " in said
    assert "full (fp16" in " ".join(said.split()) and "none, full, int8, pruned, packed, virtual" in " ".join(
        said.split()
    )
    assert "(a few views an image, the largest logits), virtual (no logits:" in " ".join(said.split())


def test_help_with_a_dataset_shows_values_and_their_source(capsys):
    lines = shown(capsys, "run", "--method", "edc", "--dataset", "cifar10", "--seed", "7", "--help")
    assert any("preset edc/cifar10" in line for line in lines)

    def row(name: str) -> str:
        return " ".join(next(line for line in lines if f"--{name} " in line).split())

    assert row("iterations").startswith("--iterations N 75 [published] optimiser steps")
    assert row("seed").startswith("--seed N 7 [flag]") and row("ipc").startswith("--ipc N 10 synthetic")
    assert len(lines) <= 40


def test_help_of_a_run_folder_shows_its_settings(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("method: edc\ndataset: digits\niterations: 9\n")
    for words in (["condense", str(tmp_path), "--help"], ["condense", "--help", str(tmp_path)]):
        said = " ".join(" ".join(shown(capsys, *words)).split())
        assert "condense --method edc" in said and "--iterations N 9 [file]" in said


def test_help_says_what_it_cannot_resolve(tmp_path, capsys):
    said = "\n".join(shown(capsys, "run", "--method", "edc", "--dataset", str(tmp_path / "pets"), "--help"))
    assert "no preset is made for" in said and "--dry_run" in said
    said = "\n".join(shown(capsys, "run", "--method", "edc", "--dataset", "digits", "--ipc", "0", "--help"))
    assert "because of an error" in said and "ipc" in said


def test_help_of_other_commands_shows_their_section(capsys):
    assert "--pool_kind" in "\n".join(shown(capsys, "pool", "--help"))
    assert "--squeeze_epochs N" in "\n".join(shown(capsys, "squeeze", "-h"))
    assert "edc" in "\n".join(shown(capsys, "methods"))


def test_a_dry_run_prints_settings_and_cost_and_leaves_nothing(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    given = ["--method", "edc", "--dataset", "digits", "--output_dir", str(tmp_path / "run"), *TINY]
    lines = shown(capsys, "run", "--dry-run", *given)
    assert "  squeeze_epochs: 2  # flag" in lines and "  seed: 0" in lines
    assert any(re.fullmatch(r"  squeeze_lr: 0.05  # preset edc/digits, \w+", line) for line in lines)
    assert "estimate on this machine" in caplog.text and "together about" in caplog.text
    assert not list(tmp_path.iterdir())
    (tmp_path / "again.yaml").write_text("\n".join(lines))
    again = read_yaml(str(tmp_path / "again.yaml"))
    assert again["method"] == "edc" and again["squeeze_epochs"] == 2 and again["students"] == ["convnet_d1"]
    assert set(again) == set(setting_fields(sections_of("edc", None)))


@pytest.mark.parametrize("command", ["run", "condense", "relabel", "evaluate"])
def test_a_run_without_a_method_is_refused(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--dataset", "digits"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: invalid method=") and "edc" in said and "--method NAME" in said
    assert not list(tmp_path.iterdir())


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hf-condense {__version__}\n"


def test_the_installed_command_answers_in_about_a_second():
    command = Path(sys.executable).parent / "hf-condense"
    if not command.exists():
        pytest.skip("the package is not installed with its command")
    best = 99.0
    for _ in range(3):
        before = os.times().elapsed
        subprocess.run([command, "--help"], check=True, capture_output=True)
        best = min(best, os.times().elapsed - before)
    assert best < 1
