"""Files are whole or absent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from hf_condense import files
from hf_condense.config import RunSettings
from hf_condense.data.cache import cache_folder
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.run.record import StageRecord


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
        ArtefactError, match="No space left on device.*[Rr]un the same command again: what is done is kept"
    ):
        files.save_tensors(tmp_path / "t", {"a": torch.zeros(3)})
    assert files.load_tensors(tmp_path / "t")[0]["a"].tolist() == [1, 1, 1]


def test_a_disk_that_is_full_inside_safetensors_is_said_in_one_line(tmp_path):
    """Its error is none of the system's; a limit on the size of files stands for the disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ArtefactError, match="output_dir.*File too large.*Free space") as caught:
            files.save_tensors(tmp_path / "t", {"a": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, monkeypatch, moment):
    """Killed without a chance to clean up: one whole folder is there, or comes back at the next look."""
    folder, replace, left = tmp_path / "dataset", files.os.replace, [{"before": 0, "between": 1, "after": 2}[moment]]

    def write(text):
        with files.atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / "x").write_text(text)

    def killed(source, target):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        replace(source, target)
        if left[0] == 0 and moment == "after":
            os._exit(9)

    write("old")
    child = os.fork()
    if child == 0:
        files.os.replace = killed
        write("new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    files.recover(folder)
    assert (folder / "x").read_text() == ("new" if moment == "after" else "old")
    write("newer")
    files.remove_leftovers(tmp_path)
    assert (folder / "x").read_text() == "newer" and list(tmp_path.iterdir()) == [folder]


def test_names_with_a_nul_byte_are_refused_in_words(tmp_path):
    with pytest.raises(ArtefactError, match="NUL byte"):
        files.write_json(tmp_path / "a\0b", {})
    for setting in ({"output_dir": "a\0b"}, {"trackers": ("a\0",)}):
        with pytest.raises(ConfigError, match="without NUL bytes"):
            RunSettings(**setting)


def test_an_empty_cache_variable_fills_no_other_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_CONDENSE_CACHE", "")
    with pytest.raises(ArtefactError, match="HF_CONDENSE_CACHE.*unset it"):
        cache_folder()
    monkeypatch.delenv("HF_CONDENSE_CACHE")
    for empty in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", empty)
        assert cache_folder() == Path("~/.cache/hf_condense").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hf_condense"


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="output_dir.*[Cc]hoose another --output_dir"):
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
        return StageRecord("condense", tmp_path / "shards", settings, 1, "up")

    first = stage(ipc=10, lr=0.1)
    first.begin(False)
    assert first.begun and not first.done
    first.begin(False)  # as a second start does
    first.note(done=True, peak_bytes=5)
    assert stage(ipc=10, lr=0.1).done and not stage(ipc=5, lr=0.1).done and first.facts()["peak_bytes"] == 5
    with pytest.raises(ConfigError, match="ipc=5: expected 10, with which condense.* --overwrite"):
        stage(ipc=5, lr=0.1).begin(False)
    (tmp_path / "shards" / "old").write_text("")
    stage(ipc=5, lr=0.1).begin(True)
    assert not (tmp_path / "shards" / "old").exists()


def test_a_stage_runs_again_when_an_earlier_one_was_redone(tmp_path):
    first = StageRecord("relabel", tmp_path / "labels", {"t": 1}, 1, "a")
    first.begin(False)
    first.note(done=True)
    again = StageRecord("relabel", tmp_path / "labels", {"t": 1}, 1, "b")
    assert first.done and not again.done
    again.begin(False)


def test_another_source_or_version_deletes_nothing_unless_it_is_asked_for(tmp_path):
    def stage(version=1, upstream="a"):
        return StageRecord("squeeze", tmp_path / "pool", {}, version, upstream, first=True)

    stage().begin(False)
    (tmp_path / "pool" / "network").write_text("hours")
    with pytest.raises(ConfigError, match="dataset=.*squeeze.* --overwrite"):
        stage(upstream="b").begin(False)
    with pytest.raises(ConfigError, match="version=2: expected 1,.*squeeze.* --overwrite"):
        stage(version=2).begin(False)
    assert (tmp_path / "pool" / "network").exists()
    stage(upstream="b").begin(True)
    assert not (tmp_path / "pool" / "network").exists()


def test_what_is_left_of_a_deletion_is_not_taken_for_the_new_stage(tmp_path, monkeypatch):
    def stage(lr):
        return StageRecord("condense", tmp_path / "shards", {"lr": lr}, 1, "up")

    stage(1).begin(False)
    for name in "abc":
        (tmp_path / "shards" / name).write_text("made with rate 1")
    unlink, left = Path.unlink, [2]

    def killed(path, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, **more)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(2).begin(True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="lr=2"):
        stage(2).begin(False)
    stage(2).begin(True)
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["stage.json"]


def test_files_named_by_content_outlive_other_settings_and_what_they_are_made_from(tmp_path):
    def stage(seeds, upstream="a", version=1):
        return StageRecord("evaluate", tmp_path / "scores", {"seeds": seeds}, version, upstream, by_content=True)

    stage(1).begin(False)
    cell = tmp_path / "scores" / "cell"
    cell.write_text("")
    for other in (stage(2), stage(2, "b")):
        assert not other.done
        other.begin(False)
        assert cell.exists()
    with pytest.raises(ConfigError, match="seeds=3|version=2"):
        stage(2, "b", version=2).begin(False)
    stage(2, "b", version=2).begin(True)
    assert not cell.exists()


def test_what_was_made_while_a_stage_was_at_work_does_not_count_as_from_the_cache(tmp_path):
    def stage():
        return StageRecord("squeeze", tmp_path / "pool", {}, 1, "up")

    first = stage()
    first.begin(False)
    began = time.time()
    first.uses += [("old", began - 60), ("made now", began + 60)]
    first.note()  # and killed
    again = stage()
    again.begin(False)
    again.uses += [("old", began - 60), ("made now", began + 60), ("older", began - 90)]
    again.note(done=True)
    assert again.reused() == ["old", "older"]


def test_what_a_stage_took_adds_up_over_its_lives(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def life(seconds, **noted):
        stage = StageRecord("condense", tmp_path / "shards", {}, 1, "up")
        stage.begin(False)
        clock[0] += seconds
        if noted:
            stage.note(**noted)
        else:
            stage.tick()  # and killed
        clock[0] += 1000  # between two lives
        return stage.facts()

    assert life(5, peak_bytes=7) == {"seconds": 5, "peak_bytes": 7}
    assert life(59) == {"seconds": 5, "peak_bytes": 7}, "a tick writes once a minute"
    assert life(61) == {"seconds": 66, "peak_bytes": 7}
    assert life(4, done=True, peak_bytes=3) == {"seconds": 70, "peak_bytes": 7}
