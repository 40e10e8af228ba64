"""Runs code in forked children of the warm test process: a start costs milliseconds, and a kill hurts nobody."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def fork(work: Callable[[], None], environment: dict[str, str] | None = None) -> int:
    """Starts `work` in a child; returns its process id. The child never returns into the test."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        os.environ.update(environment or {})
        give_back_freed_memory()
        quiet = os.open(os.environ.get("FORKED_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def give_back_freed_memory() -> None:
    """What the parent has freed and kept would hide what a child needs from every measure of its memory."""
    with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def finish(pid: int, timeout: float = 120) -> int:
    """Waits for a child; its exit code, or minus the signal that ended it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"child {pid} did not end in {timeout} s")


def noted(monkeypatch, module: ModuleType, name: str, folder: Path) -> Path:
    """Makes a function of `module` slow, so that processes meet in it; the file has a line for each call in any of them."""
    function, log = getattr(module, name), folder / "calls.log"

    def slow(*args, **kwargs):
        with open(log, "a") as file:
            file.write(f"{name}\n")
        time.sleep(0.3)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, slow)
    return log


def run(work: Callable[[], None], timeout: float = 120) -> int:
    return finish(fork(work), timeout)


def run_together(work: Callable[[], None], processes: int, timeout: float = 120) -> list[int]:
    """Runs `work` in `processes` children that find each other as torch.distributed ranks on this machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    pids = [fork(work, {**common, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(processes)]
    return [finish(pid, timeout) for pid in pids]
