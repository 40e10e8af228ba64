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
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1,convnet_w32",
    "squeeze_epochs": 2, "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1",
    "min_top1_over_chance": 0.0, "threads": 1, "precision": "fp32", "checkpoint_every": 2,
}  # fmt: skip
WEAK = {"pool_size": 2, "finetune_epochs": 1, "recalibration_images": 20, "top1_floor": 0.0}
REAL = {
    "iterations": 2, "inner_steps": 3, "real_batch": 6, "network_images": 12, "lr": 10.0, "lr_side": 8,
    "regimes": "hard",
}  # fmt: skip
TRAJECTORIES = {
    "iterations": 5, "lr": 30.0, "lr_lr": 1e-5, "student_steps": 3, "student_batch": 4, "first_epochs": 2, "span": 1,
    "experts": 2, "expert_lr": 0.05, "regimes": "hard",
}  # fmt: skip
RESIDUAL = {"iterations": 6, "blocks": 3, "small_side": 0.8, "shard_size": 4, "rded_candidates": 6}
OWN = {
    "bps": {"neighbours": 4},
    "ca2d": {"rded_factor": 1, "dynamics_epochs": 4, "cad_window": 2, "cad_band": 1},
    "cda": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32"},
    "ccfs": {"base_method": "rded", "ipc": 4, "share": 0.25, "curricula": 2, "rded_candidates": 6, "dynamics_epochs": 3},
    "cim": {"iterations": 5, "candidates": 10},
    "mosaic": {"iterations": 5, "candidates": 10},
    "coreset": {"selection": "forgetting", "dynamics_epochs": 3},
    "cvdd": {
        "iterations": 5, "shard_size": 4, "rded_candidates": 6, "priors": (70.0, 60.0, 65.0), "voters": 2,
        "base_model": "convnet_bn_w32,convnet_d1,convnet_d2",
    },
    "datm": {**TRAJECTORIES, "first_epochs": 3, "skipped_epochs": 1, "grow_from": 2, "grow_steps": 3, "lr_labels": 1.0},
    "dc": {"iterations": 2, "outer_loop": 3, "inner_loop": 2, "real_batch": 8, "regimes": "hard"},
    "delt": {"iterations": 6, "rounds": 3, "shard_size": 4, "base_model": "convnet_bn_w32"},
    "dm": {"iterations": 5, "real_batch": 8, "classes_per_shard": 4, "regimes": "hard"},
    "dream": {**REAL, "cluster_every": 2},
    "dsa": {"iterations": 2, "outer_loop": 3, "inner_loop": 2, "real_batch": 8, "regimes": "hard"},
    "dwa": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32", "ascent_steps": 2, "ascent_view": "each"},
    "edc": {"iterations": 5, "shard_size": 10},
    "fadrm": {**RESIDUAL, "base_model": "test_byobnet", "resolution": "pixels"},
    "fadrmplus": {**RESIDUAL, "small_side": 1.0, "base_model": "convnet_bn_w32,convnet_d1"},
    "gvbsm": {"iterations": 5, "shard_size": 4, "id_chunks": 2},
    "idc": REAL,
    "lgm": {"iterations": 5, "copies": 2, "chunk": 6, "grow_every": 2, "lr": 0.1, "regimes": "hard"},
    "mtt": TRAJECTORIES,
    "ncfm": {
        "iterations": 5, "real_batch": 8, "frequencies": 16, "classes_per_shard": 2, "trainings": 2, "network_epochs": 2,
        "formation_factor": 2, "regimes": "hard",
    },
    "pdd": {
        "base_method": "dm", "stages": 2, "chains": 2, "iterations": 3, "real_batch": 8, "classes_per_shard": 4,
        "regimes": "hard",
    },
    "sre2l": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32"},
    "sre2lpp": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32", "rded_candidates": 6},
    "tesla": {**TRAJECTORIES, "zca": True, "pairs": 2, "lr": 1.0},
    "wmdd": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32", "init": "medoids"},
    "teddy": {"iterations": 5, "shard_size": 4, "base_model": "convnet_bn_w32", **WEAK},
}  # fmt: skip


WHOLE = ("edc", "random")  # the stages before and after synthesis are the same code for every method: once is enough
KILLED = ("edc", pytest.param("random", marks=pytest.mark.slow))  # random's stages are all among those of edc
PREPARED = ("pool", "statistics", "config.yaml")  # what a run has before its synthesis


def trainer(method: str, folder: Path, cache: Path):
    from hf_condense.trainer import CondensationTrainer

    os.environ["HF_CONDENSE_CACHE"] = str(cache)
    return CondensationTrainer(method, output_dir=str(folder), **{**TINY, **OWN.get(method, {})})


def run(method: str, folder: Path, cache: Path) -> None:
    """The whole path, with a cache of its own: nothing is left over from another run."""
    trainer(method, folder, cache).run()


