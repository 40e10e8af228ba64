"""All files of one kind in a results repository: read by several processes where there are many, a bad one named and left out."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.result import Result, Verification, Withdrawal, check_place, read_file

FOLDERS = {Result: "results", Verification: "verified", Withdrawal: "withdrawn"}
MANY = 1000  # files from which further processes pay for their start
E = TypeVar("E", Result, Verification, Withdrawal)


class Refused(NamedTuple):
    """A file that is not part of the board: its path and the reason."""

    path: str
    reason: str


def read_all(folder: Path, kind: type[E]) -> tuple[list[E], list[Refused]]:
    """Entries in the order of their paths, and the files that are not of the form or stand in a wrong place."""
    top = folder / FOLDERS[kind]
    paths = sorted(os.path.join(at, name) for at, _, names in os.walk(top) for name in names)
    found: list[E | Refused] = []
    if len(paths) < MANY:
        found = _read(kind, folder, paths)
    else:
        workers = min(8, os.cpu_count() or 1)
        chunks = [paths[start : start + 250] for start in range(0, len(paths), 250)]
        # this file imports nothing heavy, so a fresh process is ready in a fraction of a second
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for part in pool.map(partial(_read, kind, folder), chunks):
                found += part
    refused = [entry for entry in found if isinstance(entry, Refused)]
    return [entry for entry in found if not isinstance(entry, Refused)], refused


def _read(kind: type[E], folder: Path, paths: list[str]) -> list[E | Refused]:
    return [_read_one(kind, Path(path), Path(os.path.relpath(path, folder)).as_posix()) for path in paths]


def _read_one(kind: type[E], path: Path, place: str) -> E | Refused:
    try:
        entry = read_file(kind, path)
        check_place(entry, place)
    except CondensationError as error:
        return Refused(place, str(error))
    return entry
