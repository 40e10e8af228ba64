"""Reads Parquet of a distilled dataset as tensors, in no more memory than its record declares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features
from torch import Tensor

from hf_condense.errors import ArtefactError
from hf_condense.files import check_inside, check_room
from hf_condense.hub.artefact import DATA, TENSORS, data_features, decode_png
from hf_condense.hub.record import NEXT

AGAIN = "fetch the dataset again"
ROWS = 256  # read at once
PNG_OVERHEAD = 1 << 16  # bytes of a PNG above twice its pixels


@dataclass
class SetTables:
    """The content of a distilled dataset's files; fields as in `DistilledDataset`, the table with fixed features."""

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    stages: Tensor | None
    float_images: Tensor | None
    class_names: list[str]
    table: pa.Table


def read_tables(folder: Path, content: dict[str, Any]) -> SetTables:
    """Images and labels of a set, checked against its record.

    Raises:
        ArtefactError: a file is missing, damaged, linked to from elsewhere, or holds something else than the record says.
    """
    shape = content["images"]
    n, k, c, h, w = (shape[name] for name in ("count", "classes", "channels", "height", "width"))
    files, soft = parquet_files(folder / DATA, folder), "soft_label" in content
    schema = pq.read_schema(files[0])
    features = data_features(content["class_names"], soft, "pdd_stage" in schema.names)
    check_room(files, n * (c * h * w + 2 * k * soft), folder / DATA, NEXT)
    batches = []
    for batch in _batches(files, n, features, folder / DATA):
        sizes = pa.compute.binary_length(batch.column("image").field("bytes"))
        largest = pa.compute.max(sizes).as_py() or 0
        if largest > 2 * c * h * w + PNG_OVERHEAD:
            allowed = f"PNG of {h} x {w} pixels"
            raise ArtefactError(f"{folder / DATA}: image", f"{largest} bytes", allowed, NEXT)
        batches.append(batch)
    table = pa.Table.from_batches(batches, features.arrow_schema)
    labels = torch.tensor(table["label"].to_numpy())
    _need_range(labels, 0, k - 1, f"{folder / DATA}: label")
    stages = torch.tensor(table["pdd_stage"].to_numpy()).long() if "pdd_stage" in features else None
    if stages is not None:
        _need_range(stages, 0, 100_000, f"{folder / DATA}: pdd_stage")
    return SetTables(
        _decoded(table, n, c, h, w, folder / DATA),
        labels,
        _soft(table, n, k, folder) if soft else None,
        stages,
        _read_tensors(folder, n, (c, h, w)),
        _names(schema, folder),
        table,
    )


def parquet_files(folder: Path, inside: Path) -> list[Path]:
    """All Parquet files of a folder in the order of their names.

    Raises:
        ArtefactError: one is missing, or leads out of `inside`.
    """
    files = sorted(folder.glob("*.parquet"))
    named = re.search(r"-of-(\d+)$", files[0].stem) if files else None
    if named is None or len(files) != int(named[1]):
        found, expected = [file.name for file in files[:3]], int(named[1]) if named else "one or more"
        allowed = f"{expected} Parquet files called <name>-<number>-of-<count>"
        raise ArtefactError(str(folder), found, allowed, AGAIN)
    return [check_inside(inside, file) for file in files]


def _batches(files: list[Path], rows: int, features: Features, place: Path) -> Iterator[pa.RecordBatch]:
    """The rows of files, some at a time, once their number and types are those of the record."""
    wanted, opened = features.arrow_schema, [pq.ParquetFile(file) for file in files]
    found = sum(file.metadata.num_rows for file in opened)
    if found != rows:
        raise ArtefactError(f"{place}: rows", found, f"{rows}, as recorded", NEXT)
    for file in opened:
        if not file.schema_arrow.remove_metadata().equals(wanted.remove_metadata()):
            said = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
            allowed = ", ".join(f"{field.name} {field.type}" for field in wanted)
            raise ArtefactError(f"{place}: columns", said, allowed, NEXT)
        for batch in file.iter_batches(ROWS, columns=wanted.names):
            empty = [name for name in wanted.names if batch.column(name).null_count]
            if empty:
                raise ArtefactError(f"{place}: {empty[0]}", "empty cells", "a value in each row", NEXT)
            yield pa.RecordBatch.from_arrays(batch.columns, schema=wanted)


def _need_range(values: Tensor, low: int, high: int, place: str) -> None:
    found = int(values.min()), int(values.max())
    if found[0] < low or found[1] > high:
        raise ArtefactError(place, f"{found[0]} to {found[1]}", f"{low} to {high}", NEXT)


def _need_finite(values: Tensor, place: str) -> None:
    if not values.isfinite().all():
        raise ArtefactError(
            place,
            "infinite, or not a number",
            "finite numbers",
            "ask whoever published it: no student can train with them",
        )


def _decoded(table: pa.Table, n: int, c: int, h: int, w: int, place: Path) -> Tensor:
    """uint8 [N, C, H, W] of the PNG files in the table."""
    pixels, encoded = np.empty((n, c, h, w), np.uint8), table["image"].to_pylist()

    def decode(row: int) -> None:
        try:
            pixels[row] = decode_png(encoded[row]["bytes"], c, h, w)
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            raise ArtefactError(f"{place} row {row} image", str(error), "a whole PNG", AGAIN) from None

    with ThreadPoolExecutor() as threads:
        list(threads.map(decode, range(n)))
    return torch.from_numpy(pixels)


def _soft(table: pa.Table, n: int, k: int, folder: Path) -> Tensor:
    """float16 [N, K]."""
    # through Arrow: a row at a time costs 0.25 us an element
    found = torch.from_numpy(table["soft_label"].combine_chunks().flatten().to_numpy().reshape(n, k).copy())
    _need_finite(found, f"{folder / DATA}: soft_label")
    return found


def _names(schema: pa.Schema, folder: Path) -> list[str]:
    """Class names as stored in the files, for readers without this library."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ArtefactError(f"{folder / DATA}: label", "no class names", "the names in the schema", NEXT)


def _read_tensors(folder: Path, n: int, shape: tuple[int, ...]) -> Tensor | None:
    """float32 [N, C, H, W], where the set has such images."""
    place, one = folder / TENSORS, int(np.prod(shape))
    if not place.is_dir():
        return None
    files = parquet_files(place, folder)
    check_room(files, 4 * n * one, place, NEXT)
    found, row = np.empty((n, one), np.float32), 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=["tensor"]):
            values = batch.column("tensor")
            values = values.storage if isinstance(values, pa.ExtensionArray) else values
            while not pa.types.is_floating(values.type):
                values = values.flatten()
            if values.type != pa.float32() or len(values) != len(batch) * one or row + len(batch) > n:
                raise ArtefactError(
                    str(place), f"{len(values)} values {values.type}", f"float32 images {list(shape)}", NEXT
                )
            found[row : row + len(batch)] = values.to_numpy().reshape(len(batch), one)
            row += len(batch)
    if row != n:
        raise ArtefactError(f"{place}: rows", row, f"{n}, as recorded", NEXT)
    images = torch.from_numpy(found).reshape(n, *shape)
    _need_finite(images, str(place))
    return images