def content(folder: Path) -> str:
    return json.dumps(json.loads((folder / "dataset" / "condensation.json").read_text())["content"], sort_keys=True)


def images(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "shards").glob("*.safetensors"))}


class Unbroken(dict):
    """Method -> root and seconds of an unbroken run, made when asked for. It also warms this process for its children."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self.folders = folders

    def __missing__(self, method: str) -> tuple[Path, float]:
        for _ in range(2 if method in WHOLE else 1):  # the second one is timed
            root = self.folders.mktemp(method)
            started = time.monotonic()
            if method in WHOLE:
                run(method, root / "run", root / "cache")
            else:
                trainer(method, root / "run", root / "cache").condense()
            self[method] = (root, time.monotonic() - started)
        return self[method]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Unbroken:
    return Unbroken(tmp_path_factory)


def prepared(method: str, unbroken, folder: Path) -> Path:
    """A run folder of the method as it is just before its synthesis, and the cache of its networks."""
    root = unbroken[method][0]
    folder.mkdir()
    for name in PREPARED:
        if (root / "run" / name).is_dir():
            shutil.copytree(root / "run" / name, folder / name)
        elif (root / "run" / name).exists():
            shutil.copy(root / "run" / name, folder / name)
    return root / "cache"


def left_over(folder: Path) -> list[Path]:
    """Holders of unfinished files, checkpoints of finished shards and unfinished trainings."""
    places = ("**/.*.part", "shards/checkpoints/*", "scores/states/*")
    return [path for place in places for path in folder.glob(place)]


def lives_until_done(work, struck: Path) -> int:
    """Runs `work` again and again, each time killed just before a file replacement that struck no earlier life.

    Files inside a folder that is still being put together are not seen by anyone, so they do not count.
    """
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
        work()

    lives = 0
    while (code := forked.run(mortal)) == -signal.SIGKILL:
        lives += 1
        assert lives < 200, "the run does not get on"
    assert code == 0
    return lives


@pytest.mark.parametrize("method", KILLED)
def test_killed_at_every_file_replacement(method, unbroken, tmp_path):
    whole = content(unbroken[method][0] / "run")  # before the lives: they need not import what their parent has
    lives = lives_until_done(lambda: run(method, tmp_path / "run", tmp_path / "cache"), tmp_path / "struck")
    assert lives >= 25
    assert content(tmp_path / "run") == whole
    kept = unbroken[method][0] / "run"
    assert left_over(tmp_path / "run") == left_over(kept) == [], "a kill leaves nothing behind"


@pytest.mark.parametrize("method", [m for m in list_methods() if m not in WHOLE])
def test_killed_at_every_file_replacement_of_the_synthesis(method, unbroken, tmp_path):
    cache = prepared(method, unbroken, tmp_path / "run")
    lives = lives_until_done(lambda: trainer(method, tmp_path / "run", cache).condense(), tmp_path / "struck")
    assert lives >= 5
    assert images(tmp_path / "run") == images(unbroken[method][0] / "run")


@pytest.mark.parametrize("method", KILLED)
def test_killed_at_twenty_random_moments(method, unbroken, tmp_path):
    root, seconds = unbroken[method]
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
            assert content(tmp_path / "run") == content(root / "run")
            shutil.rmtree(tmp_path / "run")
            shutil.rmtree(tmp_path / "cache")
        assert life < 120
    assert forked.run(lambda: run(method, tmp_path / "run", tmp_path / "cache")) == 0
    assert content(tmp_path / "run") == content(root / "run")


@pytest.mark.parametrize("method", WHOLE)
def test_two_processes_make_what_one_makes(method, unbroken, tmp_path):
    whole = content(unbroken[method][0] / "run")

    def together():
        run(method, tmp_path / "run", tmp_path / "cache")
        from accelerate import PartialState

        assert PartialState().num_processes == 2

    assert forked.run_together(together, 2) == [0, 0]
    assert content(tmp_path / "run") == whole


@pytest.mark.parametrize("method", [m for m in list_methods() if m not in WHOLE])
def test_two_processes_make_the_images_that_one_makes(method, unbroken, tmp_path):
    cache = prepared(method, unbroken, tmp_path / "run")
    assert forked.run_together(lambda: trainer(method, tmp_path / "run", cache).condense(), 2) == [0, 0]
    assert images(tmp_path / "run") == images(unbroken[method][0] / "run")


def test_running_again_does_nothing_and_a_changed_setting_is_named(unbroken):
    from hf_condense.errors import ConfigError
    from hf_condense.trainer import CondensationTrainer

    folder = unbroken["edc"][0] / "run"
    before = {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    again = {**TINY, **OWN["edc"], "output_dir": str(folder)}
    CondensationTrainer("edc", **again).condense()
    assert {p: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()} == before
    with pytest.raises(ConfigError, match="iterations=6: expected 5, with which condense.*--overwrite"):
        CondensationTrainer("edc", **{**again, "iterations": 6}).condense()
