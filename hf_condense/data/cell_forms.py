"""Columns that hold images in another form than `datasets.Image`: bytes beside a path, file paths, arrays of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_condense.data.embedded import png
from hf_condense.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

CHANNELS = (1, 3, 4)
DEEPEST = 65535  # largest value of a pixel of 16 bits


def is_binary(feature: Any) -> bool:
    """Whether a column of this type holds encoded bytes."""
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def is_text(feature: Any) -> bool:
    """Whether a column of this type holds strings."""
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_cell(feature: Any) -> bool:
    """Whether a column of this type holds {bytes, path}, as the Image feature stores it (pandas and polars drop the type)."""
    return isinstance(feature, dict) and is_binary(feature.get("bytes")) and set(feature) <= {"bytes", "path"}


def holds_pixels(feature: Any) -> bool:
    """Whether a column of this type holds arrays of two or three axes of numbers."""
    axes, kind = _axes(feature)
    return axes in (2, 3) and kind not in ("string", "large_string", None)


def holds_lists_of_images(feature: Any) -> bool:
    """Whether a column of this type holds several images in a row."""
    from datasets import Image

    inner = _inner(feature)
    return inner is not None and (isinstance(inner, Image) or is_cell(inner))


def with_single_images(table: Dataset) -> Dataset:
    """The table with lists that hold one image in every row as plain images; other lists stay as they are."""
    import pyarrow.compute as pc
    from datasets import Features, Image, List

    for column in [name for name, feature in table.features.items() if holds_lists_of_images(feature)]:
        values = table.select_columns([column]).with_format("arrow")[:].column(0)
        if len(values) and pc.unique(pc.list_value_length(values)).to_pylist() == [1]:
            features = Features({**table.features, column: Image()})
            table = table.cast_column(column, List(Image(decode=False)))
            table = table.map(lambda row, name=column: {name: row[name][0]}, features=features)
    return table


def is_list(feature: Any) -> bool:
    """Whether a column of this type holds lists."""
    return _inner(feature) is not None


def _inner(feature: Any) -> Any:
    """The type of the entries of a list, or None."""
    from datasets import LargeList, List

    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.feature if isinstance(feature, (List, LargeList)) else None


def _axes(feature: Any) -> tuple[int, str | None]:
    """Number of axes and type of the numbers of a column of arrays; (0, None) where it is none."""
    from datasets import Array2D, Array3D, Value

    if isinstance(feature, (Array2D, Array3D)):
        return len(feature.shape), feature.dtype
    axes = 0
    while (inner := _inner(feature)) is not None:
        feature, axes = inner, axes + 1
    return (axes, feature.dtype) if isinstance(feature, Value) else (0, None)


def image_cells(table: Dataset, column: str, root: Path | None, split: str) -> Dataset:
    """A Dataset with this one column as images that are not decoded.

    Args:
        root: folder that relative paths start from; None leaves them as they are.

    Raises:
        DataError: arrays of pixels with an ambiguous range or shape.
    """
    from datasets import Dataset, Features, Image

    table = table.with_format(None).select_columns([column])
    feature = table.features[column]
    if holds_pixels(feature):
        dtype = _pixel_type(table, column, _axes(feature)[1], split)

        def encode(batch: dict[str, list]) -> dict[str, list]:
            return {
                column: [{"bytes": _encoded(value, dtype, column, split), "path": None} for value in batch[column]]
            }

        return table.map(encode, batched=True, batch_size=256, features=Features({column: Image(decode=False)}))
    if is_text(feature) and root is not None:
        paths = table.with_format("arrow")[:].column(0).to_pylist()
        cells = [{"bytes": None, "path": str(root / path) if path else None} for path in paths]
        return Dataset.from_dict({column: cells}, features=Features({column: Image(decode=False)}))
    if is_cell(feature):
        table = _plain_cells(table, column)
    return table.cast_column(column, Image(decode=False))


def _plain_cells(table: Dataset, column: str) -> Dataset:
    """{bytes, path} with both fields and of the types that the Image feature knows."""
    from datasets import Features, Value

    known = {"bytes": Value("binary"), "path": Value("string")}
    if set(table.features[column]) < set(known):

        def whole(batch: dict[str, list]) -> dict[str, list]:
            return {column: [{"bytes": cell and cell["bytes"], "path": None} for cell in batch[column]]}

        return table.map(whole, batched=True, features=Features({column: known}))
    return table.cast(Features({column: known}))


def _pixel_type(table: Dataset, column: str, dtype: str, split: str) -> type:
    """uint8 or uint16, whichever holds all values of the column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if dtype in ("uint8", "bool"):
        return np.uint8
    if "int" not in dtype:
        raise DataError(
            column,
            f"{dtype} in split {split}",
            "pixels as whole numbers, 0 to 255 (floating point has no agreed range)",
            "multiply them so that white is 255 and store uint8",
        )
    low, high = 0, 0
    arrow = table.with_format("arrow")
    for start in range(0, len(arrow), 1000):
        for values in arrow[start : start + 1000].column(0).chunks:
            values = values.storage if isinstance(values, pa.ExtensionArray) else values
            while (
                pa.types.is_list(values.type)
                or pa.types.is_large_list(values.type)
                or pa.types.is_fixed_size_list(values.type)
            ):
                values = values.flatten()
            found = pc.min_max(values).as_py()
            low, high = min(low, found["min"] or 0), max(high, found["max"] or 0)
    if low < 0 or high > DEEPEST:
        raise DataError(
            column,
            f"{low} to {high} in split {split}",
            "pixels from 0 to 255, or to 65535 of 16 bits",
            "scale them and store uint8",
        )
    return np.uint8 if high <= 255 else np.uint16


def _encoded(value: Any, dtype: type, column: str, split: str) -> bytes:
    """PNG bytes of an array [H, W], [H, W, C] or [C, H, W]; None for an empty cell."""
    if value is None:
        return b""
    try:
        pixels = np.asarray(value)
        pixels = (255 * pixels if pixels.dtype == bool else pixels).astype(dtype)
    except ValueError:  # rows of different lengths
        raise DataError(
            column, f"rows of pixels of different lengths in split {split}", "arrays [height, width]", "mend them"
        ) from None
    if pixels.ndim == 3 and pixels.shape[-1] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    deep = pixels.ndim == 3 and dtype is np.uint16
    if deep or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in CHANNELS):
        raise DataError(
            column,
            f"arrays {list(pixels.shape)} of {np.dtype(dtype).name} in split {split}",
            "[height, width], or uint8 with 1, 3 or 4 channels first or last",
            "store them so",
        )
    return png(np.ascontiguousarray(pixels))
