"""Killed anywhere, run again: the same dataset. Two processes: the same images. Over every registered method."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from hf_condense import files
from hf_condense.data.randomness import Key
from hf_condense.methods import list_methods
from tests import forked

TINY = {
    "dataset": "digits", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1,convnet_w32",
    "squeeze_epochs": 2, "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1",
    "patience_top1": 0.0, "threads": 1, "precision": "fp32", "checkpoint_every": 2,
}  # fmt: skip
OWN = {"edc": {"iterations": 5, "shard_size": 10}}


def run(method: str, folder: Path, cache: Path) -> None:
    """The whole path, with a cache of its own: nothing is left over from another run."""
    from hf_condense.trainer import CondensationTrainer

    os.environ["HF_CONDENSE_CACHE"] = str(cache)
    CondensationTrainer(method, output_dir=str(folder), **TINY, **OWN.get(method, {})).run()


def content(folder: Path) -> str:
    return json.dumps(json.loads((folder / "dataset" / "condensation.json").read_text())["content"], sort_keys=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, tuple[Path, float]]:
    """Run folder and seconds of an unbroken run of each method. It also warms this process: children start at once."""
    found = {}
    for method in list_methods():
        for _ in range(2):  # the second one is timed
            root = tmp_path_factory.mktemp(method)
            started = time.monotonic()
            run(method, root / "run", root / "cache")
            found[method] = (root / "run", time.monotonic() - started)
    return found


@pytest.mark.parametrize("method", list_methods())
def test_killed_at_every_file_replacement(method, unbroken, tmp_path):
    """Each life of the run is killed just before a replacement that struck no earlier life, until none is left.

    Files inside a folder that is still being put together are not seen by anyone, so they do not count.
    """
    struck = tmp_path / "struck"
    struck.write_text("")

    def mortal():
        known = set(struck.read_text().splitlines())

        def fault(moment, path):
            place = f"{path} {path.exists()}"  # first written, and written over
            if moment == "before" and place not in known and not any(part.endswith(".part") for part in path.parts):
                with struck.open("a") as f:
                    f.write(place + "\n")
                os.kill(os.getpid(), signal.SIGKILL)

        files.on_replace = fault
        run(method, tmp_path / "run", tmp_path / "cache")

    lives = 0
    while (code := forked.run(mortal)) == -signal.SIGKILL:
        lives += 1
        assert lives < 200, "the run does not get on"
    assert code == 0 and lives >= 30
    assert content(tmp_path / "run") == content(unbroken[method][0])


@pytest.mark.parametrize("method", list_methods())
def test_killed_at_twenty_random_moments(method, unbroken, tmp_path):
    folder, seconds = unbroken[method]
    kills, life = 0, 0
    while kills < 20:
        pid = forked.fork(lambda: run(method, tmp_path / "run", tmp_path / "cache"))
        time.sleep(float((Key(0, "kill", method) / life).uniform(1, high=seconds)[0]))
        life += 1
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            assert content(tmp_path / "run") == content(folder)
            shutil.rmtree(tmp_path / "run")
            shutil.rmtree(tmp_path / "cache")
        assert life < 120
    assert forked.run(lambda: run(method, tmp_path / "run", tmp_path / "cache")) == 0
    assert content(tmp_path / "run") == content(folder)


@pytest.mark.parametrize("method", list_methods())
def test_two_processes_make_what_one_makes(method, unbroken, tmp_path):
    def together():
        run(method, tmp_path / "run", tmp_path / "cache")
        from accelerate import PartialState

        assert PartialState().num_processes == 2

    assert forked.run_together(together, 2) == [0, 0]
    assert content(tmp_path / "run") == content(unbroken[method][0])


def test_running_again_does_nothing_and_a_changed_setting_is_named(unbroken):
    from hf_condense.errors import ConfigError
    from hf_condense.trainer import CondensationTrainer

    folder, _ = unbroken["edc"]
    before = {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    again = {**TINY, **OWN["edc"], "output_dir": str(folder)}
    CondensationTrainer("edc", **again).condense()
    assert {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()} == before
    with pytest.raises(ConfigError, match="iterations: 6 does not work. Allowed: 5, with which condense.*--overwrite"):
        CondensationTrainer("edc", **{**again, "iterations": 6}).condense()
