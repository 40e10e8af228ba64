"""Opens a local folder or file: saved datasets, image folders, tables that name images, archives, data files."""

from __future__ import annotations

import logging
from glob import escape, has_magic
from pathlib import Path
from typing import Any

import yaml

from hf_condense.config import DataSettings
from hf_condense.data.archives import unpacked
from hf_condense.data.folders import image_folder
from hf_condense.data.listing import Listing, endings, list_files, some
from hf_condense.data.tables import READERS, described_images, read_table, with_images
from hf_condense.errors import DataError

logger = logging.getLogger(__name__)


def open_local(path: Path, settings: DataSettings) -> dict[str, Any]:
    """Split -> Dataset (or, of data files with `streaming`, IterableDataset) of the data in `path`.

    Raises:
        DataError: a folder or file without labelled images; the message lists its content. Else errors of `datasets`.
    """
    if path.is_dir():
        return _open_folder(path, settings)
    ending = path.suffix.lower()
    if ending == ".zip":
        return _open_folder(unpacked([path]), settings)
    if ending == ".tar":
        from datasets import load_dataset

        return dict(load_dataset("webdataset", data_files=escape(str(path)), streaming=settings.streaming))
    if ending not in READERS:
        kinds = ", ".join([*READERS, ".tar"])
        step = "give the folder that holds it"
        raise DataError("dataset", str(path), f"a folder, a .zip of one, or a {kinds} file", step)
    return {"train": with_images(read_table(path), [path.parent])}


def _open_folder(path: Path, settings: DataSettings) -> dict[str, Any]:
    from datasets import Dataset, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        return {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    listing = list_files(path)
    data = [file for file in listing.others if file.suffix.lower() in (*READERS, ".tar")]
    archives = [file for file in listing.others if file.suffix.lower() == ".zip"]
    if archives and not data and not listing.images:
        return _open_folder(unpacked([path / file for file in archives]), settings)
    if _configured(path) or len(data) > len(listing.images):
        return _open_data_files(path, listing, settings)
    if not listing.images:
        raise nothing_in(path, listing)
    return described_images(path, listing, settings.label_column) or image_folder(path, listing)


def _open_data_files(path: Path, listing: Listing, settings: DataSettings) -> dict[str, Any]:
    """Loads a folder of Parquet, CSV, tar ... files with `datasets`, as its card configures it if it has one."""
    from datasets import load_dataset, load_dataset_builder

    if has_magic(str(path)):
        step = "rename it: `datasets` takes these for patterns"
        raise DataError("dataset", str(path), "a path to data files without * ? [ ]", step)
    config = [settings.dataset_config] if settings.dataset_config else []
    splits = dict(load_dataset(str(path), *config, streaming=settings.streaming))
    if not _configured(path):
        files = load_dataset_builder(str(path), *config).config.data_files or {}
        used = {str(file) for part in files.values() for file in part}
        _warn_of_unused(path, listing, used)
    if settings.streaming:
        return splits
    places = [path, *sorted({(path / file).parent for file in listing.others if file.suffix.lower() in READERS})]
    return {split: with_images(table, places) for split, table in splits.items()}


def _warn_of_unused(path: Path, listing: Listing, used: set[str]) -> None:
    kinds = {Path(file).suffix for file in used}
    alike = [file for file in listing.others if file.suffix in kinds]
    unused = [file for file in alike if str(path / file) not in used]
    if unused:
        logger.warning(
            "%s: %d of %d %s files are not read, because others have a split (train, test ...) in their names: %s. Give "
            "one of them by itself, or put a split into all names",
            path,
            len(unused),
            len(alike),
            " and ".join(sorted(kinds)),
            some(unused),
        )


def _configured(path: Path) -> bool:
    """Whether the folder's card defines the files of each split."""
    try:
        head = (path / "README.md").read_text(encoding="utf-8").split("---", 2)
        return len(head) == 3 and not head[0].strip() and "configs" in (yaml.safe_load(head[1]) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError):
        return False


def nothing_in(path: Path, listing: Listing) -> DataError:
    """The error for a folder without readable images."""
    holds = f"it holds {endings(listing.unread)}" if listing.unread else "it holds no files"
    return DataError(
        "dataset",
        str(path),
        f"a folder that holds a dataset of images; {holds}",
        "put images into one folder per class, or give a folder of Parquet files or a saved dataset",
    )
