"""A pool that `hf-condense pool` wrote, read for the dataset that it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_condense.errors import ModelError
from hf_condense.models.members import MANIFEST, ModelPool
from hf_condense.records.base import read_record
from hf_condense.records.networks import PoolManifest

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource


def find_pool(folder: str | Path) -> tuple[Path, dict[str, str]]:
    """(the pool in a folder that `hf-condense pool` wrote, sha256 of each of its networks).

    Raises:
        ModelError: there is none.
    """
    given = Path(folder).expanduser()
    for place in (given, given / "pool" / "models"):
        if (place / MANIFEST).is_file():
            return place, read_record(place / MANIFEST, PoolManifest)["sha256"]
    raise ModelError("pool_folder", str(folder), "a folder that `hf-condense pool` wrote", "run that first")


def read_pool(folder: str | Path, train: ImageSource) -> ModelPool:
    """The pool of a folder, for the dataset that it was made for.

    Raises:
        ModelError: there is none, or it is of networks for other images or classes.
        ArtefactError: it is damaged.
    """
    pool = ModelPool.load(find_pool(folder)[0])
    for member in pool:
        there = (member.image_size, member.model.channels, member.model.class_names)
        wanted = (train.image_size, train.channels, tuple(train.class_names))
        for what, found, needed in zip(("pixels", "channels", "class names"), there, wanted):
            if found != needed:
                raise ModelError(
                    "pool_folder",
                    f"{member.name} for {what} {found}",
                    f"{what} {needed}, which the dataset has",
                    "make a pool of this dataset with `hf-condense pool`",
                )
    return pool
