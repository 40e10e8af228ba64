"""condensation.json of whoever wrote it, and the files it lists: held against what readers rely on before they do."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from hf_condense.errors import ArtefactError
from hf_condense.files import read_json, sha256_file
from hf_condense.hub.artefact import CONDENSATION, FORMAT

NEXT = "ask whoever published it; the set was changed, or another program wrote it"
# a type, a list of one, or names with theirs; `str` as a name stands for any name
SHAPE: dict[str, Any] = {
    "content": {
        "format": int,
        "content_hash": str,
        "class_names": [str],
        "config": {str: {}},
        "images": {"count": int, "classes": int, "channels": int, "height": int, "width": int, "per_class": [int]},
        "labels": {"regimes": [str]},
        "method": {"name": str, "title": str, "paper": str},
        "source": {"id": str},
    },
    "record": {"files": {str: {"bytes": int, "sha256": str}}},
}


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """`content` and `record` of a distilled dataset.

    Raises:
        ArtefactError: the file is missing or damaged, of a later format, or lacks a part that readers rely on.
    """
    path = folder / CONDENSATION
    try:
        found = read_json(path)
    except RecursionError:
        raise ArtefactError(str(path), "lists in lists without end", "a record of a distilled dataset", NEXT) from None
    _check_shape(found, SHAPE, path, "")
    if found["content"]["format"] > FORMAT:
        raise ArtefactError(
            f"format of {path}", found["content"]["format"], f"up to {FORMAT}", "install a newer hf-condense"
        )
    return found


def listed_file(folder: Path, name: str) -> Path:
    """The place of a file that a record names, which is inside the set's folder.

    Raises:
        ArtefactError: the name, or a symbolic link, leads out of the folder.
    """
    # in the Hub's cache the files of a snapshot are links to the repository's blobs
    root = folder.parents[1] if folder.parent.name == "snapshots" else folder
    plain, path = PurePosixPath(name), folder / name
    inside = not plain.is_absolute() and ".." not in plain.parts and path.resolve().is_relative_to(root.resolve())
    if not inside:
        raise ArtefactError(f"files of {folder / CONDENSATION}", name, "files inside the folder", NEXT)
    return path


def check_files(folder: Path, files: dict[str, dict]) -> dict[str, str]:
    """File -> holds, changed or missing, by sha256. The card may be edited, so it is not among them.

    Raises:
        ArtefactError: a file outside the folder is listed; it is not opened.
    """

    def state(name: str, facts: dict) -> str:
        path = listed_file(folder, name)
        if not path.exists():
            return "missing"
        return "holds" if sha256_file(path) == facts["sha256"] else "changed"

    return {name: state(name, facts) for name, facts in files.items() if name != CONDENSATION}


def _check_shape(found: Any, shape: Any, path: Path, name: str) -> None:
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(found, kind):
        value = f"no {name}" if found is None else f"{name or 'all of it'} is of type {type(found).__name__}"
        raise ArtefactError(str(path), value, f"{kind.__name__} there", NEXT)
    if isinstance(shape, list):
        for part in found:
            _check_shape(part, shape[0], path, f"{name}[]")
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            for part in found if key is str else [key]:
                _check_shape(found.get(part), inner, path, f"{name}.{part}".lstrip("."))
