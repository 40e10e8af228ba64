"""The class of each image in a folder of class folders; folders that could mean several things are refused."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hf_condense.data.cache import cache_folder
from hf_condense.data.listing import Listing, image_endings, some
from hf_condense.errors import DataError

logger = logging.getLogger(__name__)
STRAY_SHARE = 0.1  # of images that lie above the class folders: up to this share they are left out, more are refused


def class_folders(root: Path, listing: Listing) -> list[tuple[str, str]]:
    """(path, class name) of the images: a class is a folder at the depth at which most images lie.

    Images that are left out, or lie deeper, are counted in a warning.

    Raises:
        DataError: no class folders, or folders that could mean several things.
    """
    depths = Counter(len(p.parts) - 1 for p in listing.images)
    level = min(depths, key=lambda depth: (-depths[depth], depth)) if depths else 0
    if level == 0:
        raise _without_classes(root, listing)
    stray = [p for p in listing.images if len(p.parts) - 1 < level]
    placed = [p for p in listing.images if len(p.parts) - 1 >= level]
    if len(stray) > STRAY_SHARE * len(listing.images):
        raise DataError(
            "dataset",
            str(root),
            f"every image in a class folder; {len(stray)} of {len(listing.images)} images lie above the {len(placed)} "
            f"others ({some(stray)})",
            "move them into the folders of their classes, or out of the dataset",
        )
    if stray:
        logger.warning(
            "%s: %d of %d images are left out, because they lie in no class folder: %s",
            root,
            len(stray),
            len(listing.images),
            some(stray),
        )
    folders = sorted({p.parts[:level] for p in placed})
    _need_own_images(root, folders, placed, level)
    _need_different_names(root, folders)
    _warn_of_empty(root, listing, folders, level)
    return [(str(p), p.parts[level - 1]) for p in placed]


def _need_own_images(root: Path, folders: Sequence[tuple], placed: Sequence[PurePosixPath], level: int) -> None:
    """Folders inside a class folder belong to its class, unless it holds nothing but several folders."""
    direct = {p.parts[:level] for p in placed if len(p.parts) - 1 == level}
    deeper = [p for p in placed if len(p.parts) - 1 > level]
    for folder in folders:
        inner = sorted({p.parts[level] for p in deeper if p.parts[:level] == folder})
        if folder not in direct and len(inner) > 1:
            raise DataError(
                "dataset",
                str(root),
                f"class folders on one level; {'/'.join(folder)} holds {len(inner)} folders ({some(inner)}) where the "
                "others hold images",
                f"move their images into {folder[-1]} if that is the class, or move the folders one level up if they are",
            )
    if deeper:
        logger.warning(
            "%s: %d of %d images lie deeper than the others and are read as the class of the folder above: %s",
            root,
            len(deeper),
            len(placed),
            some(f"{p} as {p.parts[level - 1]}" for p in deeper),
        )


def _need_different_names(root: Path, folders: Sequence[tuple]) -> None:
    names = Counter(folder[-1] for folder in folders)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        places = ["/".join(folder) for folder in folders if folder[-1] == twice[0]]
        above = places[0].split("/")[0]
        raise DataError(
            "dataset",
            str(root),
            f"one folder per class; {len(folders)} folders hold images and have {len(names)} names ({some(places)})",
            f"if {above} is a class, move the images of its folders into it; if it is a split, call it train, validation "
            "or test",
        )


def _without_classes(root: Path, listing: Listing) -> DataError:
    count = sum(len(p.parts) == 1 for p in listing.images)
    beside = (
        [] if cache_folder() in root.parents else sorted(p.name for p in root.parent.iterdir() if _holds_images(p))
    )
    above = f", or give {root.parent} if {some(beside)} are the classes" if len(beside) > 1 else ""
    return DataError(
        "label_column",
        str(root),
        f"a folder for each class; {count} images lie directly in {root.name}",
        "put the images of each class into a folder of its own, or add a metadata.csv with columns file_name and label"
        + above,
    )


def _holds_images(place: Path) -> bool:
    known = image_endings()
    return place.is_dir() and any(file.suffix.lower() in known for file in place.iterdir())


def _warn_of_empty(root: Path, listing: Listing, folders: Sequence[tuple], level: int) -> None:
    parents = {folder[:-1] for folder in folders}
    beside = [f for f in listing.folders if len(f.parts) == level and f.parts[:-1] in parents]
    empty = [f for f in beside if f.parts not in set(folders)]
    if empty:
        logger.warning(
            "%s: %d folders, but %d with images, so that these are no classes: %s",
            root,
            len(beside),
            len(folders),
            some(empty),
        )
