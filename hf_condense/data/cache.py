"""Caches computed facts about datasets in the user's cache folder, for later runs and other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hf_condense.errors import ArtefactError
from hf_condense.files import remove_leftovers

_uses: ContextVar[list[tuple[str, float]] | None] = ContextVar("uses", default=None)


def cache_folder() -> Path:
    """`HF_CONDENSE_CACHE`, else `hf_condense` in the user's cache folder.

    Raises:
        ArtefactError: that variable is set and empty, for example because it was derived from an unset one.
    """
    named = os.environ.get("HF_CONDENSE_CACHE")
    if named is not None:
        if not named.strip():
            raise ArtefactError("HF_CONDENSE_CACHE", named, "the name of a folder", "set it to one, or unset it")
        return Path(named).expanduser()
    # where huggingface_hub and datasets have theirs on every system; platformdirs would leave them on macOS and Windows.
    # An empty or relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path("~/.cache").expanduser()) / "hf_condense"


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Locks `path` among processes, so that one creates it and the others read it.

    Raises:
        ArtefactError: the cache folder cannot be written to or is full.
    """
    from filelock import FileLock  # released by the system when its holder is killed

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.name}.lock"):
            yield
    except (OSError, ArtefactError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__  # the write error of `files.atomic_path`
        if not isinstance(reason, OSError):
            raise
        raise ArtefactError(
            "HF_CONDENSE_CACHE",
            str(path.parent),
            f"a folder that can be written to, with room ({reason.strerror or reason})",
            "free space there, or set that variable to another folder, and run the same command again",
        ) from error


def note_use(name: str, path: Path) -> None:
    """Notes that a file or folder of the cache is used, made now or earlier, for the stage at work (`noted_uses`)."""
    found = _uses.get()
    if found is not None:
        found.append((name, path.stat().st_mtime))


@contextmanager
def noted_uses() -> Iterator[list[tuple[str, float]]]:
    """Gathers (name, when it was made in seconds since the epoch) of all that is used from the cache in the block."""
    found: list[tuple[str, float]] = []
    token = _uses.set(found)
    try:
        yield found
    finally:
        _uses.reset(token)


def remove_unfinished() -> None:
    """Deletes unfinished files of killed processes from the cache folder; files being written are untouched."""
    root = cache_folder()
    for kind in root.iterdir() if root.is_dir() else ():
        remove_leftovers(kind, deep=kind.name != "unpacked")  # below that are the pictures of archives
