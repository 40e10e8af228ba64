"""A distilled dataset in the forms that other programs read: class folders, WebDataset shards, one torch or NumPy file."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.formation import decode_set
from hf_condense.files import atomic_path
from hf_condense.hub.artefact import encode_png
from hf_condense.hub.card import title
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.text import printable

ORIGIN = "origin.json"
CLASS_FOLDERS = "train"  # apart from the files beside them: some readers take all that stands there for a class
SHARD_IMAGES = 10_000  # of a WebDataset tar


def export(
    place: str | Path, to: str, output_dir: str | Path, *, soft_labels: bool = False, revision: str | None = None
) -> Path:
    """Writes the training images and labels of a distilled dataset for programs that do not read Parquet.

    Images and class numbers are written, whatever the label regime; `origin.json` beside them records the source of
    the data. Where images hold several training images as tiles, these are written, rounded to 8 bits.

    Args:
        place: folder or Hub id of a distilled dataset (`revision` of it), or a run folder.
        to: "imagefolder" (PNG in `train/`, in a folder a class whose sorted names give each its number), "webdataset" (tar shards
            of `.png`, `.cls` and `.npy`), "torch" (`set.pt`, for `torch.load(weights_only=True)`) or "numpy" (`set.npz`).
        output_dir: a folder that is not there yet.
        soft_labels: also the soft labels of the images, as float32 probabilities [N, K]. Those of augmented views stay in
            the set: their numbers mean nothing without the views.

    Returns:
        `output_dir`.

    Raises:
        ConfigError: an unknown form, a folder that is there, or class folders for a set with classes without images.
        ArtefactError: the set cannot be read, or has no soft labels.
    """
    check(to in WRITERS, "to", to, ", ".join(WRITERS))
    folder = Path(output_dir)
    check(not folder.exists(), "output_dir", str(folder), "a folder that is not there yet", "choose another one")
    data = DistilledDataset.load(place, revision)
    images, labels = decode_set(data.images, data.labels, data.formation_factor)
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    columns = {"images": images, "labels": labels}
    if soft_labels:
        columns["soft_labels"] = data.probabilities()
    with atomic_path(folder) as root:
        root.mkdir()
        WRITERS[to](root, columns, data)
        note = json.dumps(origin(data, place, soft_labels), indent=2, ensure_ascii=False)
        (root / ORIGIN).write_text(note + "\n", encoding="utf-8")
    return folder


def origin(data: DistilledDataset, place: str | Path, soft_labels: bool) -> dict[str, Any]:
    """Where an exported set is from: what a reader needs to cite it, to respect its terms and to find the whole of it."""
    content = data.content
    method, source = content["method"], content["source"]
    at_hub = data.folder.parent.name == "snapshots"  # as the Hub's cache lays them out
    return {
        "title": title(content),
        "exported_from": str(place) if at_hub else data.folder.name,
        "revision": data.folder.name if at_hub else None,
        "content_hash": content["content_hash"],
        "method": {name: method.get(name) for name in ("name", "title", "paper", "citation")},
        "source": {name: source.get(name) for name in ("id", "revision", "train_split", "license")},
        "class_names": data.class_names,
        "label_regimes": content["labels"]["regimes"],
        "soft_labels": content["soft_label"] if soft_labels else None,
        "note": "images and labels only; views, training recipe and scores are in the distilled dataset",
    }


def class_folder(number: int, name: str, classes: int) -> str:
    """`07-horse`: sorts by number, and holds nothing of a name that could lead elsewhere."""
    plain = re.sub(r"[^\w-]+", "_", printable(name))[:80].strip("_")
    return f"{number:0{len(str(classes - 1))}d}-{plain}"


def _imagefolder(root: Path, columns: dict[str, Tensor], data: DistilledDataset) -> None:
    """Class folders; soft labels in the order in which torchvision's ImageFolder numbers the images."""
    labels, names = columns["labels"], data.class_names
    empty = sorted(set(range(len(names))) - set(labels.tolist()))
    check(
        not empty,
        "to",
        "imagefolder",
        f"another form: class {names[empty[0]] if empty else ''!r} has no image, and class folders cannot say so",
        "take --to torch, numpy or webdataset",
    )
    folders = [root / CLASS_FOLDERS / class_folder(number, name, len(names)) for number, name in enumerate(names)]
    for folder in folders:
        folder.mkdir(parents=True)
    for row, (image, label) in enumerate(zip(columns["images"].numpy(), labels.tolist())):
        (folders[label] / f"{row:07d}.png").write_bytes(encode_png(image))
    if "soft_labels" in columns:
        order = torch.argsort(labels, stable=True)
        np.save(root / "soft_labels.npy", columns["soft_labels"][order].numpy())


def _webdataset(root: Path, columns: dict[str, Tensor], data: DistilledDataset) -> None:
    images, labels, soft = columns["images"], columns["labels"].tolist(), columns.get("soft_labels")
    for number, first in enumerate(range(0, len(images), SHARD_IMAGES)):
        with tarfile.open(root / f"train-{number:06d}.tar", "w") as shard:
            for row in range(first, min(first + SHARD_IMAGES, len(images))):
                _add(shard, f"{row:07d}.png", encode_png(images[row].numpy()))
                _add(shard, f"{row:07d}.cls", str(labels[row]).encode())
                if soft is not None:
                    buffer = io.BytesIO()
                    np.save(buffer, soft[row].numpy())
                    _add(shard, f"{row:07d}.npy", buffer.getvalue())


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # without a date or an owner, so that the same set gives the same bytes
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


def _torch(root: Path, columns: dict[str, Tensor], data: DistilledDataset) -> None:
    torch.save({**columns, **_floats(data), "class_names": list(data.class_names)}, root / "set.pt")


def _numpy(root: Path, columns: dict[str, Tensor], data: DistilledDataset) -> None:
    arrays: dict[str, Any] = {name: value.numpy() for name, value in {**columns, **_floats(data)}.items()}
    np.savez(root / "set.npz", **arrays, class_names=np.array(data.class_names))


def _floats(data: DistilledDataset) -> dict[str, Tensor]:
    """Images of a method that leaves [0, 1], before rounding; float32 [N, C, H, W] in unit pixels."""
    if data.float_images is None or data.formation_factor > 1:
        return {}
    return {"float_images": data.float_images}


WRITERS: dict[str, Callable[[Path, dict[str, Tensor], DistilledDataset], None]] = {
    "imagefolder": _imagefolder,
    "webdataset": _webdataset,
    "torch": _torch,
    "numpy": _numpy,
}
