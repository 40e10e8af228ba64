"""Files are whole or absent."""

from __future__ import annotations

import pytest
import torch

from hf_condense import files
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.stages import Stage


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"x": 1})
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(target) == {"x": 1} and list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_at_once(tmp_path):
    for text in ("old", "new"):
        with files.atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]


def test_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch):
    files.save_tensors(tmp_path / "t", {"a": torch.ones(3)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(
        ArtefactError, match="No space left on device.*run the same command again: what is done is kept"
    ):
        files.save_tensors(tmp_path / "t", {"a": torch.zeros(3)})
    assert files.load_tensors(tmp_path / "t")[0]["a"].tolist() == [1, 1, 1]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="output_dir.*choose another --output_dir"):
        files.write_json(tmp_path / "file" / "x.json", {})


def test_damaged_tensors_are_named(tmp_path):
    files.save_tensors(tmp_path / "t", {"a": torch.ones(3)})
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-4])
    with pytest.raises(ArtefactError, match="a whole safetensors file"):
        files.load_tensors(tmp_path / "t")


def test_equal_values_have_equal_fingerprints():
    assert files.fingerprint({"a": (1, 2), "b": 0.1}) == files.fingerprint({"b": 0.1, "a": [1, 2]})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})


def test_a_changed_setting_of_a_stage_is_named(tmp_path):
    def stage(**settings):
        return Stage("condense", tmp_path / "shards", settings, 1, "up")

    first = stage(ipc=10, lr=0.1)
    assert not first.begin(False)
    assert not first.begin(False), "begun is not done"
    first.finish(seconds=1)
    assert first.begin(False) and first.facts() == {"seconds": 1}
    with pytest.raises(ConfigError, match="ipc: 5 does not work. Allowed: 10, with which condense .* --overwrite"):
        stage(ipc=5, lr=0.1).begin(False)
    (tmp_path / "shards" / "old").write_text("")
    assert not stage(ipc=5, lr=0.1).begin(True) and not (tmp_path / "shards" / "old").exists()


def test_a_stage_runs_again_when_an_earlier_one_was_redone(tmp_path):
    Stage("relabel", tmp_path / "labels", {"t": 1}, 1, "a").begin(False)
    Stage("relabel", tmp_path / "labels", {"t": 1}, 1, "a").finish()
    assert not Stage("relabel", tmp_path / "labels", {"t": 1}, 1, "b").begin(False)
