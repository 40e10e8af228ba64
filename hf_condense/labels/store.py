"""The per-view label store: the teacher's logits for every view of every epoch, as Parquet that `datasets` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy, Views
from hf_condense.data.formation import decode_set
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.files import canonical_json, fingerprint, read_json, remove_leftovers, sha256_file, write_json
from hf_condense.labels.columns import epoch_table, expected_bytes, read_epoch, table_batches, write_epochs
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import render, slices, view_batches
from hf_condense.models.training import Batch
from hf_condense.progress import Progress

FORMAT = 1
FILE_BYTES = 8 << 20  # epochs share a file up to this size: a tiny set would otherwise leave a thousand tiny files


def image_digest(images: Tensor) -> str:
    """sha256 of dtype, shape and pixels of images [N, C, S, S]: labels belong to exactly these."""
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}\n".encode())
    for part in images.split(4096):
        digest.update(part.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_store(
    folder: Path | str,
    images: Tensor,
    labels: Tensor,
    teacher: Ensemble,
    policy: ViewPolicy,
    key: Key,
    epochs: int,
    batch_size: int,
    device: torch.device,
    *,
    limit: int | None = None,
    dtype: str = "float16",
    accelerator=None,
    progress: Progress | None = None,
    formation_factor: int = 1,
) -> LabelStore:
    """Labels `epochs` epochs of views, and goes on where an interrupted call with the same arguments stopped.

    Args:
        folder: becomes `manifest.json` and `views-<n>.parquet`, each file whole or absent.
        images: the published uint8 images [N, C, S, S]; `labels` their classes, int64 [N].
        key: names order and views (`labels.views.view_batches`).
        batch_size: mixing partners come from one batch, so students train in this size or a divisor of it.
        limit: most batches an epoch.
        dtype: of the logits, "float16" or "float32".
        accelerator: an `accelerate.Accelerator` whose processes share the files among them.
        progress: advances by one an epoch.
        formation_factor: f, where each image holds f x f training images (`data.formation`): views are of those.

    Raises:
        ArtefactError: the folder holds labels made with other settings (the first that differs is named).
    """
    check(images.dtype == torch.uint8, "images", str(images.dtype), "the published uint8 images")
    check(dtype in ("float16", "float32"), "label dtype", dtype, "float16, float32")
    check(epochs >= 1, "label_epochs", epochs, "1 or more")
    published = image_digest(images)
    images, labels = decode_set(images, labels, formation_factor)
    folder, batch_size = Path(folder), min(batch_size, len(images))
    rows = min(len(images), (limit or len(images)) * batch_size)
    one = expected_bytes(1, rows, teacher.num_classes, batch_size, True, 2 if dtype == "float16" else 4)
    settings = {
        "format": FORMAT, "view_version": VIEW_VERSION, "kind": "logits", "temperature": None, "dtype": dtype,
        "images": len(images), "rows": rows, "channels": images.shape[1], "side": images.shape[2],
        "classes": teacher.num_classes, "batch_size": batch_size, "epochs": epochs,
        "epochs_per_file": max(1, min(epochs, FILE_BYTES // one)), "policy": asdict(policy), "key": list(key.parts),
        "images_sha256": published, "teacher": teacher.describe(),
    }  # fmt: skip
    if formation_factor > 1:
        settings["formation_factor"] = formation_factor
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    together = accelerator.wait_for_everyone if accelerator else lambda: None
    if rank == 0:
        _claim(folder, settings)
    together()
    teacher.to(device)
    images, labels = images.to(device), labels.to(device)

    def labelled(epoch: int) -> Iterator[tuple[Tensor, Views, Tensor]]:
        for index, views, batch in view_batches(images, labels, policy, key, epoch, batch_size, limit=limit):
            yield index, views, teacher.logits(batch.images).to(getattr(torch, dtype))

    step = settings["epochs_per_file"]
    for number, first in enumerate(range(0, epochs, step)):
        chunk, path = range(first, min(first + step, epochs)), folder / _file(number)
        if number % world == rank and not path.exists():
            write_epochs(path, (epoch_table(e, labelled(e)) for e in chunk), progress)
        elif progress:
            progress.advance(len(chunk))
    together()
    if rank == 0:
        _finish(folder)
    together()
    return LabelStore.open(folder)


def _file(number: int) -> str:
    return f"views-{number:05d}.parquet"


def _claim(folder: Path, settings: dict) -> None:
    """Writes the manifest of an unfinished store, or compares `settings` with the one that is there."""
    path = folder / "manifest.json"
    if not path.exists():
        write_json(path, {"settings": settings, "record": {"torch": torch.__version__}})
        return
    remove_leftovers(folder)
    manifest, wanted = read_json(path), json.loads(canonical_json(settings))
    for name, value in wanted.items():
        found = manifest["settings"].get(name)
        if found != value:
            raise ArtefactError(f"{path}: {name}", found, repr(value), "delete the folder or choose another one")
    if any(not (folder / name).exists() for name in manifest.get("files", ())):
        write_json(path, {name: value for name, value in manifest.items() if name != "files"})  # unfinished again


def _finish(folder: Path) -> None:
    """Adds the list of files to the manifest: that is what makes a store complete."""
    manifest = read_json(folder / "manifest.json")
    if "files" not in manifest:
        paths = sorted(folder.glob("views-*.parquet"))
        manifest["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}
        write_json(folder / "manifest.json", manifest)


class LabelStore:
    """A finished store. Replays the very batches that the teacher saw, from any epoch, in the stored batch or a divisor.

    `LabelStore.open` makes one.
    """

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest, self.settings = folder, manifest, manifest["settings"]
        self.epochs, self.batch_size = self.settings["epochs"], self.settings["batch_size"]
        self.num_classes, self.rows = self.settings["classes"], self.settings["rows"]
        self.policy, self.key = ViewPolicy(**self.settings["policy"]), Key(*self.settings["key"])
        self.fingerprint = fingerprint(self.settings)
        self._opened: tuple[int, pq.ParquetFile] | None = None

    @classmethod
    def open(cls, folder: Path | str, images: Tensor | None = None, num_classes: int | None = None) -> LabelStore:
        """Opens `folder`; checks that it is complete and, where given, that it was made for these images and classes.

        Raises:
            ArtefactError: not a store, an unfinished one, a missing file, or labels of other images.
        """
        folder = Path(folder)
        manifest = read_json(folder / "manifest.json")
        if "files" not in manifest:
            raise ArtefactError(str(folder), "unfinished labels", "a finished store", "run the relabel stage again")
        settings = manifest["settings"]
        version = settings["format"], settings["view_version"]
        if version != (FORMAT, VIEW_VERSION):
            raise ArtefactError(f"{folder}: format, view version", version, (FORMAT, VIEW_VERSION), "relabel the set")
        store = cls(folder, manifest)
        for number, (name, facts) in enumerate(manifest["files"].items()):
            found = (folder / name).stat().st_size if (folder / name).exists() else "missing"
            if found != facts["bytes"]:
                raise store._damage(number, found, f"{facts['bytes']} bytes")
        if num_classes is not None and num_classes != store.num_classes:
            raise ArtefactError(str(folder), store.num_classes, f"labels of {num_classes} classes", "relabel the set")
        if images is not None:
            store._check_images(images)
        return store

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        listed = sum(facts["bytes"] for facts in self.manifest["files"].values())
        return listed + (self.folder / "manifest.json").stat().st_size

    def verify(self) -> None:
        """Compares every file with its sha256. Raises ArtefactError that names the first damaged one."""
        for number in range(len(self.manifest["files"])):
            self._check_sum(number)

    def replay(
        self,
        epoch: int,
        images: Tensor,
        labels: Tensor,
        batch_size: int | None = None,
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch, augmented as the teacher saw them, with its logits (fp32) as `soft`.

        Args:
            epoch: any of 0..epochs-1.
            images: the uint8 images [N, C, S, S] of the store (or the float ones that they decode to), on any device;
                `labels` int64 [N] beside them.
            batch_size: the stored one, or a divisor of it. Parts of a mixed batch carry no partners.
            device: where batches are made; that of the images where not said.

        Raises:
            ConfigError: another batch size, or an epoch that is not stored.
            ArtefactError: the epoch's file is missing or damaged.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size < 1 or self.batch_size % size:
            raise ConfigError("batch_size", size, f"{self.batch_size} or a divisor", "change it, or relabel the set")
        check(len(images) == self.settings["images"], "images", len(images), f"the {self.settings['images']} stored")
        for rows, views, logits in self.batches(epoch):
            batch = render(images, labels, rows, views, self.policy, device)
            batch.soft = logits.to(batch.images.device, non_blocking=True).float()
            yield from slices(batch, size)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Views, Tensor]]:
        """(rows int64 [b], views, logits [b, K] as stored) of each batch of an epoch, on the CPU."""
        check(0 <= epoch < self.epochs, "epoch", epoch, f"0 to {self.epochs - 1}", "store more epochs")
        number, group = divmod(epoch, self.settings["epochs_per_file"])
        try:
            if self._opened is None or self._opened[0] != number:
                self._check_sum(number)
                self._opened = number, pq.ParquetFile(self.folder / _file(number), memory_map=True)
            columns = read_epoch(self._opened[1], group)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damage(number, str(error), "a whole Parquet file") from None
        return table_batches(columns, self.batch_size)

    def _check_images(self, images: Tensor) -> None:
        found = image_digest(images)
        if found != self.settings["images_sha256"]:
            raise ArtefactError(
                str(self.folder), f"labels of {self.settings['images']} other images",
                f"labels of these {len(images)} (sha256 {found[:12]})", "relabel the set",
            )  # fmt: skip

    def _check_sum(self, number: int) -> None:
        path = self.folder / _file(number)
        wanted = self.manifest["files"].get(path.name, {}).get("sha256")
        found = sha256_file(path) if path.exists() else "missing"
        if found != wanted:
            raise self._damage(number, found, f"sha256 {wanted}")

    def _damage(self, number: int, found: Any, allowed: str) -> ArtefactError:
        step = self.settings["epochs_per_file"]
        epochs = f"epochs {number * step} to {min((number + 1) * step, self.epochs) - 1}"
        next_step = "delete this file and run the relabel stage again, or download it again"
        return ArtefactError(f"{self.folder / _file(number)} ({epochs})", found, allowed, next_step)
