"""The files of a results repository: results, verifications and withdrawals, spelled canonically and read with limits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from hf_condense.errors import CondensationError
from hf_condense.files import canonical_json, write_text
from hf_condense.leaderboard.in_parts import in_parts
from hf_condense.leaderboard.limits import MAX_BYTES, check_json, check_size, may_hold_many, need, refuse
from hf_condense.leaderboard.result import Result, content_id, id_of
from hf_condense.leaderboard.schema import build, schema
from hf_condense.leaderboard.statements import Verification, Withdrawal

FOLDERS = {Result: "results", Verification: "verified", Withdrawal: "withdrawn"}
E = TypeVar("E", Result, Verification, Withdrawal)


class Refused(NamedTuple):
    """A file that is not part of the board: its path and the reason."""

    path: str
    reason: str


def file_of(entry: Result | Verification | Withdrawal) -> bytes:
    """The bytes of an entry's file, which anyone can read.

    Raises:
        ArtefactError: a field that no reader would take, such as a name that is none of the Hub's.
    """
    data = (canonical_json(entry) + "\n").encode()
    read_bytes(type(entry), data, Path(entry.place).name)
    return data


def write_file(folder: Path | str, entry: Result | Verification | Withdrawal) -> Path:
    """Writes an entry into its place below `folder` and gives the path. An entry that is there is the same one."""
    path = Path(folder) / entry.place
    if not path.exists():
        write_text(path, file_of(entry).decode())
    return path


def read_file(kind: type[E], path: Path | str) -> E:
    """An entry from a file that anyone may have written, of which no more than `MAX_BYTES` are read.

    Raises:
        ArtefactError: it cannot be read, is above a limit, or not of the form; the message names file, field and reason.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        refuse(str(path), error.strerror or str(error), "a file that can be read", "check the path")
    return read_bytes(kind, data, os.path.basename(path))


def read_bytes(kind: type[E], data: bytes, name: str) -> E:
    """As `read_file`, of a file's bytes; `name` for messages."""
    check_size(data, name)
    entry = _canonical(kind, data)
    if entry is None:
        check_json(data, name)
        entry = build(kind, data, name)
        if isinstance(entry, Result):
            expected = content_id(entry.content)
            allowed = f"the first 20 hex digits of the content's sha256 ({expected})"
            need(entry.id == expected, f"{name}.id", entry.id, allowed)
    return entry


def _canonical(kind: type[E], data: bytes) -> E | None:
    """The entry of a file that is spelled as `file_of` spells it; None for any other, valid or not.

    Equal bytes prove what `check_json` looks for one by one (no key twice, no NaN), at a fraction of its time.
    """
    if may_hold_many(data):
        return None
    try:
        entry = schema(kind).validate_json(data)
    except (ValidationError, CondensationError):
        return None
    values = schema(kind).dump_python(entry, warnings=False)
    if kind is Result:
        content, submitted = canonical_json(values["content"]), canonical_json(values["submitted"])
        spelled = f'{{"content":{content},"id":"{id_of(content)}","submitted":{submitted}}}\n'
    else:
        spelled = canonical_json(values) + "\n"
    return entry if spelled.encode() == data else None


def read_all(folder: Path, kind: type[E]) -> tuple[list[E], list[Refused]]:
    """Entries in the order of their paths, and the files that are not of the form or stand in a wrong place."""

    def read(places: Sequence[str]) -> list[E | Refused]:
        return [_read_at(folder, place, kind) for place in places]

    entries = [entry for part in in_parts(read, _places(folder, FOLDERS[kind])) for entry in part]
    return [e for e in entries if isinstance(e, kind)], [e for e in entries if isinstance(e, Refused)]


def _read_at(folder: Path, place: str, kind: type[E]) -> E | Refused:
    try:
        entry = read_file(kind, os.path.join(folder, place))
        check_place(entry, place)
    except CondensationError as error:
        return Refused(place, str(error))
    return entry


def _places(folder: Path, top: str) -> list[str]:
    """Paths of all files below a folder of the repository, with forward slashes; what is being written is left out."""
    places = []
    for at, folders, names in os.walk(os.path.join(folder, top)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(at, folder).replace(os.sep, "/")
        places += [f"{below}/{name}" for name in names]
    return sorted(places)


def check_place(entry: Result | Verification | Withdrawal, place: str) -> None:
    """Refuses a file that does not stand where its content belongs.

    Args:
        place: path in the results repository, with forward slashes.
    """
    need(place == entry.place, "path", place, f"the file's place ({entry.place})")
