"""What every student of a result saw in every test image, as Parquet: lets anyone recompute the counts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.limits import need, refuse
from hf_condense.leaderboard.result import PredictionsFile

if TYPE_CHECKING:
    from hf_condense.leaderboard.scoring import Run

_KEYS = ("regime", "student", "seed")
_SLACK = 100_000  # bytes of Parquet beside the numbers


def write_predictions(runs: Iterable[Run]) -> bytes:
    """A row a student: regime, student, seed, and class numbers of the test images. Equal runs give equal bytes."""
    runs = list(runs)
    kind = pa.from_numpy_dtype(runs[0].predictions.dtype)
    flat = pa.array(np.concatenate([run.predictions for run in runs]), kind)
    seen = pa.FixedSizeListArray.from_arrays(flat, len(runs[0].predictions))
    columns = {name: [getattr(run, name) for run in runs] for name in _KEYS}
    table = pa.table({**columns, "predictions": seen})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def describe_predictions(data: bytes) -> PredictionsFile:
    """The entry of a result for a file of predictions."""
    return PredictionsFile(hashlib.sha256(data).hexdigest(), len(data))


def read_predictions(data: bytes, columns: Sequence[Column]) -> dict[tuple[str, str, int], np.ndarray]:
    """(regime, student, seed) -> class numbers [M], of a file that anyone may have written.

    Sizes are checked from the file's metadata before anything is decoded.

    Raises:
        ArtefactError: it is no such file, or has other rows than the columns.
    """
    runs, tested = sum(len(c.seeds) for c in columns), columns[0].tested
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        facts = file.metadata
        size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        limit = 4 * runs * tested + _SLACK
        need(facts.num_rows == runs, "predictions: rows", facts.num_rows, f"a row a student ({runs})")
        need(size <= limit, "predictions: size", size, f"at most {limit} bytes when decoded")
        names = file.schema_arrow.names
        need(names == [*_KEYS, "predictions"], "predictions: columns", names, ", ".join([*_KEYS, "predictions"]))
        kind = file.schema_arrow.field("predictions").type
        small = pa.types.is_fixed_size_list(kind) and kind.value_type in (pa.uint8(), pa.uint16())
        need(small and kind.list_size == tested, "predictions: type", kind, f"uint8 or uint16 [{tested}]")
        table = file.read()
        seen = table["predictions"].combine_chunks()
        need(seen.null_count == 0 and len(seen.flatten()) == runs * tested, "predictions", "null", "numbers")
        rows = seen.flatten().to_numpy(zero_copy_only=False).reshape(runs, tested)
        keys = zip(*(table[name].to_pylist() for name in _KEYS))
        return dict(zip(keys, rows))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        refuse("predictions", str(error), "a Parquet file of predictions")


def recount(data: bytes, columns: Sequence[Column], labels: np.ndarray) -> None:
    """Refuses columns whose counts are not those of the predictions.

    Args:
        labels: int64 [M] of the test images, in the board's order.
    """
    need(columns[0].tested == len(labels), "tested", columns[0].tested, f"{len(labels)} test images")
    seen = read_predictions(data, columns)
    for i, column in enumerate(columns):
        for seed, correct in zip(column.seeds, column.correct):
            found = seen.get((column.regime, column.student, seed))
            place = f"columns[{i}].correct of seed {seed}"
            need(found is not None, place, "no predictions", "a row of predictions for each student")
            right = int((found == labels).sum())
            need(right == correct, place, correct, f"{right}, as the predictions have it")
