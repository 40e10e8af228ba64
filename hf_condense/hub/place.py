"""Locates a distilled dataset: a folder, the dataset of a run folder, or a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from hf_condense.errors import ArtefactError
from hf_condense.files import recover
from hf_condense.hub.record import CONDENSATION
from hf_condense.snapshots import fetch_snapshot


def locate(folder_or_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a distilled dataset; a Hub id is fetched into the Hub's cache.

    Raises:
        ArtefactError: neither a folder of this kind nor a repository that can be read.
    """
    folder = Path(folder_or_id)
    for place in (folder, folder / "dataset"):
        if place.parent.is_dir():
            recover(place)
    if folder.is_dir():
        if (folder / CONDENSATION).exists():
            return folder
        run = folder / "dataset"
        inside = (run / CONDENSATION).exists()  # a run folder holds the distilled dataset in `dataset/`
        if inside:
            return run
        raise ArtefactError(str(folder), "no condensation.json", "a folder written by hf-condense", "check the path")
    fetched = fetch_snapshot(
        str(folder_or_id),
        "dataset",
        revision=revision,
        error=ArtefactError,
        field="dataset",
        allowed="a folder or a Hub dataset repository",
    )
    if not (fetched / CONDENSATION).exists():
        raise ArtefactError(
            "dataset", str(folder_or_id), "a repository with a condensation.json", "read it with datasets.load_dataset"
        )
    return fetched
