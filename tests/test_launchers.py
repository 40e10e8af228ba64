"""Real launchers and machines: processes become one run, folders have one owner, SIGTERM ends a run like Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from hf_condense import files
from hf_condense.errors import ConfigError
from tests import forked

RECIPE = Path(__file__).parents[1] / "recipes" / "dm.py"
TINY = (
    "--dataset digits --classes 0,1 --ipc 1 --max_per_class 6 --max_test 10 --base_model convnet_d1 --students convnet_d1 "
    "--protocol small --student_epochs 1 --student_seeds 1 --threads 1 --precision fp32 --regimes hard --iterations 3 "
    "--real_batch 4 --classes_per_shard 1"
).split()  # fmt: skip
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")


def settings(folder: Path) -> dict:
    """Of the same run, in Python."""
    return {**{k.removeprefix("--"): v for k, v in zip(TINY[::2], TINY[1::2])}, "output_dir": str(folder)}


def started(*command: str, folder: Path, cache: Path | None = None, own: tuple[str, ...] = ()) -> subprocess.Popen:
    """A command as a person types it, without a variable that helps it."""
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHED}
    environment["HF_CONDENSE_CACHE"] = str(cache or folder.parent / "cache")
    arguments = [*command, str(RECIPE), *TINY, *own, "--output_dir", str(folder)]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=RECIPE.parents[1]
    )


def launcher(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def published(folder: Path) -> dict:
    return json.loads((folder / "dataset" / "condensation.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of a run in one process."""
    from hf_condense import CondensationTrainer

    folder = tmp_path_factory.mktemp("alone") / "run"
    assert forked.run(lambda: CondensationTrainer("dm", **settings(folder)).run()) == 0
    return folder


def test_torchrun_without_a_gpu_is_one_run(alone, tmp_path):
    command = launcher("torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port())
    process = started(*command, folder=tmp_path / "run")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    found = published(tmp_path / "run")
    assert found["content"] == published(alone)["content"] and found["record"]["processes"] == 2
    assert said.count("run folder") == 1


@pytest.mark.parametrize("shared", [True, False])
def test_two_machines_of_accelerate_launch(alone, tmp_path, shared):
    port, folders = free_port(), [tmp_path / "run", tmp_path / ("run" if shared else "own")]
    machines = [
        started(
            *launcher(
                "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2",
                "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", port,
                "--mixed_precision", "no", "--dynamo_backend", "no",
            ), folder=tmp_path / "run", cache=folders[rank].parent / f"cache-{folders[rank].name}",
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [machine.communicate(timeout=300)[0] for machine in machines]
    if shared:
        assert [machine.returncode for machine in machines] == [0, 0], said
        found = published(tmp_path / "run")
        assert found["content"] == published(alone)["content"] and found["record"]["processes"] == 2
    else:
        assert all(machine.returncode for machine in machines)
        assert "".join(said).count("error: invalid HF_CONDENSE_CACHE (process 1 on") == 1, said
        assert not [path for path in (tmp_path / "run").rglob("*") if path.name != ".lock"], "no work was begun"


def test_processes_that_are_not_what_the_accelerator_sees_are_refused():
    def work() -> None:
        from accelerate import Accelerator

        from hf_condense.run.launch import join

        Accelerator()  # made before the trainer, for one process
        os.environ["WORLD_SIZE"] = "2"
        with pytest.raises(ConfigError, match="WORLD_SIZE=2: expected 1"):
            join()

    assert forked.run(work, timeout=60) == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_left_alone_at_the_start_ends(rank):
    def work() -> None:
        from hf_condense.run import launch

        assert timedelta(minutes=10) >= launch.MEETING
        launch.MEETING = timedelta(seconds=2)
        with pytest.raises(ConfigError, match="MASTER_ADDR:MASTER_PORT=.*all 2 processes of the run there within 2 s"):
            launch.join()

    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    assert forked.finish(forked.fork(work, environment), timeout=60) == 0


def test_what_one_process_refuses_all_refuse_and_other_settings_are_named(tmp_path):
    def work() -> None:
        from accelerate import PartialState

        from hf_condense.errors import DataError
        from hf_condense.run.launch import agreed, check_equal, check_shared, join

        state = join()
        with (
            pytest.raises(DataError, match=r"dataset \(process 1 on .*photos") as refused,
            agreed(state),
        ):
            if state.process_index == 1:
                raise DataError("dataset", "photos", "a folder that is there", "copy it")
        assert refused.value.everywhere
        with pytest.raises(ConfigError, match=r"ipc \(process 1\)=.*11.*: expected 10, as in process 0"):
            check_equal(state, {"ipc": 10 + state.process_index})
        check_shared(state, {"output_dir": tmp_path / "run"})
        with pytest.raises(ConfigError, match=r"output_dir \(process 1.*one folder for all processes"):
            from hf_condense.run import launch

            launch.LOOKING = 0.3
            check_shared(state, {"output_dir": tmp_path / f"own-{state.process_index}"})
        PartialState().wait_for_everyone()
        assert not list(tmp_path.rglob(".*.part"))

    assert forked.run_together(work, 2, timeout=60) == [0, 0]


def test_a_second_run_on_a_folder_is_refused_by_name(tmp_path):
    from accelerate import PartialState

    from hf_condense.run import owner

    def hold() -> None:
        with owner.owned(tmp_path, PartialState()):
            (tmp_path / "held").touch()
            time.sleep(60)

    holder = forked.fork(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)

    def second() -> None:
        owner.WAIT = 0.2
        with (
            pytest.raises(ConfigError, match=f"output_dir.*no other run works; process {holder} on .*since.* does"),
            owner.owned(tmp_path, PartialState()),
        ):
            pass

    try:
        assert forked.run(second) == 0
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)

    def third() -> None:
        with owner.owned(tmp_path, PartialState()), owner.owned(tmp_path, PartialState()):  # one process is one run
            pass

    assert forked.run(third) == 0


def test_cleaning_spares_what_a_living_process_writes(tmp_path):
    def write() -> None:
        with files.atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            time.sleep(60)

    def holders() -> list[Path]:
        return [path for path in tmp_path.glob(".*.part") if (path / "a.txt").exists()]

    writer = forked.fork(write)
    while not holders():
        time.sleep(0.01)
    files.remove_leftovers(tmp_path)
    assert holders()
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    files.remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sigterm_ends_a_run_with_143_and_says_how_to_go_on(tmp_path, alone):
    log = tmp_path / "log"

    def work() -> None:
        os.environ["HF_CONDENSE_CACHE"] = str(tmp_path / "cache")
        from hf_condense.cli import main

        def slow(moment: str, path: Path) -> None:
            if path.parent.name == "shards":
                (tmp_path / "in").touch()
                time.sleep(60)

        files.on_replace, sys.stderr = slow, os.fdopen(2, "w", buffering=1, closefd=False)  # not pytest's
        os._exit(main(["run", "--method", "dm", *TINY, "--output_dir", str(tmp_path / "run")]))

    process = forked.fork(work, {"FORKED_LOG": str(log)})
    while not (tmp_path / "in").exists():
        time.sleep(0.02)
    os.kill(process, signal.SIGTERM)
    assert forked.finish(process, timeout=30) == 143
    assert log.read_text().count("stopped. Run the same command again to resume: what is done is kept.") == 1
    assert not list(tmp_path.rglob(".*.part"))
    from hf_condense import CondensationTrainer

    assert forked.run(lambda: CondensationTrainer("dm", **settings(tmp_path / "run")).run()) == 0
    assert published(tmp_path / "run")["content"] == published(alone)["content"]
