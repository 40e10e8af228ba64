"""Reads images and labels of published distilled sets: image folders, Parquet, tensor files."""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset
from PIL import Image
from torch import Tensor

from hf_condense.data.decoding import cell_bytes, open_image, plain_mode, worker_count
from hf_condense.errors import ArtefactError
from hf_condense.files import SPARE, check_inside, check_room, contained
from hf_condense.hub.artefact import DATA
from hf_condense.hub.importing.names import check_numbers, class_numbers
from hf_condense.hub.importing.restricted import read_untrusted
from hf_condense.hub.record import CONDENSATION

log = logging.getLogger(__name__)
PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
AGAIN = "ask who made it for the set as it is; this file unfolds without end"
BATCH_ROWS, REPEATED = 64, 20  # encoded images hardly shrink any more, so that cells are hardly larger than their file
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("class_id", "label", "labels")


@dataclass
class FoundSet:
    """Images in the order in which label files beside them number them.

    Args:
        images: uint8 [N, C, H, W]; labels: int64 [N], places in the class names of the source dataset.
        files: all files that were read.
        float_images: unit pixels float32 [N, C, H, W], where they were published so.
    """

    images: Tensor
    labels: Tensor
    files: list[Path]
    float_images: Tensor | None = None


def read_folder(path: Path, class_names: Sequence[str]) -> FoundSet:
    """A folder of images a class, called by class number, WordNet id or name (SRe2L, CDA, G-VBSM, RDED, EDC).

    Rows stand as torchvision's ImageFolder numbers them.

    Raises:
        ArtefactError: no such folders, a class that the source dataset does not have, or images that do not fit.
    """
    folders = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    for folder in folders:
        if not contained(path, folder):
            step = "copy the images themselves into the folder"
            raise ArtefactError(str(folder), "a symbolic link that leads elsewhere", f"folders inside {path}", step)
    found = {p: sorted((f for f in p.rglob("*") if f.suffix.lower() in PICTURES), key=_imagefolder) for p in folders}
    found = {p: pictures for p, pictures in found.items() if pictures}
    if not found:
        raise ArtefactError(str(path), "no images", "a folder of images for each class", "check path and kind")
    numbers = class_numbers([p.name for p in found], class_names, path)
    labels = [number for number, pictures in zip(numbers, found.values()) for _ in pictures]
    files = [check_inside(path, picture) for pictures in found.values() for picture in pictures]
    others = sum(file.is_file() for folder in folders for file in folder.rglob("*")) - len(files)
    if others:
        log.warning(
            "%s: %d of %d files in class folders are no images and are not read", path, others, others + len(files)
        )
    images = _decoded([{"path": str(file)} for file in files], lambda row: str(files[row]))
    return FoundSet(images, torch.tensor(labels), files)


def read_parquet_set(path: Path, class_names: Sequence[str]) -> FoundSet:
    """Parquet with a column `image` and one of labels, `class_id` or `label`: class numbers, or names.

    Args:
        path: a file, or a folder of which all Parquet files are read, in the order of their names; of a distilled dataset
            as this library writes it, those of images.

    Raises:
        ArtefactError: no such file or column, a class that the source does not have, or images that do not fit.
    """
    inside = path / DATA if (path / CONDENSATION).is_file() else path
    files = [path] if path.is_file() else sorted(inside.rglob("*.parquet"))
    files = [check_inside(path if path.is_dir() else path.parent, file) for file in files]
    try:
        tables = [_table(file) for file in files]
        table = pa.concat_tables(tables)
    except (pa.ArrowException, OSError) as error:
        reason = str(error) if files else "no Parquet files"
        raise ArtefactError(str(path), reason, "whole Parquet files of one table", "check path and kind") from None
    features = Dataset(table).features
    image, label = (_column(path, list(features), known) for known in (IMAGE_COLUMNS, LABEL_COLUMNS))
    values, kind = table[label].to_pylist(), features[label]
    if isinstance(kind, ClassLabel):
        values = [kind.int2str(value) for value in values]
    if all(isinstance(value, str) for value in values):
        distinct = sorted(set(values))
        number = dict(zip(distinct, class_numbers(distinct, class_names, path)))
        values = [number[value] for value in values]
    labels = _whole_numbers(values, path)
    check_numbers(labels, class_names, path)
    # a cell may name a file instead of holding one: a foreign table must not choose which file is read
    cells = [{"bytes": cell["bytes"]} if isinstance(cell, dict) else cell for cell in table[image].to_pylist()]
    _warn_of_repeats(path, files, tables, cells)
    return FoundSet(_decoded(cells, lambda row: f"{path} row {row}"), labels, files)


