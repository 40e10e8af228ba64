"""How a label store's epochs stand in Parquet: one row a view, one row group an epoch, and what that costs in bytes."""

from __future__ import annotations

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
from hf_condense.progress import Progress

# one value a batch, repeated in its rows; as a dictionary the repetition is almost free
PER_BATCH = ("epoch", "lam", "mix_box")
TYPES = {
    torch.int32: pa.int32(),
    torch.int64: pa.int32(),  # rows and partners: no set has more than two thousand million images
    torch.bool: pa.bool_(),
    torch.float64: pa.float64(),
    torch.float16: pa.float16(),
    torch.float32: pa.float32(),
}


def expected_bytes(
    epochs: int, images: int, classes: int, batch_size: int, mix: bool, per_value: int = 2, extra: int = 0
) -> int:
    """Bytes of the epochs of a store before it is made, within two percent from a thousand views on.

    Every view has a crop (four numbers of 4 bytes), a flip (a bit), its row (4 bytes), its partner when mixed (4) and
    its logits. Parquet adds what tells one list from the next, some bits a view for the CutMix box, and page headers.

    Args:
        images: views of an epoch.
        per_value: 2 for fp16 logits, 4 for fp32.
        extra: bytes a view of other augmentations (8 each for pad-and-crop and for roll, 8 an operation of RandAugment).
    """
    view = 16 + 1 / 8 + 4 + 4 * mix + per_value * classes + extra
    lists = 0.5 + 3.3 * mix + (classes / 6 if classes < 16 else 4.5)
    per_batch = 13 * mix * math.ceil(images / batch_size)
    return round(epochs * (images * (view + lists) + per_batch + 900 + 400 * mix))


def epoch_table(epoch: int, batches: Iterable[tuple[Tensor, Views, Tensor]]) -> pa.Table:
    """All views of one epoch, in the order in which they are trained on, from (rows, views, logits) of its batches."""
    columns: dict[str, list[Tensor]] = {}
    for rows, views, logits in batches:
        found = {"epoch": torch.full((len(rows),), epoch, dtype=torch.int32), "index": rows}
        for name, value in views.to_tensors().items():
            if name in PER_BATCH:
                value = value.expand(len(rows), *value.shape)
            if name != "count":
                found[name] = value
        for name, value in (found | {"logits": logits.cpu()}).items():
            columns.setdefault(name, []).append(value)
    arrays = {name: to_arrow(torch.cat(parts)) for name, parts in columns.items()}
    # nothing is ever missing: without that, Parquet keeps levels for every value
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()])
    return pa.table(arrays, schema=schema)


def table_batches(columns: dict[str, Tensor], batch_size: int) -> Iterator[tuple[Tensor, Views, Tensor]]:
    """(rows int64 [b], views, logits [b, K]) of each batch of an epoch: what `epoch_table` was given."""
    for start in range(0, len(columns["index"]), batch_size):
        part = {name: value[start : start + batch_size] for name, value in columns.items() if name != "epoch"}
        rows, logits = part.pop("index").long(), part.pop("logits")
        part |= {name: part[name][0] for name in PER_BATCH if name in part}
        if "partner" in part:
            part["partner"] = part["partner"].long()
        if "strips" in part:  # lists are flat in the file
            part["strips"] = part["strips"].unflatten(1, (2, -1))
        yield rows, Views.from_tensors({"count": torch.tensor(len(rows)), **part}), logits


def write_epochs(path: Path, tables: Iterable[pa.Table], progress: Progress | None) -> None:
    """One file, whole or absent. Nothing is compressed: logits do not shrink, and reading stays fast."""
    with atomic_path(path) as temporary:
        writer = None
        for table in tables:
            if writer is None:
                repeated = [name for name in PER_BATCH if name in table.column_names]
                repeated = [f"{name}.list.element" if name == "mix_box" else name for name in repeated]
                writer = pq.ParquetWriter(temporary, table.schema, compression="none", use_dictionary=repeated)
            writer.write_table(table, row_group_size=len(table))
            if progress:
                progress.advance()
        writer.close()


def read_epoch(file: pq.ParquetFile, group: int) -> dict[str, Tensor]:
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
    if pa.types.is_fixed_size_list(array.type):
        return to_tensor(array.flatten()).reshape(len(array), -1)
    # the copy makes it writable, which torch asks for
    return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False)))
