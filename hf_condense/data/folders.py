"""Folders of image files: which top folders are splits, and a Dataset for each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hf_condense.data.class_folders import class_folders
from hf_condense.data.listing import Listing, endings, some
from hf_condense.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# folder name -> name of the split
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
USUAL = tuple(dict.fromkeys(SPLIT_NAMES.values()))

Labelled = list[tuple[str, str]]  # path below the folder, class name


def image_folder(root: Path, listing: Listing) -> dict[str, Dataset]:
    """Split -> Dataset with columns image (paths) and label, of images in class folders.

    Only top folders with a split's name make splits. Files that are not read are counted in a warning.

    Raises:
        DataError: there are no class folders, one only, or folders and classes do not match; the message says which.
    """
    root, listing = _descended(root, listing)
    if listing.unread:
        logger.warning(
            "%s: %d of %d files are not read, because they are no images: %s",
            root,
            len(listing.unread),
            len(listing.images) + len(listing.unread),
            endings(listing.unread),
        )
    folders = split_folders(root, listing)
    labelled = _labelled_splits(root, listing, folders) if folders else {"train": class_folders(root, listing)}
    _need_two_classes(root, labelled)
    # usual splits share their numbering, as in a folder that `datasets` reads
    shared = {name for split in USUAL for _, name in labelled.get(split, [])}
    return {
        split: _dataset(root, pairs, sorted(shared if split in USUAL else {name for _, name in pairs}))
        for split, pairs in labelled.items()
    }


def _descended(root: Path, listing: Listing) -> tuple[Path, Listing]:
    """Descends into a single top folder, which archives and downloads often have."""
    while len(listing.top) == 1 and listing.top[0].lower() not in SPLIT_NAMES:
        inner = listing.below(listing.top[0])
        if len(inner.images) < len(listing.images) or not all(len(p.parts) > 1 for p in inner.images):
            break
        root, listing = root / listing.top[0], inner
    return root, listing


def split_folders(root: Path, listing: Listing) -> dict[str, list[str]]:
    """Split -> top folders that it consists of; empty where all top folders are classes.

    Folders with a split's name are splits where they hold class folders and one of them is for training, or all top
    folders have such names: `test` beside `control` is a class. Other folders beside splits are splits under their
    folder's name, which a run uses only on request.

    Raises:
        DataError: folders for training and for tests that hold images, but no classes.
    """
    named = {folder: SPLIT_NAMES[folder.lower()] for folder in listing.top if folder.lower() in SPLIT_NAMES}
    others = [folder for folder in listing.top if folder not in named]
    if not named or (others and "train" not in named.values()):
        return {}
    if all(len(p.parts) == 2 for p in listing.images if p.parts[0] in named):
        if len(others) > 1:
            logger.warning("%s: read as classes, because images lie directly in them: %s", root, some(named))
            return {}
        count, first = sum(p.parts[0] in named for p in listing.images), next(iter(named))
        classes = f"; if {some(listing.top)} are the classes, rename {some(named)}" if len(listing.top) > 1 else ""
        raise DataError(
            "label_column",
            str(root),
            f"a folder for each class; {count} images lie directly in {some(named)}",
            f"sort them into folders {root.name}/{first}/CLASS, each class in a folder of its own, or put a metadata.csv "
            f"with columns file_name and label beside them{classes}",
        )
    splits: dict[str, list[str]] = {}
    for folder in listing.top:
        splits.setdefault(named.get(folder, folder), []).append(folder)
    return splits


def _labelled_splits(root: Path, listing: Listing, folders: dict[str, list[str]]) -> dict[str, Labelled]:
    """The images of each split with their classes. Splits that cannot be read are named, unless it is the first one."""
    labelled: dict[str, Labelled] = {}
    first = "train" if "train" in folders else next(iter(folders))
    for split, parts in folders.items():
        try:
            labelled[split] = [
                (f"{part}/{path}", name)
                for part in parts
                for path, name in class_folders(root / part, listing.below(part))
            ]
        except DataError as error:
            if split == first:
                raise
            count = sum(len(listing.below(part).images) for part in parts)
            logger.warning("%s: %d images in %s are not used. %s", root, count, some(parts), error)
    return labelled


def _need_two_classes(root: Path, labelled: dict[str, Labelled]) -> None:
    names = {name for split in USUAL for _, name in labelled.get(split, [])}
    if len(names) == 1:
        files = [path for split in USUAL for path, _ in labelled.get(split, [])]
        folder, name = (root / files[0]).parent, names.pop()
        raise DataError(
            "dataset",
            str(root),
            f"two class folders or more; all {len(files)} images are of the one class {name!r}",
            f"put a folder for each other class beside {folder}; if {name} is no class, sort its images into one folder "
            "per class",
        )


def _dataset(root: Path, pairs: Labelled, names: list[str]) -> Dataset:
    from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    number = {name: i for i, name in enumerate(names)}
    cells = [{"bytes": None, "path": f"{root}/{file}"} for file, _ in pairs]
    columns = {"image": cells, "label": [number[name] for _, name in pairs]}
    return Dataset.from_dict(columns, features=features, info=DatasetInfo(features=features, dataset_name=root.name))
