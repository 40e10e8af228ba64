"""What a second start of a run may do: other settings, other images, more seeds; and what a run refuses before it works."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from datasets import Dataset, Features, Image
from datasets.features import ClassLabel
from sklearn.datasets import load_digits

from hf_condense import files
from hf_condense.errors import ConfigError, ModelError
from hf_condense.methods import METHODS, create_method
from hf_condense.methods.random import Random
from hf_condense.plan import Start
from hf_condense.run.estimate import estimate
from hf_condense.run.report import pictured
from hf_condense.run.resolve import read_yaml
from hf_condense.trainer import CondensationTrainer
from tests import forked

TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1", "threads": 1,
    "precision": "fp32", "iterations": 6, "real_batch": 8, "checkpoint_every": 2, "regimes": "hard",
}  # fmt: skip


class Stop(BaseException):
    pass


def dm(folder: Path, **settings) -> CondensationTrainer:
    return CondensationTrainer("dm", output_dir=str(folder), **{**TINY, **settings})


def stopped_after_a_checkpoint(trainer: CondensationTrainer, pause: float = 0.0) -> None:
    def fault(when: str, path: Path) -> None:
        if when == "after" and path.parent.name == "checkpoints":
            time.sleep(pause)
            raise Stop

    files.on_replace = fault
    try:
        with pytest.raises(Stop):
            trainer.condense()
    finally:
        files.on_replace = None


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_overwritten_settings_do_not_go_on_from_the_checkpoint_of_the_old_ones(tmp_path):
    stopped_after_a_checkpoint(dm(tmp_path / "run", lr=50.0))
    again = dm(tmp_path / "run", lr=0.5, overwrite=True).condense()
    assert torch.equal(again.pixels, dm(tmp_path / "other", lr=0.5).condense().pixels)


def test_images_that_are_no_longer_finite_are_refused_and_not_kept(tmp_path):
    with pytest.raises(ConfigError, match=r"lr=1e\+30.* dm-00000.*Lower it"):
        dm(tmp_path, lr=1e30, iterations=30).condense()
    assert all(name.startswith(("start-", "stage", "checkpoints")) for name in times(tmp_path / "shards"))


def some_digits(count: int) -> Dataset:
    """The first `count` images of four classes, as a dataset that only this process knows."""
    x, y = load_digits(return_X_y=True)
    rows = np.flatnonzero(y < 4)[:count]
    return Dataset.from_dict(
        {"image": list((x[rows] * 16).clip(0, 255).reshape(-1, 8, 8).astype(np.uint8)), "label": y[rows].tolist()},
        features=Features({"image": Image(), "label": ClassLabel(names=list("0123"))}),
    )


def test_another_source_does_not_delete_what_was_made_from_the_first(tmp_path, caplog):
    own = {"max_per_class": None}
    dm(tmp_path, **own, dataset=some_digits(80)).condense()
    before = times(tmp_path / "shards")
    with pytest.raises(ConfigError, match="dataset=.*with which condense in.* --overwrite"):
        dm(tmp_path, **own, dataset=some_digits(81)).condense()
    assert times(tmp_path / "shards") == before
    with caplog.at_level(logging.WARNING, "hf_condense"):
        dm(tmp_path, **own, dataset=some_digits(81), overwrite=True).condense()
    assert str(tmp_path / "shards") in caplog.text, "what is deleted is said"
    assert not before.items() & times(tmp_path / "shards").items()


def test_a_refused_start_changes_nothing_and_says_so_before_the_work(tmp_path):
    own = {"squeeze_epochs": 1, "min_top1_over_chance": 0.0, "regimes": "hard,online"}
    dm(tmp_path, **own).relabel()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    edc = {k: v for k, v in TINY.items() if k not in ("real_batch", "base_model")} | own
    for settings, message in (
        ({"method": "edc", "base_model": "convnet_w32"}, "method='edc'.*'dm', with which cond"),
        ({"method": "edc", "ipc": 1}, "method='edc'"),
        ({"method": "dm", "ipc": 1, "base_model": "convnet_d1"}, "ipc=1.*2, "),
    ):
        with pytest.raises(ConfigError, match=message):
            CondensationTrainer(output_dir=str(tmp_path), **{**edc, **settings})
    with pytest.raises(ConfigError, match="epochs=3: expected 2, with which relabel"):
        dm(tmp_path, **own, student_epochs=3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    dm(tmp_path, **{**own, "regimes": "hard"})  # nobody labels, so other labels do no harm


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path):
    (tmp_path / "plain").write_text("")
    for place in ("/proc/nothing", str(tmp_path / "plain"), str(tmp_path / "plain" / "run")):
        with pytest.raises(ConfigError, match="output_dir=.*: expected a folder that can be made"):
            CondensationTrainer("random", "digits", output_dir=place, threads=1)


def test_stored_labels_that_nobody_keeps_are_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match="regimes='stored'.* --store none.*--store full, or --regimes hard"):
        dm(tmp_path, regimes="hard,stored")
    assert dm(tmp_path, regimes="hard,stored", store="full").config.evaluation.regimes == ("hard", "stored")


def test_a_tracker_that_cannot_log_is_refused_with_those_that_can(tmp_path):
    with pytest.raises(ConfigError, match="trackers='tensorbord'.*tensorboard, wandb.*Did you mean tensorboard"):
        dm(tmp_path, trackers="tensorbord")
    missing = set(LOGGER_TYPE_TO_CLASS) - {str(name) for name in get_available_trackers()}
    for name in sorted(missing)[:1]:
        with pytest.raises(ConfigError, match=f"trackers='{name}'.*Install {name}"):
            dm(tmp_path, trackers=name)


def test_the_estimate_counts_no_more_images_than_there_are(tmp_path):
    shared = {"squeeze_epochs": 1, "base_model": "convnet_w32", "max_per_class": 8}
    whole, more = (
        estimate(dm(tmp_path, **{**TINY, **shared}, squeeze_batch=n).pipeline)["memory"] for n in (32, 4096)
    )
    assert abs(more - whole) < 10e6  # 4096 images would take hundreds of megabytes


def test_a_student_that_cannot_be_is_refused_before_the_work_as_a_student(tmp_path):
    with pytest.raises(ModelError, match="students='convnet_d11'.*Did you mean convnet_d1"):
        dm(tmp_path, students="convnet_d11")


@pytest.mark.parametrize("field", ["base_model", "students"])
def test_a_misspelt_network_leaves_no_run_folder(field, tmp_path):
    with pytest.raises(ModelError, match=f"invalid {field}='convnet_d11'"):
        dm(tmp_path / "run", **{field: "convnet_d11"}).run()
    assert not (tmp_path / "run").exists()


def test_more_seeds_add_to_the_scores_that_are_there(tmp_path):
    own = {"baselines": "random"}
    dm(tmp_path, **own).evaluate()
    before = times(tmp_path / "scores" / "cells")
    table = dm(tmp_path, **own, student_seeds=2).evaluate()
    after = times(tmp_path / "scores" / "cells")
    assert len(table.cells) == len(after) == 2 * len(before) == 6 and before.items() <= after.items()
    assert dm(tmp_path, **own).evaluate().without_cost() == dm(tmp_path / "other", **own).evaluate().without_cost()


def test_the_random_row_is_left_out_before_the_work_where_a_class_has_too_few_images(tmp_path, caplog):
    few = {"max_per_class": 3, "ipc": 4, "init": "noise", "iterations": 1}
    with caplog.at_level(logging.WARNING, "hf_condense"):
        trainer = dm(tmp_path, **few)
    assert "without random of the baselines" in caplog.text and "4 or more" in caplog.text
    assert {cell["row"] for cell in trainer.evaluate().cells} == {"full", "initial", "dm", "dm (float)"}
    assert dm(tmp_path, config=str(tmp_path / "config.yaml"), **few).config.sections() == trainer.config.sections()
    with pytest.raises(ConfigError, match="baselines='random'"):
        dm(tmp_path, **few, baselines="full,random")
    assert "random" in dm(tmp_path / "other", **{**few, "ipc": 3}).config.evaluation.baselines


def test_seconds_of_all_lives_are_recorded(tmp_path):
    began = time.monotonic()
    stopped_after_a_checkpoint(dm(tmp_path), pause=0.7)
    trainer = dm(tmp_path)
    trainer.condense()
    assert 0.7 < trainer.pipeline.facts()["condense"]["seconds"] < time.monotonic() - began


def test_cards_of_the_pool_name_a_dataset_of_the_hub_and_no_folder(tmp_path):
    def pool_of(name: str) -> str:
        data = some_digits(80 + len(name))  # else the network is found again, with its card
        data.info.dataset_name = name
        dm(tmp_path / name, dataset=data, max_per_class=None, squeeze_epochs=1, min_top1_over_chance=0.0).squeeze()
        return next((tmp_path / name / "pool" / "models").rglob("README.md")).read_text()

    assert 'datasets:\n- "ada/four-digits"' in pool_of("ada/four-digits")
    assert "datasets:" not in pool_of("four-digits")


class Mine(Random):
    """A method of one's own, which starts from nothing."""

    def start(self, shard, context, ready=None):
        found = super().start(shard, context)
        return Start(torch.zeros_like(found.images), found.origin)


