"""Checks cells that name a file instead of holding an image: a table from the Hub may only name files from the Hub."""

from __future__ import annotations

import os
import re
from typing import Any

from hf_condense.errors import DataError

# how streams name files; the commit of a repository that only this reader may see cannot be guessed
_ADDRESS = re.compile(r"hf://datasets/[^@:]+@[0-9a-f]{40}/.+")
_ARCHIVES = ("zip", "gzip", "bz2", "xz", "lz4", "zstd")
ROWS = 2000  # looked at together


def from_hub(path: str) -> bool:
    """Whether a path lies in the Hub's cache or in what `datasets` fetched and unpacked, or is an address at a commit."""
    from datasets import config
    from huggingface_hub import constants

    *archives, place = path.split("::")
    folders = (constants.HF_HUB_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
    # symbolic links are not resolved: only the Hub's client makes links in the cache, from a snapshot to its files
    plain = os.path.normpath(place)
    inside = any(plain.startswith(os.path.abspath(folder) + os.sep) for folder in folders)
    known = all(archive.partition("://")[0] in _ARCHIVES for archive in archives)
    return known and (inside or _ADDRESS.fullmatch(place) is not None)


def refuse_local_file(cell: Any, place: str) -> None:
    """Raises DataError for a cell without bytes whose path is of a file that did not come from the Hub.

    Args:
        cell: {"bytes": ..., "path": ...} as the Image feature stores it.
        place: description of the cell, for the message.
    """
    if cell and not cell["bytes"] and cell["path"] and not from_hub(cell["path"]):
        raise DataError(
            place,
            cell["path"],
            "an image, or a file that came with the dataset: this one would be read from elsewhere",
            "do not trust this dataset, or tell its owner to publish the images themselves",
        )


def refuse_local_files(table: Any, split: str) -> None:
    """Raises DataError where a cell of a table from the Hub names a file that did not come from there.

    Args:
        table: a Dataset with one column of type Image, not decoded. Of images that it holds only lengths are read.
    """
    import pyarrow.compute as pc

    arrow = table.with_format("arrow")
    for start in range(0, len(arrow), ROWS):
        column = arrow[start : start + ROWS].column(0)
        empty = pc.equal(pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0), 0)
        for row, path in zip(pc.indices_nonzero(empty), pc.struct_field(column, "path").filter(empty)):
            cell = {"bytes": None, "path": path.as_py()}
            refuse_local_file(cell, f"{table.column_names[0]}, row {start + row.as_py()} of split {split}")
