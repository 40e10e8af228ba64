"""Files that are either whole or absent: atomic writes, fingerprints and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_condense.errors import ArtefactError

UNFOLDS, SPARE = 1100, 64 << 20  # bytes in memory for each byte of a file: no PNG unfolds to more than 1032
# Called with the final path just before and just after each replacement ("before" | "after"); tests kill the process in it.
on_replace: Callable[[str, Path], None] | None = None


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, dataclasses and tuples as dicts and lists."""

    def plain(x: Any) -> Any:
        if is_dataclass(x) and not isinstance(x, type):
            return {f.name: getattr(x, f.name) for f in fields(x)}  # values inside come here in turn
        if isinstance(x, Path):
            return str(x)
        raise TypeError(f"{type(x).__name__} has no canonical JSON form")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain, ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it replaces `path` at once, on failure nothing is left.

    Works for a file and for a folder (an existing folder is replaced).

    Raises:
        ArtefactError: the disk is full or the place cannot be written to.
    """
    path = Path(path)
    temporary: Path | None = None
    lock: FileLock | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        holder, lock = _new_holder(path)
        temporary = holder / path.name
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
        if on_replace:
            on_replace("before", path)
        if path.is_dir():
            os.replace(path, set_aside(path))  # no moment without a whole folder: `recover` takes it back
        os.replace(temporary, path)
        shutil.rmtree(set_aside(path), ignore_errors=True)
        if on_replace:
            on_replace("after", path)
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        step = "free space or choose another --output_dir, then run the same command again: what is done is kept"
        allowed = f"a place that can be written to ({reason.strerror or reason})"
        raise ArtefactError("output_dir", str(path), allowed, step) from reason
    finally:
        if lock is not None:
            lock.release()
        if temporary is not None:
            shutil.rmtree(temporary.parent, ignore_errors=True)


def _new_holder(path: Path) -> tuple[Path, FileLock]:
    """A temporary folder beside `path`, and its lock, which the system releases when this process is killed."""
    while True:
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        lock = FileLock(holder / ".lock")
        try:
            lock.acquire()
            return holder, lock
        except FileNotFoundError:  # another process took it for a leftover before it was locked
            continue


def remove_leftovers(folder: Path, name: str = "*", deep: bool = True) -> None:
    """Deletes what killed processes left behind (temporary holders of `atomic_path`), but nothing that is being written.

    Args:
        name: of the file or folder that was not finished; all of them by default.
        deep: in the folders below it too.
    """
    for place, folders, _ in os.walk(folder):
        holders = [other for other in folders if fnmatch(other, f".{name}.*.part")]
        for holder in holders:
            with suppress(Timeout, OSError), FileLock(Path(place, holder, ".lock"), blocking=False):
                shutil.rmtree(Path(place, holder), ignore_errors=True)
        folders[:] = [other for other in folders if other not in holders] if deep else []


def disk_error(error: Exception) -> OSError | None:
    """What the system says of a file that could not be written, whichever library wrote it; None for other errors."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, ValueError) and "null byte" in str(error):
        return OSError(errno.EINVAL, "a name with a NUL byte is no name of a file")
    number = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust say it: safetensors, tokenizers
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def set_aside(folder: Path) -> Path:
    """Where the folder that is being replaced stands until the new one is in its place."""
    return folder.with_name(f".{folder.name}.before")


def recover(folder: Path) -> None:
    """Finishes a replacement that was killed: the old folder comes back where the new one did not arrive."""
    old = set_aside(folder)
    if not old.is_dir():
        return
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(old, folder)


def contained(folder: Path, path: Path) -> bool:
    """Whether a path stays inside a folder, symbolic links followed.

    In the Hub's cache the files of a snapshot are links to blobs of the same repository: there that is the folder.
    """
    holder = next((p for p in (folder, *folder.parents) if p.parent.name == "snapshots"), None)
    cached = holder is not None and re.match("(datasets|models|spaces)--", holder.parent.parent.name)
    root = holder.parents[1] if cached else folder
    return path.resolve().is_relative_to(root.resolve())


def check_inside(folder: Path, path: Path) -> Path:
    """The path of a regular file inside a folder that a stranger may have made.

    Raises:
        ArtefactError: a symbolic link leads out of the folder, or it is a pipe, a device or a folder.
    """
    step = "ask whoever made the folder; it reaches for files outside itself, or is damaged"
    if not contained(folder, path):
        raise ArtefactError(
            str(path), "a symbolic link that leads elsewhere", f"files inside the folder {folder}", step
        )
    if path.exists() and regular_size(path) is None:
        raise ArtefactError(str(path), "no regular file", "a file", step)
    return path


def check_room(files: list[Path], unfolded: int, place: Path | str, next_step: str) -> None:
    """Raises ArtefactError where files are said to unfold to far more bytes in memory than files of their size hold."""
    packed = sum(file.stat().st_size for file in files)
    if unfolded > UNFOLDS * packed + SPARE:
        allowed = f"what files of {packed} bytes can hold"
        raise ArtefactError(f"{place}: size in memory", f"{unfolded} bytes", allowed, next_step)


def write_text(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(json.loads(canonical_json(value)), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str, largest: int = 1 << 30, next_step: str | None = None) -> Any:
    """What a JSON file holds.

    Args:
        largest: bytes; a larger file is refused before it is read.

    Raises:
        ArtefactError: the file is missing, no regular file, too large, or not JSON.
    """
    step = next_step or redo(path)
    try:
        size = regular_size(path)
        if size is None:
            raise ArtefactError(str(path), "missing, or no regular file", "a file that this library wrote", step)
        if size > largest:
            raise ArtefactError(str(path), f"{size} bytes", f"at most {largest}", step)
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ArtefactError(str(path), "lists in lists without end", "JSON of this library", step) from None
    except (OSError, ValueError) as error:  # also of text that is not UTF-8, and of numbers with thousands of digits
        raise ArtefactError(str(path), str(error), "JSON", step) from None


def regular_size(path: Path | str) -> int | None:
    """Bytes of a file; None where there is none, or something else: reading a pipe or a device never ends."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def redo(path: Path | str) -> str:
    """The next step where a file is missing or damaged: a stage that is done runs again only without its whole folder."""
    stage = next((p for p in Path(path).parents if (p / "stage.json").is_file()), None)
    return f"delete {stage} and run the same command again" if stage else "check the path, or make or fetch it again"


def save_tensors(path: Path | str, tensors: dict, metadata: dict | None = None) -> None:
    """Writes a safetensors file atomically; `metadata` is kept as one JSON string under the key "json"."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"json": canonical_json(metadata or {})})


def load_tensor_shapes(path: Path | str) -> dict[str, list[int]]:
    """Shapes of the tensors of a safetensors file, of which only the header is read. Raises ArtefactError as `load_tensors`."""
    with _opened_tensors(path) as file:
        names = file.keys()
        return {name: file.get_slice(name).get_shape() for name in names}


def load_tensors(path: Path | str) -> tuple[dict, dict]:
    """Tensors and metadata of a file written by `save_tensors`. Raises ArtefactError when it is missing or damaged."""
    with _opened_tensors(path) as file:
        names = file.keys()  # not a dict: it has no iterator of its own
        return {k: file.get_tensor(k) for k in names}, json.loads((file.metadata() or {}).get("json", "{}"))


@contextmanager
def _opened_tensors(path: Path | str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        if regular_size(path) is None:
            raise FileNotFoundError("missing, or no regular file")
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ArtefactError(str(path), str(error), "a whole safetensors file", redo(path)) from None
