"""What a run folder says of its stages, and what a second start with other settings does with it: by run folders alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_condense.errors import ConfigError
from hf_condense.trainer import CondensationTrainer

TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1", "threads": 1,
    "precision": "fp32", "squeeze_epochs": 1, "min_top1_over_chance": 0.0,
}  # fmt: skip
SHORT = {"iterations": 2, "regimes": "hard"}
OWN = {
    "dm": {**SHORT, "real_batch": 8},
    "edc": {"iterations": 2, "regimes": "hard,stored", "store": "full"},
    "pdd": {**SHORT, "base_method": "dm", "stages": 2, "chains": 1, "real_batch": 8},
    "random": {},
}  # fmt: skip


def trainer(method: str, folder: Path, **settings) -> CondensationTrainer:
    return CondensationTrainer(method, output_dir=str(folder), **{**TINY, **OWN[method], **settings})


def records(folder: Path) -> dict[str, Path]:
    """The record of each stage in a run folder, by the stage's name."""
    return {json.loads(path.read_text())["stage"]: path for path in folder.glob("*/stage.json")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The run folder of a method that uses every stage."""
    folder = tmp_path_factory.mktemp("run") / "edc"
    trainer("edc", folder).evaluate()
    return folder


@pytest.mark.parametrize("stage", ["squeeze", "statistics", "condense", "relabel", "evaluate"])
def test_a_stage_of_another_version_is_refused_and_kept(finished, stage):
    """As a release that made it otherwise has left it: with its own version and fingerprint."""
    path = records(finished)[stage]
    before = path.read_text()
    record = json.loads(before)
    try:
        path.write_text(json.dumps(record | {"version": record["version"] - 1, "fingerprint": "0" * 16}))
        there = contents(finished)
        with pytest.raises(ConfigError, match=rf"version={record['version']}.*with which {stage} in.*overwrite"):
            trainer("edc", finished)
        assert contents(finished) == there
    finally:
        path.write_text(before)


def test_a_raised_version_of_a_method_is_refused(tmp_path, monkeypatch):
    run = trainer("dm", tmp_path)
    run.condense()
    trainer("dm", tmp_path)
    version = type(run.method).VERSION
    monkeypatch.setattr(type(run.method), "VERSION", version + 1)
    there = contents(tmp_path)
    with pytest.raises(ConfigError, match=f"version={version + 1}: expected {version}, with which cond"):
        trainer("dm", tmp_path)
    assert contents(tmp_path) == there


def changed(method: str, folder: Path, setting: str, value) -> str | None:
    """The message with which a second start is refused; None where it is not."""
    try:
        trainer(method, folder, **{setting: value})
    except ConfigError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def without_pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "dm"
    trainer("dm", folder).condense()
    return folder


@pytest.mark.parametrize(
    "setting, value",
    [
        ("ipc", 1), ("iterations", 3), ("base_model", "convnet_w32"), ("classes", "0,1,2,4"), ("max_per_class", 11),
        ("seed", 1), ("variant", "official"), ("flip", True),
    ],
)  # fmt: skip
def test_whatever_changes_the_images_of_a_method_without_a_pool_is_refused(without_pool, setting, value):
    assert "with which condense" in changed("dm", without_pool, setting, value)


@pytest.mark.parametrize(
    "setting, value",
    [
        ("students", "convnet_w32"), ("student_seeds", 2), ("student_epochs", 3), ("checkpoint_every", 7),
        ("squeeze_epochs", 2), ("decode_gb", 1.0), ("protocol", "edc-cifar10"), ("label_epochs", 3),
    ],
)  # fmt: skip
def test_whatever_does_not_is_not(without_pool, setting, value):
    assert changed("dm", without_pool, setting, value) is None


def test_a_method_that_trains_students_on_its_way_is_made_for_one_protocol(tmp_path):
    """PDD's chains are students: other epochs or another protocol would have given other images."""
    trainer("pdd", tmp_path).condense()
    assert changed("pdd", tmp_path, "student_seeds", 2) is None
    for setting, value in (("student_epochs", 3), ("protocol", "edc-cifar10")):
        assert "with which condense" in changed("pdd", tmp_path, setting, value), setting


def test_labels_are_made_for_one_way_of_drawing_views(tmp_path):
    """Two protocols that differ in nothing but crops and shuffled tiles."""
    own = {"ipc": 1, "regimes": "hard,stored", "store": "full", "protocol": "rded-cifar10"}
    trainer("random", tmp_path, **own).relabel()
    trainer("random", tmp_path, **own, student_seeds=2)
    with pytest.raises(ConfigError, match="policy=.*with which relabel in"):
        trainer("random", tmp_path, **{**own, "protocol": "rded-imagenette"})


def test_labels_of_batch_statistics_are_made_in_the_parts_that_students_are_given(tmp_path):
    own = {"regimes": "hard,stored", "store": "full", "max_per_class": 13}
    for protocol, parts in (("sre2lpp-cifar10", 2), ("small-bssl", None)):
        made = trainer("random", tmp_path / protocol, protocol=protocol, **own).relabel().store.settings
        assert made.get("accumulation") == parts


@pytest.mark.parametrize(
    "setting, value",
    [
        ("label_epochs", 3),
        ("views", "keyed"),
        ("store", "int8"),
        ("student_epochs", 3),
        ("protocol", "small-bssl"),
    ],
)
def test_labels_are_made_for_one_store(finished, setting, value):
    assert "with which relabel" in changed("edc", finished, setting, value)


def test_random_images_are_trained_on_in_the_stages_of_the_set_beside_them(tmp_path):
    """Else their students would take another number of steps: 3 passes at once instead of 2 in each of two stages."""
    table = trainer("pdd", tmp_path, student_epochs=3, baselines="random,initial").evaluate()
    steps = {cell["row"]: cell["steps"] for cell in table.cells}
    assert steps.pop("random") == 4 and set(steps.values()) == {4}


def litter(folder: Path) -> list[Path]:
    """What kills leave behind: holders of files that were being written, in the run folder and in every one below it."""
    places = [p for p in (folder, *folder.rglob("*")) if p.is_dir() and p.name != "pictures"]
    holders = [place / f".{name}.k1ll3d.part" for place in places for name in ("stage.json", "config.yaml")]
    for holder in holders:
        holder.mkdir()
        (holder / "half").write_text("{")
    return holders


def test_what_kills_have_left_is_gone_after_the_next_start_and_kept_by_a_refused_one(finished):
    there = set(contents(finished))
    holders = litter(finished)
    other = finished / "another-run" / "pool" / ".models.w0rk1ng.part"  # of a process at work
    other.mkdir(parents=True)
    assert "with which condense" in changed("edc", finished, "iterations", 3)
    assert all(holder.exists() for holder in holders)
    trainer("edc", finished).evaluate()
    assert not any(holder.exists() for holder in holders) and set(contents(finished)) == there
    assert other.exists()


def test_a_kill_between_a_file_and_what_it_replaces_leaves_nothing(tmp_path):
    """A shard stands and so does its checkpoint; a student is scored and its unfinished training still kept."""
    trainer("dm", tmp_path, baselines="").evaluate()
    shard = next((tmp_path / "shards").glob("dm-*.safetensors"))
    checkpoint = tmp_path / "shards" / "checkpoints" / shard.name
    cell = next((tmp_path / "scores" / "cells").glob("dm-*.json"))
    state = tmp_path / "scores" / "states" / cell.stem / "state.safetensors"
    for path in (checkpoint, state):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("")
    trainer("dm", tmp_path, baselines="").evaluate()
    assert not checkpoint.exists() and not state.parent.exists() and shard.exists() and cell.exists()
