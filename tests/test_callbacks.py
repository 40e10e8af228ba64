"""Callbacks learn of every stage, step, loss, score and picture, change nothing, and may stop a run that then resumes."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_condense import Callback, CondensationTrainer
from hf_condense.callbacks import Control, State, Stopped
from hf_condense.cli import main
from hf_condense.processes import Processes
from hf_condense.run.history import HistoryCallback, read_history

TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "squeeze_epochs": 3, "min_top1_over_chance": 0, "protocol": "small", "student_epochs": 4, "student_seeds": 2,
    "students": "convnet_d1", "threads": 1, "precision": "fp32", "iterations": 12, "regimes": "hard,stored",
}  # fmt: skip


def trainer(folder: Path, *callbacks: Callback, **settings) -> CondensationTrainer:
    return CondensationTrainer("edc", output_dir=str(folder), callbacks=callbacks, **{**TINY, **settings})


class Notes(Callback):
    """What came, as a list."""

    def __init__(self) -> None:
        self.came: list[tuple] = []
        self.steps: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.logs: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.pictures: dict[str, set[str]] = {}

    def on_run_begin(self, config, state, control, **kwargs):
        self.came.append(("run begin", config.run.ipc))

    def on_run_end(self, config, state, control, folder=None, table=None, **kwargs):
        self.came.append(("run end", folder.name, len(table.cells)))

    def on_stage_begin(self, config, state, control, resumed=None, **kwargs):
        self.came.append(("begin", state.stage, resumed))

    def on_stage_end(self, config, state, control, facts=None, **kwargs):
        assert facts["seconds"] >= 0 and facts["peak_bytes"] > 0
        self.came.append(("end", state.stage))

    def on_step_end(self, config, state, control, **kwargs):
        self.steps[state.stage, state.work].append(state.step)

    def on_log(self, config, state, control, logs=None, **kwargs):
        assert all(isinstance(value, float) for value in logs.values())
        self.logs[state.stage, state.work] |= logs.keys()

    def on_images(self, config, state, control, images=None, labels=None, class_names=(), name="", **kwargs):
        assert all(len(found) == len(labels) and found.dtype == torch.uint8 for found in images.values())
        self.pictures[name] = set(images)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, Notes]:
    """A whole run with a tracker."""
    folder, notes = tmp_path_factory.mktemp("ran") / "run", Notes()
    trainer(folder, notes, trackers="tensorboard").run()
    return folder, notes


def test_every_stage_step_loss_score_and_picture_comes(ran):
    _, notes = ran
    stages = ["squeeze", "statistics", "condense", "relabel", "evaluate"]
    expected = [e for s in stages for e in (("begin", s, False), ("end", s))]
    assert notes.came == [("run begin", 2), *expected, ("run end", "dataset", 14)]
    assert notes.steps["squeeze", "convnet_d1"] == [1, 2, 3]
    assert notes.steps["condense", "edc-00000"] == [*range(1, 13)]
    assert notes.steps["evaluate", "students"] == [*range(1, 15)]
    assert notes.steps["evaluate", "edc/convnet_d1/stored/1"] == [1, 2, 3, 4]
    assert notes.logs["squeeze", "convnet_d1"] == {"loss", "lr", "top1"}
    assert "matching" in notes.logs["condense", "edc-00000"] and notes.logs["evaluate", "teacher"] == {"top1"}
    assert notes.logs["evaluate", "edc/convnet_d1/stored/0"] == {"loss", "lr", "accuracy", "top1"}
    assert notes.logs["evaluate", "edc/convnet_d1/stored/1"] == {"loss", "lr", "top1"}, "one seed draws the curve"
    assert notes.pictures["comparison"] == {"real images", "random", "first images", "EDC"}
    assert sum(name.startswith("edc-00000-step") for name in notes.pictures) == 4


def test_trackers_get_every_loss_score_and_picture(ran):
    folder, notes = ran
    events = EventAccumulator(str(folder / "logs" / "hf-condense"), size_guidance={"images": 0})
    events.Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    for (stage, work), names in notes.logs.items():
        assert {f"{stage}/{work}/{name}" for name in names} <= set(scalars)
    assert {f"pictures/{name}/{row}" for name, rows in notes.pictures.items() for row in rows} == set(images)
    assert [e.step for e in events.Scalars("squeeze/convnet_d1/loss")] == [1, 2, 3]
    table = json.loads((folder / "scores" / "scores.json").read_text())["content"]["table"]
    mean = next(line["top1"]["mean"] for line in table if (line["row"], line["regime"]) == ("edc", "stored"))
    assert events.Scalars("scores/edc/convnet_d1/stored")[0].value == pytest.approx(mean)
    assert {"condense/seconds", "condense/peak_bytes"} <= set(scalars)


def test_a_run_leaves_pictures_for_a_paper_and_the_history_they_are_drawn_from(ran):
    folder, _ = ran
    for name in ("comparison", "curves", "accuracy_for_bytes"):
        for suffix in ("png", "pdf"):
            assert (folder / "pictures" / f"{name}.{suffix}").stat().st_size > 5000
    curves = read_history(folder)
    assert list(curves["squeeze", "convnet_d1", "loss"]) == [1, 2, 3]
    assert curves["evaluate", "edc/convnet_d1/hard/0", "top1"].keys() == {4}


def test_picture_draws_any_set(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (ran[0] / "pictures" / "comparison.png").read_bytes()
    assert main(["picture", str(ran[0])]) == 0
    assert "curves.png and curves.pdf" in capsys.readouterr().out
    assert (ran[0] / "pictures" / "comparison.png").read_bytes() == before, (
        "real, random and first images are the same"
    )
    shutil.copytree(ran[0] / "dataset", tmp_path / "set")
    assert main(["picture", "set"]) == 0
    assert sorted(p.name for p in Path("pictures").glob("*.png")) == ["accuracy_for_bytes.png", "comparison.png"]
    assert main(["picture", "set", "--dataset", "cifar10"]) == 2, "another source"


class StopAt(Callback):
    """Stops once."""

    def __init__(self, stage: str, work: str, step: int) -> None:
        self.at = (stage, work, step)

    def on_step_end(self, config, state, control, **kwargs):
        control.should_stop = (state.stage, state.work, state.step) == self.at


STARTS = [  # of one run: where each stops, and the stage that the next one resumes in
    (("squeeze", "convnet_d1", 2), "squeeze"),
    (("condense", "edc-00000", 5), "condense"),
    (("condense", "edc-00000", 12), "relabel"),  # its last step: the stage is done, and the next does not begin
    (("evaluate", "edc/convnet_d1/hard/0", 3), "evaluate"),
]


def test_a_stopped_run_goes_on_where_it_was_with_the_same_result(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))  # else the squeeze is found there
    before: tuple = ()
    for at, stage in STARTS:
        notes = Notes()
        with pytest.raises(Stopped, match=f"StopAt has stopped the run .{stage}.*resume there"):
            trainer(tmp_path / "run", notes, StopAt(*at)).evaluate()
        if before:
            assert notes.came[0] == ("begin", before[1], before[1] == before[0][0])
        if before and before[1] == before[0][0]:
            assert notes.steps[before[0][:2]][:2] == [before[0][2], before[0][2] + 1], "no step twice"
        before = (at, stage)
    again, whole = trainer(tmp_path / "run"), trainer(ran[0])
    assert again.evaluate().without_cost() == whole.evaluate().without_cost()
    assert torch.equal(again.condense().images, whole.condense().images)


def test_one_trainer_goes_on_after_it_was_stopped(tmp_path):
    made = trainer(tmp_path, StopAt("condense", "edc-00000", 5), regimes="hard")
    with pytest.raises(Stopped):
        made.condense()
    assert len(made.condense().images) == 8


def test_curves_of_a_stage_that_is_made_again_replace_the_old_ones(tmp_path):
    history, control = HistoryCallback(tmp_path, Processes()), Control()
    for resumed, values in ((False, {1: 9.0, 2: 8.0, 3: 7.0}), (True, {3: 6.0}), (False, {1: 5.0})):
        history.on_stage_begin(None, State("condense", "", ""), control, resumed=resumed)
        for step, value in values.items():
            history.on_log(None, State("condense", "dm", "dm", step=step), control, {"ce": value})
        if resumed:
            assert read_history(tmp_path) == {("condense", "dm", "ce"): {1: 9.0, 2: 8.0, 3: 6.0}}
    with open(history.path, "a") as file:
        file.write('{"stage": "cond')  # killed
    assert read_history(tmp_path) == {("condense", "dm", "ce"): {1: 5.0}}


class Process(Processes):
    """The process of this number."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rank, self.world = rank, world


def test_curves_of_all_processes_are_read_and_none_of_those_that_a_redone_stage_had_before(tmp_path):
    def begun(rank: int, world: int, work: str) -> None:
        history, control = HistoryCallback(tmp_path, Process(rank, world)), Control()
        history.on_stage_begin(None, State("evaluate", "", ""), control)
        history.on_log(None, State("evaluate", work, work, step=1), control, {"top1": 0.5})

    begun(0, 2, "edc")
    begun(1, 2, "random")
    assert {work for _, work, _ in read_history(tmp_path)} == {"edc", "random"}
    begun(0, 1, "edc")
    assert {work for _, work, _ in read_history(tmp_path)} == {"edc"}
