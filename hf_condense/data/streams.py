"""Streams are read once: the rows that a run needs are gathered into a local Arrow file."""

from __future__ import annotations

import atexit
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_condense.data.cache import cache_folder, one_at_a_time
from hf_condense.data.cells import refuse_local_file
from hf_condense.data.decoding import cell_bytes
from hf_condense.data.randomness import Key
from hf_condense.data.reading import clear_dataset_errors
from hf_condense.files import atomic_path, fingerprint

logger = logging.getLogger(__name__)


def features_of(dataset: Any) -> Any:
    """`datasets.Features` of a Dataset or stream (for a stream without features, those of its first row)."""
    from datasets import Dataset

    if dataset.features is not None:
        return dataset.features
    first = next(iter(dataset), None)
    return Dataset.from_list([first]).features if first else {}


def gather(
    stream: Any,
    image_column: str,
    label_column: str,
    *,
    keep: Callable[[Any], bool] | None,
    limit: int | None,
    key: Key,
    identity: list | None,
    hub: bool,
) -> Any:
    """A memory-mapped Dataset with the image and label columns of a stream, images still encoded.

    Args:
        keep: which labels to keep; defaults to all.
        limit: at most this many images of a class, a uniform draw over the whole stream (reservoir, kept in memory).
        identity: identifies the content of the stream, so that later runs reuse the file. None: it is deleted with
            the process.
        hub: whether it comes from the Hub, so that it must not name files of this machine.

    Raises:
        DataError: the stream breaks off, or names a file that did not come from the Hub.
        ArtefactError: the file cannot be written.
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value

    if identity is None:
        folder = Path(tempfile.mkdtemp(prefix="hf_condense-stream-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder = cache_folder() / "streams"
    path = folder / f"{fingerprint([identity, image_column, label_column, limit, list(key.parts)])}.arrow"
    with one_at_a_time(path):
        if not path.exists():
            label = features_of(stream)[label_column]
            kind = label if isinstance(label, ClassLabel) else Value(label.dtype)
            features = Features({image_column: Image(decode=False), label_column: kind})
            rows = _encoded(stream, image_column, label_column, keep, hub)
            rows = rows if limit is None else _reservoir(rows, label_column, limit, key)
            with atomic_path(path) as temporary:
                _write(rows, features, temporary)
            logger.info("gathered the stream into %s (%.2f GB)", path, path.stat().st_size / 1e9)
    return Dataset.from_file(str(path))


def _encoded(stream: Any, image_column: str, label_column: str, keep: Callable | None, hub: bool) -> Iterator[dict]:
    """Rows with encoded bytes, of the labels to keep."""
    from datasets import Image

    feature = Image(decode=False)
    if stream.features is not None:  # else images come decoded, and are encoded again without loss
        stream = stream.cast_column(image_column, feature)
    name = stream.info.dataset_name or "stream"
    with clear_dataset_errors(name, None, None):  # a broken connection is not a disk that cannot be written to
        for number, row in enumerate(stream):
            if keep is not None and not keep(row[label_column]):
                continue
            try:
                cell = row[image_column]
                if not isinstance(cell, dict):
                    cell = feature.encode_example(cell)
                if hub:
                    refuse_local_file(cell, f"{image_column}, row {number} of the stream")
                encoded = cell_bytes(cell)
            except (ValueError, FileNotFoundError) as error:
                # stored as an empty cell, so that it is reported and counted as other damaged images are
                logger.warning("row %d of the stream has no image: %s", number, error)
                encoded = b""
            yield {image_column: {"bytes": encoded, "path": None}, label_column: row[label_column]}


def _reservoir(rows: Iterator[dict], label_column: str, limit: int, key: Key) -> Iterator[dict]:
    """At most `limit` rows of each label, each subset equally likely (Vitter's algorithm R), in stream order."""
    kept: dict[Any, list[tuple[int, dict]]] = {}
    seen: dict[Any, int] = {}
    draws: dict[Any, np.random.Generator] = {}
    for number, row in enumerate(rows):
        label = row[label_column]
        seen[label] = seen.get(label, 0) + 1
        held = kept.setdefault(label, [])
        if len(held) < limit:
            held.append((number, row))
            continue
        place = int(draws.setdefault(label, (key / str(label)).numpy()).integers(seen[label]))
        if place < limit:
            held[place] = (number, row)
    for _, row in sorted((item for held in kept.values() for item in held), key=lambda item: item[0]):
        yield row


def _write(rows: Iterator[dict], features: Any, path: Path) -> None:
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(path), features=features, writer_batch_size=256) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


def limit_before_hold_out(limit: int | None, fraction: float) -> int | None:
    """How many images of a class to gather so that `limit` are left after a hold-out of that fraction."""
    return None if limit is None else math.ceil(limit / (1 - fraction)) + 1
