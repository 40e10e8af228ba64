"""A run folder on a board: its own stored labels beside random images of the same teacher, and its recipe run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hf_condense.cli import main
from hf_condense.hub.artefact import Artefact, write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.leaderboard.check import check_folder
from hf_condense.leaderboard.collect import collect
from hf_condense.leaderboard.place import open_place
from hf_condense.leaderboard.statements import Verification
from hf_condense.leaderboard.submit import submit
from hf_condense.trainer import CondensationTrainer


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of real images with stored labels, and its teacher in its pool."""
    folder = tmp_path_factory.mktemp("run") / "run"
    CondensationTrainer(
        "random", "digits", ipc=2, output_dir=str(folder), base_model="convnet_d1", squeeze_epochs=2, regimes="stored",
        students="convnet_d1", student_seeds=1, student_epochs=2, min_top1_over_chance=0.0, threads=1, baselines="random",
    ).run()  # fmt: skip
    return folder


def own_column(result):
    (column,) = (c for c in result.content.columns if c.regime == "own")
    return column


def test_own_labels_are_held_against_random_images_under_the_same_teacher(board, work, run):
    done = submit([str(run)], board, work=work, by="ada", own_labels=True)
    column = own_column(done.result)
    assert column.control.seeds == column.seeds == (0, 1, 2) and column.label_bytes > 0
    (line,) = (line for line in done.verdicts.splitlines() if line.strip().startswith("own"))
    assert "points [" in line and "no verdict" not in line
    place = open_place(board)
    reports = check_folder(place)
    assert not any(r.refused for r in reports), "\n".join(r.text() for r in reports)
    rows = collect(place).by_result[done.result.id]
    assert next(row for row in rows if row.column.regime == "own").judged is not None


def test_without_the_teacher_there_is_no_verdict(board, work, run, tmp_path, caplog):
    alone = shutil.copytree(run / "dataset", tmp_path / "alone")
    done = submit([str(alone)], board, work=work, by="ada", own_labels=True)
    assert own_column(done.result).control is None
    assert "no verdict: no random images under the same labels" in done.verdicts
    assert "'own' gets no control" in caplog.text and "teacher" in caplog.text
    assert not any(r.refused for r in check_folder(open_place(board)))


@pytest.mark.parametrize("honest", [True, False])
def test_the_recipe_is_run_again(board, work, run, tmp_path, monkeypatch, capsys, honest):
    """The set that the recipe makes, and one of which an image was changed afterwards."""
    made = run
    if not honest:
        data = DistilledDataset.load(run)
        images = data.images.clone()
        images[3] = 255 - images[3]
        content = {**data.content, "labels": {**data.content["labels"], "store": None}}
        made = tmp_path / "changed"
        soft = {"soft_labels": data.soft_labels, "soft_label_kind": content["soft_label"]}
        write_artefact(made, Artefact(images, data.labels, data.class_names, content, data.record, **soft))
    id = submit([str(made)], board, work=work, by="ada").result.id
    monkeypatch.chdir(tmp_path)
    command = ["verify", id, "--leaderboard", str(board), "--remake", "--by", "grace", "--work_dir", str(work)]
    main([*command, "--seeds", "2"])  # its exit code is that of the scores
    said = capsys.readouterr().out
    assert ("remade: the same set" if honest else "remade: another set") in said
    (entry,) = open_place(board).entries(Verification)
    assert entry.remade.same == honest
    assert honest or any("images" in line for line in entry.remade.differences)
    assert not any(r.refused for r in check_folder(open_place(board)))
