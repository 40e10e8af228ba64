"""The processes of a run: they find each other before any work, refuse together, and see the same folders."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    broadcast_object_list,
    gather_object,
    get_cpu_distributed_information,
    parse_flag_from_env,
)
from torch.distributed import DistError, Store, rendezvous

from hf_condense.errors import CondensationError, ConfigError
from hf_condense.files import canonical_json

log = logging.getLogger(__name__)
MEETING = timedelta(minutes=5)  # between the start of the first process and of the last
PATIENCE = timedelta(days=30)  # for processes that wait while another one trains; by default they give up in minutes
LOOKING = 10.0  # seconds in which a shared file system shows a new file on every machine

Launched = Accelerator | PartialState


def join() -> PartialState:
    """Makes the processes that a launcher has started one run; to be called before anything asks for a device.

    Without a GPU, Accelerate takes processes for one run only where it is asked for a CPU.

    Raises:
        ConfigError: processes do not come within `MEETING`, or an Accelerator that was made before sees other processes.
    """
    started, store = get_cpu_distributed_information().world_size, None
    if started > 1 and not PartialState._shared_state:
        store = _meet(started)
    elif (
        started == 1
        and "MASTER_ADDR" in os.environ
        and "ACCELERATE_USE_CPU" in os.environ
        and "RANK" not in os.environ
    ):
        log.warning(
            "`accelerate launch` starts one process where there is no GPU, whatever --num_processes says: this run goes on "
            "in one process, with the same results. `torchrun --nproc_per_node N` starts several"
        )
    device = torch.accelerator.current_accelerator(check_available=True)
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (started > 1 and (device is None or device.type == "mps"))
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    del store  # until now: the main process serves it
    if state.num_processes != started:
        raise ConfigError(
            "WORLD_SIZE",
            started,
            f"{state.num_processes}, the number of processes that the Accelerator sees",
            "make no Accelerator before the trainer, and start the processes by torchrun or accelerate launch",
        )
    return state


def _meet(size: int) -> Store | None:
    """Waits until all processes are there; None where the launcher names no place to meet (as MPI)."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    place = "hf_condense/process/{}".format
    try:
        store, rank, _ = next(rendezvous("env://", timeout=MEETING))
        store.set(place(rank), socket.gethostname())
        store.wait([place(other) for other in range(size)], MEETING)
    except DistError as error:
        raise ConfigError(
            "MASTER_ADDR:MASTER_PORT",
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            f"all {size} processes of the run there within {MEETING.total_seconds():g} seconds ({error})",
            "see what has ended the others, and start all of them again; their machines must reach this address",
        ) from error
    return store


@contextmanager
def agreed(processes: Launched) -> Iterator[None]:
    """What one process refuses in this block, all refuse, with its error; the block may not wait for other processes.

    Raises:
        CondensationError: of the first process that has one; `everywhere` is set.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if processes.num_processes == 1:
        if own is not None:
            raise own
        return
    said = own
    if own is not None and not isinstance(own, CondensationError):
        step = "see the traceback of that process"
        said = ConfigError("processes", f"{type(own).__name__}: {own}", "no error in any of them", step)
    found = gather_object([(said, socket.gethostname())])
    rank, (first, host) = next(((rank, s) for rank, s in enumerate(found) if s[0] is not None), (0, (None, "")))
    if first is None:
        return
    if own is not None and not isinstance(own, CondensationError):
        raise own
    if rank:  # the others would look for the cause where they are
        first = type(first)(f"{first.field} (process {rank} on {host})", first.value, first.allowed, first.next_step)
    first.everywhere = True
    raise first from own


def from_main(processes: Launched, value: Any) -> Any:
    """What the main process says, on all processes."""
    if processes.num_processes == 1:
        return value
    said = [value]
    broadcast_object_list(said)
    return said[0]


def check_equal(processes: Launched, values: Mapping[str, Any]) -> None:
    """Raises ConfigError on all processes where one of the values (name -> what JSON can hold) is not the main one's."""
    if processes.num_processes == 1:
        return
    found = gather_object([{name: canonical_json(value) for name, value in values.items()}])
    for rank, others in enumerate(found):
        for name, main in found[0].items():
            if others.get(name) != main:
                step = "start every process with the same command and the same data"
                error = ConfigError(f"{name} (process {rank})", others.get(name), f"{main}, as in process 0", step)
                error.everywhere = True
                raise error


def check_shared(processes: Launched, folders: Mapping[str, Path]) -> None:
    """Raises ConfigError on all processes where one of them does not see what the main one writes.

    Args:
        folders: name of the setting or variable -> folder, which is made.
    """
    if processes.num_processes == 1:
        return
    # a token that is left behind goes like any other unfinished file
    token, host = from_main(processes, (f".processes.{uuid4().hex}.part", socket.gethostname()))
    with agreed(processes):
        for name, folder in folders.items() if processes.is_main_process else ():
            try:
                (folder / token).mkdir(parents=True)
            except OSError as error:
                allowed = f"a folder that can be made and written to ({error.strerror})"
                raise ConfigError(name, str(folder), allowed, "choose another one") from error
    try:
        with agreed(processes):
            for name, folder in folders.items():
                if not _appears(folder / token):
                    raise ConfigError(
                        name,
                        str(folder),
                        f"one folder for all processes; what process 0 on {host} writes is not there",
                        "put it on a file system that all machines share, under the same path",
                    )
    finally:
        for folder in folders.values() if processes.is_main_process else ():
            (folder / token).rmdir()


def _appears(path: Path) -> bool:
    end = time.monotonic() + LOOKING
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
