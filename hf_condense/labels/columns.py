"""Epochs of a label store in Parquet: one row a view, whole epochs in a row group, and their size in bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hf_condense.data.augmentation import Views
from hf_condense.files import atomic_path
from hf_condense.labels.encodings import HALF, Encoding

FAST, ZSTD = 1, 9  # floats compress no better at higher levels; for codes, levels above 9 cost many times the time
# one value a batch or an epoch, repeated in its rows; as a dictionary the repetition is almost free
PER_BATCH = ("epoch", "drawn", "lam", "mix_box")
TYPES = {
    torch.uint8: pa.uint8(),
    torch.int32: pa.int32(),
    torch.int64: pa.int32(),  # rows and partners: no set has more than two thousand million images
    torch.bool: pa.bool_(),
    torch.float64: pa.float64(),
    torch.float16: pa.float16(),
    torch.float32: pa.float32(),
}


def expected_bytes(
    epochs: int,
    images: int,
    classes: int,
    batch_size: int,
    mix: bool,
    encoding: Encoding = HALF,
    extra: int = 0,
    views: str = "explicit",
) -> int:
    """Bytes of the epochs of a store before it is made and compressed; of floats within two percent from a thousand
    views on. Files are smaller: logits of trained networks and views by a tenth to a half, codes by more.

    Every view has its label and, where views are explicit, a crop (four numbers of 4 bytes), a flip (a bit), its row (4
    bytes) and its partner when mixed (4). Parquet adds the levels of lists, some bits a view for the CutMix box, and
    page headers.

    Args:
        images: views of an epoch.
        extra: bytes a view of other augmentations (8 each for pad-and-crop and for roll, 8 an operation of RandAugment).
        views: "explicit", or "keyed" where they are drawn again.
    """
    label, lists = encoding.view_bytes(classes), classes / 6 if classes < 16 else 4.5
    if views == "keyed":
        return round(epochs * (images * (label + lists) + 500))
    view = 16 + 1 / 8 + 4 + 4 * mix + label + extra
    lists += 0.5 + 3.3 * mix
    per_batch = 13 * mix * math.ceil(images / batch_size)
    return round(epochs * (images * (view + lists) + per_batch + 900 + 400 * mix))


def epoch_table(
    epoch: int,
    batches: Iterable[tuple[Tensor, Views, Tensor]],
    encoding: Encoding = HALF,
    views: str = "explicit",
) -> pa.Table:
    """All views of one epoch, in the order in which they are trained on, from (rows, views, logits) of its batches.

    Of "keyed" views only the digest is stored.
    """
    columns: dict[str, list[Tensor]] = {}
    drawn: list[tuple[Tensor, Views]] = []
    for rows, batch_views, logits in batches:
        found = {"epoch": torch.full((len(rows),), epoch, dtype=torch.int32)}
        if views == "explicit":
            found |= {"index": rows, **_view_columns(batch_views)}
        else:
            drawn.append((rows, batch_views))
        for name, value in (found | encoding.encode(logits)).items():
            columns.setdefault(name, []).append(value.cpu())
    tensors = {name: torch.cat(parts) for name, parts in columns.items()}
    if views == "keyed":
        tensors["drawn"] = torch.full_like(tensors["epoch"], views_digest(drawn))
    return to_table(tensors)


def _view_columns(views: Views) -> dict[str, Tensor]:
    found = views.to_tensors()
    found.pop("count")
    return {n: v.expand(views.count, *v.shape) if n in PER_BATCH else v for n, v in found.items()}


def views_digest(drawn: Iterable[tuple[Tensor, Views]]) -> int:
    """A 31-bit digest of the rows and views of an epoch's batches."""
    digest = hashlib.sha256()
    for rows, views in drawn:
        for name, value in {"rows": rows, **views.to_tensors()}.items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy())
    return int.from_bytes(digest.digest()[:4], "big") >> 1


def to_table(tensors: dict[str, Tensor]) -> pa.Table:
    """Columns of numbers [n], or lists where a tensor has more axes."""
    arrays = {name: to_arrow(value) for name, value in tensors.items()}
    # no value is missing; declaring that saves Parquet's levels for every value
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()])
    return pa.table(arrays, schema=schema)


def table_batches(columns: dict[str, Tensor], sizes: int | list[int]) -> Iterator[tuple[Tensor, Views, Tensor]]:
    """(rows int64 [b], views, logits [b, K]) of each batch of an epoch, as `epoch_table` took them.

    Args:
        sizes: of the batches; one number where only the last may be short.
    """
    parts = {name: value.split(sizes) for name, value in columns.items() if name != "epoch"}
    for values in zip(*parts.values(), strict=True):
        part = dict(zip(parts, values))
        rows, logits = part.pop("index").long(), part.pop("logits")
        part |= {name: part[name][0] for name in PER_BATCH if name in part}
        if "partner" in part:
            part["partner"] = part["partner"].long()
        if "strips" in part:  # lists are flat in the file
            part["strips"] = part["strips"].unflatten(1, (2, -1))
        yield rows, Views.from_tensors({"count": torch.tensor(len(rows)), **part}), logits


def write_epochs(path: Path, tables: Iterable[pa.Table], encoding: Encoding = HALF) -> None:
    """Writes a file atomically, with a row group for each table."""
    with atomic_path(path) as temporary:
        writer = None
        for table in tables:
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema, **_layout(table.schema, encoding))
            writer.write_table(table, row_group_size=len(table))
        writer.close()


def _layout(schema: pa.Schema, encoding: Encoding) -> dict:
    """Options of the Parquet writer: which columns are dictionaries, and how they are compressed.

    Pages are indexed, so that a viewer reads some rows without the rest of their group. Floats are compressed as they
    are: split in planes they would be a tenth smaller, but DuckDB does not read such float16.
    """
    leaves = {f.name: f"{f.name}.list.element" if pa.types.is_fixed_size_list(f.type) else f.name for f in schema}
    repeated = [leaves[name] for name in (*PER_BATCH, *encoding.repeated) if name in leaves]
    common = {"compression": "zstd", "use_dictionary": repeated, "write_page_index": True}
    if not encoding.levels:
        return {**common, "compression_level": FAST}
    # Parquet has no numbers below 32 bits: split in planes, the bytes that are always zero compress to nothing
    planes = {leaves["codes"]: "BYTE_STREAM_SPLIT"}
    # Arrow's own schema beside Parquet's would be a third of a small packed store
    return {
        **common,
        "compression_level": ZSTD,
        "column_encoding": planes,
        "write_statistics": False,
        "store_schema": False,
    }


def read_group(file: pq.ParquetFile, group: int) -> dict[str, Tensor]:
    """The columns of one row group; int32 numbers [n], or [n, m] for lists."""
    table = file.read_row_group(group)
    return {name: to_tensor(table.column(name).combine_chunks()) for name in table.column_names}


def to_arrow(tensor: Tensor) -> pa.Array:
    """A column: numbers [n], or fixed-size lists of what follows the first axis. int64 becomes int32."""
    values = tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor
    array = pa.array(values.reshape(-1).numpy(), TYPES[tensor.dtype])
    if tensor.ndim == 1:
        return array
    kind = pa.list_(pa.field("element", array.type, nullable=False), math.prod(tensor.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(array, type=kind)


def to_tensor(array: pa.Array) -> Tensor:
    """The tensor [n] or [n, m] of a column."""
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        return to_tensor(array.flatten()).reshape(len(array), -1)
    # torch requires a writable array
    return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False)))
