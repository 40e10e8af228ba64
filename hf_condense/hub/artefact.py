"""The folder that is the Hub repository: lossless images, labels, soft labels, card and provenance, written at once."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Array3D, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch import Tensor

from hf_condense.data.faults import image_faults
from hf_condense.errors import ArtefactError
from hf_condense.files import atomic_path, canonical_json, sha256_file
from hf_condense.hub.card import card_facts, render_card
from hf_condense.hub.hashes import content_hash, pixels_hash
from hf_condense.hub.preview import image_grid
from hf_condense.hub.record import CONDENSATION
from hf_condense.records.base import read_record, record_text
from hf_condense.records.labels import StoreManifest
from hf_condense.records.sets import FORMAT, Condensation
from hf_condense.text import encodable

log = logging.getLogger(__name__)
DATA, SOFT_LABELS, TENSORS = "data", "soft_labels", "tensors"
SHARD_BYTES = 500_000_000  # of raw pixels: a Parquet file stays far below what the Hub's viewer reads at once


@dataclass
class Artefact:
    """Everything that is published.

    Args:
        images: uint8 [N, C, H, W] with C 1 or 3: the pixels that soft labels were made from.
        labels: int64 [N], places in `class_names`.
        class_names: of the source dataset, in its order.
        content: what is the same on every run of the same settings (`provenance.gather_content`).
        record: what may differ: versions, devices, dates, seconds (`provenance.gather_record`).
        soft_labels: float16 [N, K] of the teacher on the published, un-augmented images.
        soft_label_kind: what those numbers are: {"kind": "probabilities" | "logits", "temperature", "ensemble"}.
        stages: int64 [N], PDD stage of each image (stage order is training order).
        float_images: float32 [N, C, H, W] of methods whose images leave [0, 1]; published in a config of their own.
        store_folder: per-view label store; its files go to `soft_labels/`.
        preview_rows: rows shown in preview.png; defaults to an even choice of classes.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    content: dict[str, Any]
    record: dict[str, Any]
    soft_labels: Tensor | None = None
    soft_label_kind: dict[str, Any] | None = None
    stages: Tensor | None = None
    float_images: Tensor | None = None
    store_folder: Path | None = None
    preview_rows: list[int] | None = None

    def __post_init__(self) -> None:
        self.class_names = [encodable(name) for name in self.class_names]  # no file holds a lone surrogate
        n, shape = len(self.images), tuple(self.images.shape)
        _require(self.images.dtype == torch.uint8, "images", self.images.dtype, "uint8")
        _require(n > 0 and len(shape) == 4 and shape[1] in (1, 3), "images", shape, "[N, 1 or 3, H, W], N above 0")
        _require(tuple(self.labels.shape) == (n,), "labels", tuple(self.labels.shape), f"[{n}]")
        low, high = int(self.labels.min()), int(self.labels.max())
        _require(low >= 0 and high < len(self.class_names), "labels", (low, high), f"0..{len(self.class_names) - 1}")
        if self.soft_labels is not None:
            wanted = (n, len(self.class_names))
            _require(tuple(self.soft_labels.shape) == wanted, "soft_labels", tuple(self.soft_labels.shape), wanted)
            _require(self.soft_labels.dtype == torch.float16, "soft_labels", self.soft_labels.dtype, "float16")
            finite = bool(self.soft_labels.isfinite().all())
            _require(finite, "soft_labels", "infinite or no numbers", "finite numbers")
            _require(self.soft_label_kind is not None, "soft_label_kind", None, "kind, temperature and ensemble")
        if self.stages is not None:
            _require(tuple(self.stages.shape) == (n,), "stages", tuple(self.stages.shape), f"[{n}]")
        if self.float_images is not None:
            _require(tuple(self.float_images.shape) == shape, "float_images", tuple(self.float_images.shape), shape)
        if self.store_folder is not None:
            _require(
                Path(self.store_folder).is_dir(), "store_folder", str(self.store_folder), "a label store's folder"
            )