def test_a_method_of_ones_own_is_run_under_its_own_name_or_not_at_all(tmp_path, monkeypatch):
    own = {k: v for k, v in TINY.items() if k not in ("iterations", "real_batch")} | {"output_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match="test_trainer:Mine'.*METHODS, where 'random' is.*add_a_method"):
        CondensationTrainer(Mine(Mine.Settings()), **own)
    monkeypatch.setattr(Mine, "name", "mine")
    with pytest.raises(ConfigError, match="METHODS, where 'mine' is not known"):
        CondensationTrainer(Mine(Mine.Settings()), **own)
    entry = replace(METHODS["random"], name="mine", where=f"{__name__}:Mine")
    monkeypatch.setitem(METHODS, "mine", entry)
    assert not CondensationTrainer(Mine(Mine.Settings()), **own).condense().images.any()
    assert read_yaml(str(tmp_path / "config.yaml"))["method"] == "mine"


def test_condensed_images_are_there_for_the_picture(tmp_path):
    trainer = CondensationTrainer(create_method("random"), output_dir=str(tmp_path), **{
        k: v for k, v in TINY.items() if k not in ("iterations", "real_batch")
    })  # fmt: skip
    rows, labels = pictured(trainer.pipeline)
    assert list(rows) == ["real images", "Random real images"] and labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert json.loads((tmp_path / "shards" / "stage.json").read_text())["done"]


def test_processes_wait_for_one_that_trains_for_hours(tmp_path):
    def together():
        dm(tmp_path)
        from torch.distributed.distributed_c10d import _get_default_group

        assert _get_default_group()._get_backend(torch.device("cpu")).options._timeout.days >= 7

    assert forked.run_together(together, 2) == [0, 0]


def test_a_student_with_trained_weights_is_refused_before_the_work(tmp_path):
    for name in ("hf-hub:org/student", str(tmp_path)):
        with pytest.raises(ConfigError, match="students=.* expected architectures: a student begins untrained"):
            CondensationTrainer("random", "digits", output_dir=str(tmp_path / "run"), students=name)
