"""Reads condensation.json from any source and validates it and the files it lists before they are used."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.errors import ArtefactError
from hf_condense.evaluation.protocol import Protocol
from hf_condense.files import check_inside, sha256_file
from hf_condense.labels.checks import check_views
from hf_condense.records import base, sets
from hf_condense.records.base import made

CONDENSATION = "condensation.json"
NEXT = "ask whoever published it; the set was changed, or another program wrote it"
LATER = "install a newer hf-condense"


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """`content` and `record` of a distilled dataset.

    Raises:
        ArtefactError: the file is missing or damaged, of a later format, or a value in it is not allowed.
    """
    path = check_inside(folder, folder / CONDENSATION)
    found = base.read_json(path, base.LARGEST, NEXT)
    content = found.get("content") if isinstance(found, dict) else None
    format = content.get("format") if isinstance(content, dict) else None
    if isinstance(format, int) and format > sets.FORMAT:  # it may have keys that are not known here
        raise ArtefactError(f"format of {path}", format, f"up to {sets.FORMAT}", LATER)
    base.checked(sets.Condensation, found, path, NEXT)
    for name in found["record"]["files"]:
        listed_file(folder, name)
    check_training(content, path)
    return found


def check_training(content: dict[str, Any], place: Path) -> None:
    """Raises ArtefactError if this version cannot train with the training block, or it does not fit the images."""
    facts, side = content["training"], max(content["images"]["height"], content["images"]["width"])
    where = f"training of {place}"
    if facts.get("recipe") is not None:
        made(Protocol, facts["recipe"] | {"citation": ""}, f"recipe, {where}", f"{NEXT}; or {LATER}")
    if facts.get("siamese") is not None:
        made(SiamesePolicy, facts["siamese"], f"siamese, {where}", NEXT)
    for policy in (facts.get("policy"), (content["labels"].get("store") or {}).get("policy")):
        if policy is not None:
            check_views(made(ViewPolicy, policy, f"policy, {where}", NEXT), side, where)


def listed_file(folder: Path, name: str) -> Path:
    """The path of a file that a record names, inside the set's folder.

    Raises:
        ArtefactError: the name, or a symbolic link, leads out of the folder.
    """
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or "\x00" in name or "\\" in name:
        raise ArtefactError(f"files of {folder / CONDENSATION}", name, "files inside the folder", NEXT)
    return check_inside(folder, folder / name)


def check_files(folder: Path, files: dict[str, dict]) -> dict[str, str]:
    """File -> holds, changed or missing, by sha256. The card is left out, because it may be edited.

    Raises:
        ArtefactError: a file outside the folder is listed; it is not opened.
    """

    def state(name: str, facts: dict) -> str:
        path = listed_file(folder, name)
        if not path.exists():
            return "missing"
        return "holds" if sha256_file(path) == facts["sha256"] else "changed"

    return {name: state(name, facts) for name, facts in files.items() if name != CONDENSATION}