def write_artefact(folder: Path | str, artefact: Artefact) -> dict[str, Any]:
    """Writes the whole folder beside `folder` and puts it there at once; an older artefact is replaced.

    Returns:
        The `content` of condensation.json, completed with image facts, soft-label facts and the content hash.

    Raises:
        ArtefactError: the disk is full or the place cannot be written to; an earlier artefact is unchanged.
    """
    content = complete_content(artefact)
    faults = image_faults(artefact.images)
    for fault in faults:
        log.warning("%s: look at preview.png in %s", fault, folder)
    with atomic_path(folder) as root:
        root.mkdir()
        _write_data(root / DATA, artefact)
        if artefact.float_images is not None:
            _write_tensors(root / TENSORS, artefact)
        if artefact.store_folder is not None:
            shutil.copytree(
                artefact.store_folder,
                root / SOFT_LABELS,
                copy_function=_link,
                ignore=shutil.ignore_patterns(".*"),  # half-written files of a killed process
            )
        image_grid(
            artefact.images, artefact.labels, artefact.class_names, root / "preview.png", rows=artefact.preview_rows
        )
        files = {
            path.relative_to(root).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        record = {**artefact.record, **({"image_faults": faults} if faults else {}), "files": files}
        record["columns"] = list(
            data_features(content["class_names"], "soft_label" in content, artefact.stages is not None)
        )
        text = record_text(Condensation, {"content": content, "record": record}, root / CONDENSATION)
        (root / CONDENSATION).write_text(text, encoding="utf-8")
        (root / "README.md").write_text(render_card(card_facts(content, record)), encoding="utf-8")
    return content


def complete_content(artefact: Artefact) -> dict[str, Any]:
    """`content` completed with the facts of the finished set."""
    n, channels, height, width = artefact.images.shape
    counts = torch.bincount(artefact.labels.cpu(), minlength=len(artefact.class_names))
    pixels = pixels_hash(
        artefact.images,
        artefact.labels,
        artefact.soft_labels,
        stages=artefact.stages,
        float_images=artefact.float_images,
    )
    content = {
        "format": FORMAT,
        **artefact.content,
        "class_names": list(artefact.class_names),
        "images": {
            "count": n,
            "channels": channels,
            "height": height,
            "width": width,
            "classes": len(artefact.class_names),
            "per_class": [int(counts.min()), int(counts.max())],
        },
        "pixels_hash": pixels,
    }
    if artefact.soft_labels is not None:
        content["soft_label"] = {
            **artefact.soft_label_kind,
            "dtype": "float16",
            "bytes": 2 * artefact.soft_labels.numel(),
        }
    content = json.loads(canonical_json(content))
    return {**content, "content_hash": content_hash(content, pixels, store_manifest(artefact.store_folder))}


def store_manifest(folder: Path | None) -> dict[str, Any] | None:
    """manifest.json of a label store's folder; None where there is none. Raises ArtefactError where it is damaged."""
    path = None if folder is None else folder / "manifest.json"
    return None if path is None or not path.exists() else read_record(path, StoreManifest)


def encode_png(image: np.ndarray) -> bytes:
    """Lossless PNG of a uint8 [C, H, W] image (C 1 or 3)."""
    buffer = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(data: bytes, channels: int, height: int | None = None, width: int | None = None) -> np.ndarray:
    """uint8 [C, H, W] of a PNG written by `encode_png`.

    Args:
        height, width: expected size; the header is checked before memory is allocated for the pixels.

    Raises:
        ValueError: it is of another size or format.
    """
    mode = "L" if channels == 1 else "RGB"
    with PILImage.open(io.BytesIO(data), formats=["PNG"]) as image:
        wanted = (width or image.width, height or image.height)
        if image.size != wanted or image.mode != mode:
            raise ValueError(
                f"{image.mode} of {image.width} x {image.height}, not {mode} of {wanted[0]} x {wanted[1]}"
            )
        pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def data_features(class_names: Sequence[str], soft: bool, staged: bool) -> Features:
    """Columns of the default config: image and label, and soft label and PDD stage where the set has them."""
    features = Features({"image": Image(), "label": ClassLabel(names=list(class_names))})
    if soft:
        features["soft_label"] = List(Value("float16"), length=len(class_names))
    if staged:
        features["pdd_stage"] = Value("int32")
    return features


def _write_data(folder: Path, artefact: Artefact) -> None:
    folder.mkdir()
    features = data_features(artefact.class_names, artefact.soft_labels is not None, artefact.stages is not None)
    images = artefact.images.cpu().numpy()
    shards = -(-images.nbytes // SHARD_BYTES)
    for i, rows in enumerate(np.array_split(np.arange(len(images)), shards)):
        with ThreadPoolExecutor() as threads:  # zlib works outside the interpreter lock
            encoded = threads.map(encode_png, images[rows])
            pictures = [{"bytes": png, "path": f"{row:06d}.png"} for row, png in zip(rows, encoded)]
        columns = [pa.array(pictures, Image.pa_type), pa.array(artefact.labels[rows].cpu().numpy(), pa.int64())]
        if artefact.soft_labels is not None:
            flat = pa.array(artefact.soft_labels[rows].cpu().numpy().reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, len(artefact.class_names)))
        if artefact.stages is not None:
            columns.append(pa.array(artefact.stages[rows].cpu().numpy(), pa.int32()))
        # the schema carries the features, so that ClassLabel and Image types do not depend on the card
        table = pa.table(columns, schema=features.arrow_schema)
        pq.write_table(
            table,
            folder / f"train-{i:05d}-of-{shards:05d}.parquet",
            compression="zstd",
            row_group_size=500,
            write_page_index=True,
        )


def _write_tensors(folder: Path, artefact: Artefact) -> None:
    folder.mkdir()
    shape = tuple(artefact.float_images.shape[1:])
    features = Features({"tensor": Array3D(shape, "float32"), "label": ClassLabel(names=list(artefact.class_names))})
    columns = {"tensor": artefact.float_images.float().cpu().numpy(), "label": artefact.labels.cpu().numpy()}
    table = Dataset.from_dict(columns, features=features).data.table
    pq.write_table(
        table, folder / "train-00000-of-00001.parquet", compression="zstd", row_group_size=500, write_page_index=True
    )


def _link(source: str, target: str) -> None:
    # a store can be many gigabytes; its files are only ever replaced whole, so a second name for them is safe
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _require(condition: bool, field: str, value: Any, allowed: Any) -> None:
    if not condition:
        raise ArtefactError(field, value, str(allowed), "mend what is handed to Artefact")
