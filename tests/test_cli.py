"""The command line as a person types it, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from hf_condense.cli import main, recipe

ROOT = Path(__file__).parents[1]
TINY = "--ipc 2 --max_per_class 12 --max-test 40 --base_model convnet_d1 --squeeze_epochs 2 --patience_top1 0".split()
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
    assert "iterations: 4 does not work. Allowed: 3, with which condense" in capsys.readouterr().err


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
        (["--dataset", "digits", "--ipc", "0"], "ipc: 0 does not work. Allowed: 1 or more"),
        (["--dataset", "digits", "--protocol", "smal"], "small"),
        (["--dataset", "digits", "--config", "nowhere.yaml"], "config"),
        (["--dataset", "digits", "--output_dir", "/proc/nowhere"], "output_dir"),
        (
            ["--dataset", "digits", "--ipc", "500", "--squeeze_epochs", "1", "--max_test", "40"],
            "ipc: 500 does not work",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, tmp_path, capsys):
    if "--output_dir" not in arguments:
        arguments = [*arguments, "--output_dir", str(tmp_path / "run")]
    short = ["--max_per_class", "12", "--base_model", "convnet_d1", "--squeeze_epochs", "1", "--patience_top1", "0"]
    arguments = [*[a for a in short if not set(short[:1]) & set(arguments)], *arguments]
    assert main(["condense", "--method", "edc", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and "Next: " in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--icp 3", "arguments: '--icp' does not work. .*did you mean ipc"),
        ("--method edc --iteratons=3", "'--iteratons' .*settings of edc. Next: did you mean iterations"),
        ("--iterations 5", "'--iterations' .*a setting of a method (.*, edc, .*): say --method"),
        ("--regimes hard stored", "run folder: 'stored' .*with commas: --regimes hard,stored"),
        ("one two", "arguments: 'two' .*one run folder"),
        ("--quick maybe", "quick: 'maybe' .*Next: write --quick true or --quick false"),
        ("--prior_epochs 1,two", "prior_epochs: .*with commas between its values"),
        ("--protocol smal", "such as small, .*did you mean small"),
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
        assert "method: 'dm' does not work. Allowed: edc, which this recipe runs" in capsys.readouterr().err


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


def test_help_is_quick_and_lists_a_methods_settings(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--method", "edc", "--help"])
    said = capsys.readouterr().out
    assert "--flatness_weight" in said and "--dataset" in said and "(paper | official)" in said
    assert "--regimes a,b,c" in said and "[true|false]" in said and "per class (default 10)" in " ".join(said.split())
    assert main(["methods"]) == 0 and "edc" in capsys.readouterr().out


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
