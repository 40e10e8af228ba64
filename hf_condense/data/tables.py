"""Tables (CSV, JSON, Parquet) whose rows name image files: the paths become images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hf_condense.data.cell_forms import is_text
from hf_condense.data.columns import LABEL_NAMES
from hf_condense.data.folders import SPLIT_NAMES
from hf_condense.data.listing import Listing, some
from hf_condense.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as `datasets` calls tables beside images
PATHS = "paths of hf-condense"  # temporary name of a column while it is replaced
LOOKED_AT = 100  # rows by which a column of paths is recognised


def read_table(file: Path) -> Dataset:
    """All rows of a table.

    Raises:
        DataError: it is damaged, empty or of another kind.
    """
    from datasets import load_dataset

    ending = file.suffix.lower()
    tabs = {"sep": "\t"} if ending == ".tsv" else {}
    try:
        # escaped, because `datasets` takes [ and * in a name for a pattern
        return load_dataset(READERS[ending], data_files=escape(str(file)), split="train", **tabs)
    except Exception as error:  # each reader raises its own
        if ending in (".parquet", ".arrow"):  # explained where all data files are
            raise
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        step = "mend it, or move it out of the folder"
        raise DataError("dataset", str(file), f"a table that can be read ({reason})", step) from error


def with_images(table: Dataset, places: Sequence[Path]) -> Dataset:
    """The table with every column of text that names files below one of these folders as a column of images.

    Columns of absolute paths, or of those that lead out of the folder, are left as they are: a table that came from
    elsewhere must not choose them. A person names such a column with --image_column.

    Raises:
        DataError: a few rows of a column lead out of the folder.
    """
    from datasets import Image

    order = table.column_names
    for column in [name for name, feature in table.features.items() if is_text(feature)]:
        head = _values(table.select(range(min(LOOKED_AT, len(table)))), column)
        root = next((place for place in places if _names_files(head, place)), None)
        if root is not None:
            paths = _values(table, column)
            _need_inside(column, paths)
            cells = [{"bytes": None, "path": str(root / path) if path else None} for path in paths]
            table = table.rename_column(column, PATHS).add_column(column, cells).cast_column(column, Image())
            table = table.remove_columns(PATHS)
    return table.select_columns(order)


def _need_inside(column: str, paths: list[str | None]) -> None:
    outside = [(row, path) for row, path in enumerate(paths) if path and not _inside(path)]
    if outside:
        row, path = outside[0]
        raise DataError(
            column,
            path,
            f"files below the folder of the table; {len(outside)} of {len(paths)} rows, the first of them row "
            f"{row}, name others",
            "take those rows out, or copy the files there",
        )


def _values(table: Dataset, column: str) -> list[Any]:
    return table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()


def _inside(value: str | None) -> bool:
    return bool(value) and not Path(value).is_absolute() and ".." not in PurePosixPath(value).parts


def _names_files(values: list[str | None], root: Path) -> bool:
    """Whether most of these values are files below `root`."""
    found = [_inside(value) and (root / value).is_file() for value in values]
    return sum(found) * 2 > len(found)


def described_images(root: Path, listing: Listing, label_column: str | None) -> dict[str, Dataset] | None:
    """Split -> table that names the images of a folder and their labels; None where no table in it does.

    The tables lie in the folder itself or in its folders of splits (metadata.csv). One that is called as a split is
    that split; the rows of another one belong to the split in whose folder their image lies.

    Args:
        label_column: name of the column of labels; else it is one that is called as labels are.

    Raises:
        DataError: several tables for one split.
    """
    found = _describing(root, listing, label_column)
    splits: dict[str, Dataset] = {}
    for file, table in found.items():
        named = [SPLIT_NAMES.get(part.lower()) for part in (file.stem, *file.parts[:-1])]
        name = next((split for split in named if split), None)
        for split, part in ({name: table} if name else _by_folder(table, root)).items():
            if split in splits:
                raise DataError(
                    "dataset",
                    str(root),
                    f"one table for split {split}; {some(found)} name its images",
                    f"give one of them, for example {root / file}",
                )
            splits[split] = part
    if splits:
        _warn_of_unnamed(root, listing, splits)
    return splits or None


def _describing(root: Path, listing: Listing, label_column: str | None) -> dict[PurePosixPath, Dataset]:
    """The tables that name images and their labels."""
    found = {}
    for file in listing.others:
        near = len(file.parts) == 1 or (len(file.parts) == 2 and file.name in METADATA)
        if not near or file.suffix.lower() not in READERS:
            continue
        table = with_images(read_table(root / file), [(root / file).parent])
        if not image_columns(table):
            if file.name in METADATA:
                logger.warning("%s: %s is not used: it names no image that is there", root, file)
            continue
        columns = [name for name in table.column_names if name not in image_columns(table)]
        if label_column in columns or any(name in LABEL_NAMES for name in columns):
            found[file] = table
        else:
            step = f"--label_column {columns[0]} takes one of them" if columns else "it has no other columns"
            logger.warning(
                "%s: %s names images but is not used: no column is called as labels are (%s). %s",
                root,
                file,
                some(columns) or "none",
                step,
            )
    return found


def image_columns(table: Dataset) -> list[str]:
    """Names of its columns of images."""
    from datasets import Image

    return [name for name, feature in table.features.items() if isinstance(feature, Image)]


def _paths(table: Dataset) -> list[str | None]:
    from datasets import Image

    column = image_columns(table)[0]
    return [cell and cell["path"] for cell in _values(table.cast_column(column, Image(decode=False)), column)]


def _by_folder(table: Dataset, root: Path) -> dict[str, Dataset]:
    """The rows by the split whose folder their image lies in; all of them as "train" where some lie in none."""
    tops = [Path(path).relative_to(root).parts[0].lower() if path else "" for path in _paths(table)]
    names = [SPLIT_NAMES.get(top) for top in tops]
    if "train" not in names or None in names:
        return {"train": table}
    return {split: table.select([i for i, n in enumerate(names) if n == split]) for split in dict.fromkeys(names)}


def _warn_of_unnamed(root: Path, listing: Listing, splits: dict[str, Dataset]) -> None:
    paths = [path for table in splits.values() for path in _paths(table) if path]
    named = set(paths)
    if len(named) < len(paths):
        logger.warning(
            "%s: %d of %d rows name an image that another row names too", root, len(paths) - len(named), len(paths)
        )
    unnamed = [file for file in listing.images if str(root / file) not in named]
    if unnamed:
        logger.warning(
            "%s: %d of %d images are not used, because no row of a table names them: %s",
            root,
            len(unnamed),
            len(listing.images),
            some(unnamed),
        )