def _table(file: Path) -> pa.Table:
    """The columns of images and labels of a file whose decompressed size is plausible.

    Raises:
        ArtefactError: its decompressed size is implausible (few values repeated).
    """
    opened, batches, unfolded = pq.ParquetFile(file), [], 0
    names = [name for name in opened.schema_arrow.names if name in (*IMAGE_COLUMNS, *LABEL_COLUMNS)]
    check_room([file], 8 * opened.metadata.num_rows, file, AGAIN)
    both = {*names} & {*IMAGE_COLUMNS} and {*names} & {*LABEL_COLUMNS}  # else the message lists the columns
    for batch in opened.iter_batches(BATCH_ROWS, columns=names if both else None):
        unfolded += batch.nbytes
        if unfolded > REPEATED * file.stat().st_size + SPARE:
            allowed = f"what a file of {file.stat().st_size} bytes can hold of encoded images"
            raise ArtefactError(str(file), f"{unfolded} bytes of cells", allowed, AGAIN)
        batches.append(batch)
    return pa.Table.from_batches(batches, batches[0].schema if batches else opened.schema_arrow)


def read_tensors(
    path: Path, class_names: Sequence[str], scale: tuple[Sequence[float], Sequence[float]] | None = None
) -> FoundSet:
    """Tensors of trajectory and distribution matching, as unit pixels: rounded to uint8, and the floats beside.

    Args:
        path: a folder with `images_best.pt` and `labels_best.pt`, one of several `images_<step>.pt` with its labels
            beside it (MTT, TESLA), or a `res_*.pt`, of which the first experiment is taken (DC, DSA, DM).
        scale: mean and std with which the images were normalised, one for each channel; None for unit pixels.

    Raises:
        ArtefactError: files that are damaged or hold more than numbers, images and labels that do not fit each other, or
            a class that the source dataset does not have.
    """
    images, labels, files = _tensor_pair(path)
    channels = (len(scale[0]),) if scale else (1, 3)
    if images.ndim != 4 or images.shape[1] not in channels or not images.is_floating_point():
        allowed = f"float images [N, {' or '.join(map(str, channels))}, H, W]"
        raise ArtefactError(
            f"{path}: images", f"{images.dtype} {list(images.shape)}", allowed, "check path and dataset"
        )
    if labels.shape != images.shape[:1]:
        allowed = f"[{len(images)}], a class number for each image"
        raise ArtefactError(
            f"{path}: labels", list(labels.shape), allowed, "take labels of the same step as the images"
        )
    labels = _whole_numbers(labels.tolist(), path)
    check_numbers(labels, class_names, path)
    unit = images.float()
    if scale:
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in scale)
        unit = unit * std + mean
    if not unit.isfinite().all():
        raise ArtefactError(f"{path}: images", "infinite or not a number", "finite pixels", "take an earlier step")
    outside = float(((unit < 0) | (unit > 1)).double().mean())
    if outside:
        log.warning(
            "%s: %.1f%% of all values lie outside of [0, 1] (%.2f to %.2f) and are clamped in the 8-bit images; the floats "
            "are kept beside them. If that is much, check --pixels and --dataset, whose mean and std scale them",
            path,
            100 * outside,
            unit.min(),
            unit.max(),
        )
    return FoundSet((unit.clamp(0, 1) * 255).round().to(torch.uint8), labels, files, unit)


