"""What a second start of a run may do: other settings, other images, more seeds; and what a run refuses before it works."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from datasets.features import ClassLabel
from sklearn.datasets import load_digits

from hf_condense import files
from hf_condense.errors import ConfigError
from hf_condense.methods import create_method
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
    with pytest.raises(ConfigError, match=r"lr: 1e\+30 does not work.* dm-00000 .*Next: lower it"):
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
    with pytest.raises(ConfigError, match="dataset: .*with which condense in .* --overwrite"):
        dm(tmp_path, **own, dataset=some_digits(81)).condense()
    assert times(tmp_path / "shards") == before
    with caplog.at_level(logging.WARNING, "hf_condense"):
        dm(tmp_path, **own, dataset=some_digits(81), overwrite=True).condense()
    assert str(tmp_path / "shards") in caplog.text, "what is deleted is said"
    assert not before.items() & times(tmp_path / "shards").items()


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
    with pytest.raises(ConfigError, match="baselines: 'random' does not work"):
        dm(tmp_path, **few, baselines="full,random")
    assert "random" in dm(tmp_path / "other", **{**few, "ipc": 3}).config.evaluation.baselines


def test_seconds_of_all_lives_are_recorded(tmp_path):
    stopped_after_a_checkpoint(dm(tmp_path), pause=0.7)
    trainer = dm(tmp_path)
    trainer.condense()
    assert 0.7 < trainer.stage_facts()["condense"]["seconds"] < 60


def test_cards_of_the_pool_name_a_dataset_of_the_hub_and_no_folder(tmp_path):
    def pool_of(name: str) -> str:
        data = some_digits(80 + len(name))  # else the network is found again, with its card
        data.info.dataset_name = name
        dm(tmp_path / name, dataset=data, max_per_class=None, squeeze_epochs=1, patience_top1=0.0).squeeze()
        return next((tmp_path / name / "pool" / "models").rglob("README.md")).read_text()

    assert 'datasets:\n- "ada/four-digits"' in pool_of("ada/four-digits")
    assert "datasets:" not in pool_of("four-digits")


def test_condensed_images_are_there_whoever_asks_first(tmp_path):
    trainer = CondensationTrainer(create_method("random"), output_dir=str(tmp_path), **{
        k: v for k, v in TINY.items() if k not in ("iterations", "real_batch")
    })  # fmt: skip
    assert set(trainer.pictured()) == {"first images", "random"}
    assert json.loads((tmp_path / "shards" / "stage.json").read_text())["done"]


def test_processes_wait_for_one_that_trains_for_hours(tmp_path):
    def together():
        dm(tmp_path)
        from torch.distributed.distributed_c10d import _get_default_group

        assert _get_default_group()._get_backend(torch.device("cpu")).options._timeout.days >= 7

    assert forked.run_together(together, 2) == [0, 0]


def test_a_student_with_trained_weights_is_refused_before_the_work(tmp_path):
    for name in ("hf-hub:org/student", str(tmp_path)):
        with pytest.raises(ConfigError, match="students: .* Allowed: architectures: a student begins untrained"):
            CondensationTrainer("random", "digits", output_dir=str(tmp_path / "run"), students=name)
