"""A run folder has one owner: the run that works in it. Another one is refused, by name, until the owner ends or is killed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hf_condense.errors import ConfigError
from hf_condense.run.launch import Launched, agreed

WAIT = 5.0  # seconds in which a process that was just stopped may end
LOCK, OWNER = ".lock", ".owner.json"  # the record only names the holder of the lock


@contextmanager
def owned(folder: Path, processes: Launched) -> Iterator[None]:
    """Keeps other runs out of a run folder while this one works in it.

    A second `owned` of the same folder inside the first, or in one Python process, is no other run.

    Raises:
        ConfigError: another run works there, or the folder cannot be locked; on all processes.
    """
    lock = None
    with agreed(processes):
        if processes.is_main_process:
            lock = _acquired(folder)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquired(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK, timeout=WAIT, is_singleton=True)
    try:
        lock.acquire()
        own = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        (folder / OWNER).write_text(json.dumps(own))
    except Timeout:
        allowed = f"a folder in which no other run works; {_named(folder)} does"
        step = "wait until that run ends or stop it, or choose another --output_dir"
        raise ConfigError("output_dir", str(folder), allowed, step) from None
    except OSError as error:
        allowed = f"a folder that can be written to and locked ({error.strerror or error})"
        raise ConfigError("output_dir", str(folder), allowed, "choose another --output_dir") from error
    return lock


def _named(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads((folder / OWNER).read_text())
        return f"process {said['process']} on {said['host']}, since {said['since']},"
    return "another process"