def _warn_of_repeats(path: Path, files: list[Path], tables: list[pa.Table], cells: list) -> None:
    """Names the files whose images another file has too, as where a repository holds one set in two configurations."""
    names = [file.relative_to(path).as_posix() if path.is_dir() else file.name for file in files]
    place = [name for name, table in zip(names, tables) for _ in range(len(table))]
    first: dict[Any, int] = {}
    again: list[tuple[int, int]] = []
    for row, cell in enumerate(cells):
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data and (earlier := first.setdefault(data, row)) != row:
            again.append((earlier, row))
    if again:
        (one, two), count = Counter((place[a], place[b]) for a, b in again).most_common(1)[0]
        log.warning(
            "%s: %d of %d rows hold an image that another row has too (%d of them in %s and %s). If these are "
            "configurations of one set, give one of the files",
            path,
            len(again),
            len(cells),
            count,
            one,
            two,
        )


def _imagefolder(file: Path) -> tuple[str, str]:
    return str(file.parent), file.name


def _tensor_pair(path: Path) -> tuple[Tensor, Tensor, list[Path]]:
    if path.is_dir():
        path = path / "images_best.pt"
    if path.name.startswith("images_"):
        files = [path, path.with_name("labels_" + path.name.removeprefix("images_"))]
        pair: Any = [read_untrusted(file) for file in files]
    else:
        files, pair = [path], read_untrusted(path)
        if isinstance(pair, dict) and isinstance(pair.get("data"), list) and pair["data"]:
            pair = pair["data"][0]
    fits = isinstance(pair, (list, tuple)) and len(pair) == 2
    if not fits or not all(isinstance(part, (Tensor, np.ndarray)) for part in pair):
        raise ArtefactError(str(path), "neither", "images and labels, or a `data` list of them", "check path and kind")
    return *(torch.as_tensor(part).detach() for part in pair), files


def memory_for_pixels() -> int:
    """Bytes that the pixels of a set may take here: a quarter of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 if hasattr(os, "sysconf") else 4 << 30


def _whole_numbers(values: Sequence, path: Path) -> Tensor:
    wrong = [value for value in values if not isinstance(value, int)]
    if wrong or not len(values):
        found = wrong[0] if wrong else "none"
        raise ArtefactError(f"{path}: labels", found, "a whole number or a name for each image", "check path and kind")
    return torch.tensor(values)


def _column(path: Path, columns: list[str], known: tuple[str, ...]) -> str:
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise ArtefactError(
            f"{path}: columns", ", ".join(columns), f"a column {' or '.join(known)}", "rename a column"
        )
    return found


def _decoded(cells: list, name: Callable[[int], str]) -> Tensor:
    """uint8 [N, C, H, W] of encoded images, as they are: resized ones would no longer be those that were labelled."""

    def size_of(row: int) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(cell_bytes(cells[row]))) as image:
                return image.size
        except Exception as error:  # as below
            raise ArtefactError(name(row), str(error), "an image that decodes", "copy or download it again") from None

    # headers first: a small file may unpack to gigabytes, and images of one size need no more than that many times one
    total, kept = 0, memory_for_pixels()
    for row in range(len(cells)):
        width, height = size_of(row)
        total += 3 * width * height
        if total > kept:
            step = "check path and kind; distilled sets are small"
            raise ArtefactError(name(row), f"{total} bytes of pixels so far", f"up to {kept} bytes in all", step)

    def decode(row: int) -> np.ndarray:
        try:
            pixels = np.asarray(plain_mode(open_image(cells[row])))
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            raise ArtefactError(name(row), str(error), "an image that decodes", "copy or download it again") from None
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor(worker_count()) as threads:
        images = list(threads.map(decode, range(len(cells))))
    channels, size = max(len(image) for image in images), images[0].shape[1:]
    for row, image in enumerate(images):
        if image.shape[1:] != size:
            allowed = f"images of one size, {size[0]} x {size[1]} as the first"
            raise ArtefactError(name(row), "{} x {}".format(*image.shape[1:]), allowed, "leave it out, or mend it")
    return torch.from_numpy(np.stack([np.broadcast_to(image, (channels, *size)) for image in images]))
