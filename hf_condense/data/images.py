"""The images of one split: labels at once, pixels decoded once, in memory or on disk."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hf_condense.data.cache import cache_folder, note_use, one_at_a_time
from hf_condense.data.decoding import (
    DECODING_VERSION,
    PixelFormat,
    cell_bytes,
    map_ahead,
    open_image,
    plain_mode,
    to_pixels,
    worker_count,
)
from hf_condense.data.image_spec import ImageSpec
from hf_condense.errors import DataError
from hf_condense.files import atomic_path, fingerprint
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 32  # images a thread decodes at a time


class ImageSource:
    """Labelled images of one split. Made by `open_source`; rows are numbered 0 to N-1 here.

    Args:
        table: dataset with one column, the images, not decoded.
        rows: row of `table` for each image, int64 [N].
        labels: class of each image, int64 [N].
        class_names: names in label order.
        pixels: format of decoded images.
        split: name of the split, for messages.
        license: of the source dataset, where known.
        decode_gb: decoded images up to this size stay in memory; of larger sets, images are decoded as they are used.
    """

    def __init__(
        self,
        table: Dataset,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        pixels: PixelFormat,
        split: str = "train",
        license: str | None = None,
        decode_gb: float = 4.0,
    ) -> None:
        self.table, self.rows, self.labels = table, np.asarray(rows, np.int64), np.asarray(labels, np.int64)
        self.class_names, self.pixel_format = tuple(class_names), pixels
        self.split, self.license, self.decode_gb = split, license, decode_gb
        self._arrow = table.with_format("arrow")
        self._decoded: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def spec(self) -> ImageSpec:
        """The input specification of networks on these images."""
        return replace(self.plain_spec, class_names=self.class_names)

    @property
    def plain_spec(self) -> ImageSpec:
        """`spec` without class names: for networks from scratch, whose heads are not compared with anything."""
        return ImageSpec(self.num_classes, self.image_size, self.mean, self.std, self.channels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.pixel_format.channels

    @property
    def image_size(self) -> int:
        return self.pixel_format.image_size

    @property
    def stored_size(self) -> int:
        return self.pixel_format.stored_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.pixel_format.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.pixel_format.std

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, S, S) of the decoded images."""
        return (len(self), self.channels, self.stored_size, self.stored_size)

    @property
    def fits_in_memory(self) -> bool:
        """Whether the decoded images take at most `decode_gb`."""
        return math.prod(self.shape) <= self.decode_gb * 1e9

    @cached_property
    def _by_class(self) -> list[np.ndarray]:
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.searchsorted(self.labels[order], np.arange(1, self.num_classes)))

    def rows_of(self, c: int) -> np.ndarray:
        """Rows of class `c`, ascending, int64."""
        return self._by_class[c]

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageSource:
        """The images of these rows, in this order, with the same classes. Decoded images are reused."""
        rows = np.asarray(rows, np.int64)
        part = ImageSource(
            self.table,
            self.rows[rows],
            self.labels[rows],
            self.class_names,
            self.pixel_format,
            self.split,
            self.license,
            self.decode_gb,
        )
        if self._decoded is not None and part.fits_in_memory:
            part._decoded = self._decoded[torch.from_numpy(rows)]
        return part

    def with_pixels(self, pixels: PixelFormat) -> ImageSource:
        """The same images decoded to another size or number of channels."""
        return ImageSource(
            self.table, self.rows, self.labels, self.class_names, pixels, self.split, self.license, self.decode_gb
        )

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of pixels, labels, class names and pixel format; independent of the files' location.

        All encoded images are hashed up to 4 GB; above it 4,096 of them, and the length of every one. Cells without an
        image count as such.
        """
        digest = hashlib.sha256()
        digest.update(self.labels.tobytes())
        lengths = _encoded_lengths(self._arrow, self.rows)
        digest.update(lengths.tobytes())
        every = 1 if lengths.sum() <= 4e9 and len(self) <= 200_000 else -(-len(self) // 4096)
        sample = np.arange(0, len(self), every)
        for chunk in np.array_split(sample, max(1, len(sample) // 256)):
            for cell in self._cells(chunk):
                try:
                    digest.update(hashlib.sha256(cell_bytes(cell)).digest())
                except (ValueError, OSError):  # reported when it is decoded, unless it was left out before
                    digest.update(b"no image")
        return fingerprint([digest.hexdigest(), list(self.class_names), self.channels, self.image_size])

    def images(self, rows: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """uint8 [n, C, S, S] of these rows (defaults to all), S = `stored_size`.

        Raises:
            DataError: an image does not decode; row, column and, where it is one, its file are named.
        """
        if rows is None:
            return self.decoded()
        rows = np.asarray(rows, np.int64)
        if self._decoded is not None:
            return self._decoded[torch.from_numpy(rows)]
        return torch.from_numpy(self._filled(self._decode(rows), len(rows)))

    def decoded(self) -> torch.Tensor:
        """uint8 [N, C, S, S] of the whole split, decoded once.

        In memory up to `decode_gb`, above it a memory-mapped file in `cache_folder()` that later runs reuse. The
        array is read-only: writing to it would kill the process.
        """
        if self._decoded is None:
            if self.fits_in_memory:
                self._decoded = torch.from_numpy(
                    self._filled(self._shown(self._decode(np.arange(len(self)))), len(self))
                )
            else:
                self._decoded = self._memory_mapped()
        return self._decoded

    def _filled(self, parts: Iterable[np.ndarray], count: int) -> np.ndarray:
        out, at = np.empty((count, *self.shape[1:]), np.uint8), 0
        for part in parts:
            out[at : at + len(part)] = part
            at += len(part)
        return out

    def _shown(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same chunks, with a progress bar if decoding takes long."""
        long = math.prod(self.shape) > 2e8 and os.environ.get("RANK", "0") == "0"
        with Progress(f"decode {self.split}", len(self), show=long) as progress:
            for part in parts:
                yield part
                progress.advance(len(part))

    @property
    def decoded_file(self) -> Path:
        """The file of decoded images that do not fit in memory."""
        return cache_folder() / "decoded" / f"{fingerprint([DECODING_VERSION, self.fingerprint])}.npy"

    def _memory_mapped(self) -> torch.Tensor:
        path = self.decoded_file
        with one_at_a_time(path):
            if not path.exists():
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    # written in row order rather than through a map: a full disk is then an error, not a crash
                    header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    for part in self._shown(self._decode(np.arange(len(self)))):
                        file.write(part.tobytes())
        note_use(f"decoded images of {self.split}", path)
        with warnings.catch_warnings():
            # a map that could be written to counts in full against memory and swap; nothing writes into decoded images
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(np.load(path, mmap_mode="r"))

    def native(self, row: int) -> Image.Image:
        """The image at its own size, mode L or RGB."""
        return self._try(int(row), self._cells(np.asarray([row]))[0], lambda cell: plain_mode(open_image(cell)))

    def stored(self, row: int) -> Image.Image:
        """The image as it is stored: its own size, mode and depth."""
        return self._try(int(row), self._cells(np.asarray([row]))[0], open_image)

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """uint8 [b, C, S, S] of each of these arrays of rows (int64 [b], none empty), in order.

        Images within `decode_gb` are decoded once. Of more, threads decode the ones asked for, a little ahead, and
        nothing is written to disk.
        """
        if self._decoded is not None or self.fits_in_memory:
            decoded = self.decoded()
            yield from (decoded[torch.from_numpy(rows)] for rows in batches)
            return
        sizes: deque[int] = deque()

        def chunks() -> Iterator[np.ndarray]:
            for rows in batches:
                sizes.append(len(rows))
                yield from _chunks(rows)

        parts = map_ahead(self._decode_chunk, chunks(), 2 * worker_count())
        for first in parts:
            size = sizes.popleft()
            others = islice(parts, -(-size // CHUNK) - 1)
            yield torch.from_numpy(self._filled(chain([first], others), size))

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """(rows int64 [b], images uint8 [b, C, S, S], labels int64 [b]) in row order, as `ahead` gives them."""
        labels = torch.from_numpy(self.labels)
        parts = [np.arange(a, min(a + batch_size, len(self))) for a in range(0, len(self), batch_size)]
        for rows, images in zip(parts, self.ahead(parts)):
            yield rows, images, labels[torch.from_numpy(rows)]

    def undecodable(self) -> list[tuple[int, str]]:
        """(row, reason) of every image that does not decode: one pass over all images."""
        found: list[tuple[int, str]] = []

        def look(rows: np.ndarray) -> list[tuple[int, str]]:
            bad = []
            for row, cell in zip(rows, self._cells(rows)):
                try:
                    to_pixels(cell, self.channels, 8)
                except MemoryError:  # no fault of the image, which must not be left out for it
                    raise
                except Exception as error:  # decoders raise whatever they like on damaged bytes
                    bad.append((int(row), str(error)))
            return bad

        for bad in map_ahead(look, _chunks(np.arange(len(self))), 2 * worker_count()):
            found += bad
        return found

    def _decode(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Chunks uint8 [<= CHUNK, C, S, S] of these rows in order."""
        chunks = _chunks(rows)
        few = len(rows) <= CHUNK
        return map(self._decode_chunk, chunks) if few else map_ahead(self._decode_chunk, chunks, 2 * worker_count())

    def _decode_chunk(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, (row, cell) in enumerate(zip(rows, self._cells(rows))):
            out[i] = self._try(int(row), cell, lambda c: to_pixels(c, self.channels, self.stored_size))
        return out

    def _cells(self, rows: np.ndarray) -> list[Any]:
        at = self.rows[rows]
        consecutive = len(at) > 0 and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all()
        found = self._arrow[int(at[0]) : int(at[-1]) + 1] if consecutive else self._arrow[at.tolist()]
        return found.column(0).to_pylist()

    def _try(self, row: int, cell: Any, decode) -> Any:
        try:
            return decode(cell)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            raise self._corrupt(row, cell, error) from error

    def _corrupt(self, row: int, cell: Any, error: Exception) -> DataError:
        unknown = isinstance(error, UnidentifiedImageError)  # its message names an object in memory, not the fault
        reason = "the bytes are no image" if unknown else f"{type(error).__name__}: {error}"
        file = cell.get("path") if isinstance(cell, dict) else None
        return DataError(
            self.table.column_names[0],
            f"row {self.rows[row]} of split {self.split}" + (f", {file}" if file else ""),
            f"an image that decodes ({reason})",
            "mend or remove that row, or pass --skip_corrupt to leave out and count such images",
        )


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[a : a + CHUNK] for a in range(0, len(rows), CHUNK))


def _encoded_lengths(arrow: Dataset, rows: np.ndarray) -> np.ndarray:
    """Length in bytes of every encoded image, read from the table's offsets or the file system; int64 [N]."""
    import pyarrow.compute as pc

    found = []
    for start in range(0, len(arrow), 2000):
        for chunk in arrow[start : start + 2000].column(0).chunks:
            data, paths = chunk.field("bytes"), chunk.field("path")
            lengths = pc.fill_null(pc.binary_length(data), -1).to_numpy(zero_copy_only=False).astype(np.int64)
            for i in np.flatnonzero(lengths < 0):
                path = paths[int(i)].as_py()
                lengths[i] = os.stat(path).st_size if path and os.path.isfile(path) else 0
            found.append(lengths)
    return np.concatenate(found)[rows]
