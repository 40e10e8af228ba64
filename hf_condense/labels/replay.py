"""Reads a label store: the batches that the teacher labelled, with its labels, in every store format."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy, Views
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.files import check_inside, fingerprint, regular_size, sha256_file
from hf_condense.labels.checks import NEXT, check_columns, check_file, check_partners, check_views, column_widths
from hf_condense.labels.columns import read_group, table_batches, views_digest
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.regeneration import Regeneration, compare_probes, probes
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import batch_sizes, epoch_views, part_size, render, slices
from hf_condense.models.training import Batch
from hf_condense.records.base import made, read_record
from hf_condense.records.labels import StoreManifest

log = logging.getLogger(__name__)
FORMAT = 5  # row groups hold `epochs_per_group` epochs; before, one (all of a file in packed stores)
PARTS = 4  # the first where the teacher may have labelled each of `accumulation` parts of a batch by itself
EVENED = 3  # the first where the last two batches are evened out (`views.leaves_one`); before, the last had one image
OLDEST = 2
TINY = 1e-8  # a probability that half precision rounds to zero


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits whose softmax is `probabilities` [n, K]; finite where these are zero."""
    return probabilities.clamp_min(TINY).log()


def epochs_per_group(settings: dict[str, Any]) -> int:
    """Epochs in a row group of a store with these settings."""
    if settings["format"] < FORMAT:
        return settings["epochs_per_file"] if settings["store"] in ("packed", "virtual") else 1
    return settings["epochs_per_group"]


def file_name(number: int) -> str:
    """Name of the file with that number."""
    return f"views-{number:05d}.parquet"


class LabelStore:
    """A finished store. Replays the teacher's batches from any epoch, in the stored batch size or a divisor.

    `LabelStore.open` makes one.
    """

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest, self.settings = folder, manifest, manifest["settings"]
        self.epochs, self.batch_size = self.settings["epochs"], self.settings["batch_size"]
        self.num_classes, self.rows = self.settings["classes"], self.settings["rows"]
        self.policy = made(ViewPolicy, self.settings["policy"], f"policy of {self.folder}", NEXT)
        check_views(self.policy, self.settings["side"], str(self.folder))
        self.key = Key(*self.settings["key"])
        self.virtual = self.settings["store"] == "virtual"
        self.fingerprint = fingerprint(self.settings)
        self._group = epochs_per_group(self.settings)
        self._part = part_size(self.batch_size, self.settings.get("accumulation", 1))
        self._encoding = encoding_of(self.settings)
        keyed = self.settings["views"] == "keyed"
        self._widths = column_widths(self.settings, self.policy, keyed, self._encoding)
        self._opened: tuple[int, pq.ParquetFile] | None = None
        self._read: tuple[int, int, dict[str, Tensor]] | None = None  # file, row group and its columns
        self._trusted: Ensemble | None = None

    @classmethod
    def open(cls, folder: Path | str, images: Tensor | None = None, num_classes: int | None = None) -> LabelStore:
        """Opens `folder`; checks that it is complete and, where given, that it was made for these images and classes.

        Raises:
            ArtefactError: not a store, an unfinished one, a missing file, or labels of other images.
        """
        folder = Path(folder)
        manifest = read_record(check_inside(folder, folder / "manifest.json"), StoreManifest)
        if manifest.get("files") is None:
            raise ArtefactError(str(folder), "unfinished labels", "a finished store", "run the relabel stage again")
        settings = manifest["settings"]
        version = settings["format"], settings["view_version"]
        if not OLDEST <= settings["format"] <= FORMAT or settings["view_version"] != VIEW_VERSION:
            allowed = f"{OLDEST} to {FORMAT}, {VIEW_VERSION}"
            step = "install a newer hf-condense, or relabel the set"
            raise ArtefactError(f"{folder}: format, view version", version, allowed, step)
        parts = settings.get("accumulation", 1)
        if (
            not isinstance(parts, int)
            or not 1 <= parts <= settings["batch_size"]
            or (parts > 1 if version[0] < PARTS else parts == 1 and version[0] == PARTS)
        ):
            allowed = f"2 to {settings['batch_size']} from format {PARTS} on, none before"
            raise ArtefactError(f"{folder}: accumulation", parts, allowed, "relabel the set")
        store = cls(folder, manifest)
        for number, (name, facts) in enumerate(manifest["files"].items()):
            found = regular_size(check_inside(folder, folder / name))
            if found != facts["bytes"]:
                raise store._damage(number, "missing" if found is None else found, f"{facts['bytes']} bytes")
        if num_classes is not None and num_classes != store.num_classes:
            raise ArtefactError(str(folder), store.num_classes, f"labels of {num_classes} classes", "relabel the set")
        if images is not None:
            store._check_images(images)
        return store

    @property
    def bytes(self) -> int:
        """Bytes of all its files; a student of virtual labels needs its teacher beside them."""
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
        teacher: Ensemble | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch, augmented as the teacher saw them, with its logits (fp32) as `soft`.

        Args:
            epoch: any of 0..epochs-1.
            images: the uint8 images [N, C, S, S] of the store (or the float ones that they decode to), on any device;
                `labels` int64 [N] beside them.
            batch_size: the stored one, or a divisor of it. Parts of a mixed batch carry no partners.
            device: where batches are made; defaults to that of the images.
            teacher: makes virtual labels, after it was compared with them once (`regeneration`); else not used.

        Raises:
            ConfigError: another batch size, an epoch that is not stored, or virtual labels without a teacher.
            ArtefactError: the epoch's file is missing or damaged, keyed views are drawn otherwise than when they were
                labelled, or the teacher's labels are different.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size < 1 or self.batch_size % size:
            raise ConfigError("batch_size", size, f"{self.batch_size} or a divisor", "change it, or relabel the set")
        check(len(images) == self.settings["images"], "images", len(images), f"the {self.settings['images']} stored")
        if self.virtual:
            self._trust(teacher, images, labels, device)
        for rows, views, stored in self.batches(epoch):
            batch = render(images, labels, rows, views, self.policy, device)
            batch.soft = (
                self._made_again(teacher, batch) if self.virtual else self._logits(stored, batch.images.device)
            )
            yield from slices(batch, size)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Views, Tensor | None]]:
        """(rows int64 [b], views, labels [b, K] as stored; None where virtual) of each batch of an epoch, on the CPU."""
        check(0 <= epoch < self.epochs, "epoch", epoch, f"0 to {self.epochs - 1}", "store more epochs")
        if self.virtual:
            return ((rows, views, None) for rows, views in self._drawn(epoch))
        columns = self._columns(epoch)
        logits = self._encoding.decode(columns, self.num_classes)
        if self.settings["views"] == "explicit":
            kept = {name: value for name, value in columns.items() if name not in self._encoding.columns}
            evened = self.settings["format"] >= EVENED
            sizes = batch_sizes(self.rows, self.batch_size) if evened else self.batch_size
            return self._checked(table_batches(kept | {"logits": logits}, sizes))
        drawn = list(self._drawn(self.settings.get("kept", range(self.epochs))[epoch]))
        if views_digest(drawn) != int(columns["drawn"][0]):
            raise ArtefactError(
                f"{self.folder}: views of epoch {epoch}",
                "drawn otherwise than when they were labelled",
                "those of the versions of numpy and hf_condense that made the store",
                "use these, or relabel the set",
            )
        return ((rows, views, part) for (rows, views), part in zip(drawn, logits.split([len(r) for r, _ in drawn])))

    def _checked(self, batches: Iterator[tuple[Tensor, Views, Tensor]]) -> Iterator[tuple[Tensor, Views, Tensor]]:
        for rows, views, labels in batches:
            check_partners(views.partner, len(rows), str(self.folder))
            yield rows, views, labels

    def regeneration(
        self, teacher: Ensemble, images: Tensor, labels: Tensor, device: torch.device | None = None
    ) -> Regeneration:
        """Whether `teacher` reproduces the virtual labels; `images` and `labels` as for `replay`."""
        teacher.to(device or images.device)

        def labelled(epoch: int) -> Iterator[tuple[Tensor, Views, Tensor]]:
            for rows, views in self._drawn(epoch):
                batch = render(images, labels, rows, views, self.policy, device)
                yield rows, views, self._made_again(teacher, batch)

        again = torch.cat([logits.cpu() for _, _, logits in probes(labelled, self.epochs)])
        kept = self._columns(0)["logits"]
        return compare_probes(kept, again[: len(kept)], self.settings["close"])

    def _made_again(self, teacher: Ensemble, batch: Batch) -> Tensor:
        """The teacher's logits of a batch, in the parts that it was labelled in."""
        return teacher.logits(batch.images, batch_sizes(len(batch.labels), self._part))

    def _trust(self, teacher: Ensemble | None, images: Tensor, labels: Tensor, device: torch.device | None) -> None:
        """Compares a teacher with the stored labels, the first time that it is used."""
        wanted = self.settings["teacher"]
        known = ", ".join(f"{m['name']} (weights {m['sha256'][:12]})" for m in wanted["members"])
        if teacher is None:
            raise ConfigError("teacher", None, f"the Ensemble that makes these virtual labels: {known}", "give it")
        if teacher is self._trusted:
            return
        found = self.regeneration(teacher, images, labels, device)
        log.info("virtual labels made again: %s (mean divergence %.2g)", found.verdict, found.divergence)
        if found.verdict == "different":
            raise ArtefactError(
                f"{self.folder}: virtual labels made again",
                f"different, with a mean divergence of {found.divergence:.3g}",
                f"up to {self.settings['close']}",
                f"give the teacher {known}, averaged by {wanted['average']}",
            )
        self._trusted = teacher

    def _drawn(self, number: int) -> Iterator[tuple[Tensor, Views]]:
        """Rows and views of each batch of the epoch that was drawn by this number."""
        s = self.settings
        return epoch_views(
            self.policy, self.key, number, s["images"], s["side"], s["side"], self.batch_size, s["limit"]
        )

    def _columns(self, epoch: int) -> dict[str, Tensor]:
        """The stored columns of an epoch."""
        number, place = divmod(epoch, self.settings["epochs_per_file"])
        group, place = divmod(place, self._group)
        found = self._row_group(number, group)
        if self.virtual:
            return found
        rows = slice(place * self.rows, (place + 1) * self.rows)
        return {name: value[rows] for name, value in found.items()}

    def _row_group(self, number: int, group: int) -> dict[str, Tensor]:
        """The columns of a row group; kept until another one is read, where it holds several epochs."""
        if self._read is not None and self._read[:2] == (number, group):
            return self._read[2]
        self._read = None  # two groups are never in memory together
        try:
            if self._opened is None or self._opened[0] != number:
                self._check_sum(number)
                self._opened = number, self._open(number)
            found = read_group(self._opened[1], group)
        except (OSError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damage(number, str(error), "a Parquet file as hf-condense writes it") from None
        check_columns(found, self._widths, self.settings, self.policy, str(self.folder / file_name(number)))
        if self._group > 1:
            self._read = number, group, found
        return found

    def _open(self, number: int) -> pq.ParquetFile:
        """The file of that number, once its size in memory is that of the manifest."""
        step, path = self.settings["epochs_per_file"], self.folder / file_name(number)
        epochs, file = min(step, self.epochs - number * step), pq.ParquetFile(path, memory_map=True)
        starts = range(0, epochs, self._group)[
            : file.metadata.num_row_groups + 1
        ]  # a false manifest may name millions
        rows = None if self.virtual else [self.rows * min(self._group, epochs - start) for start in starts]
        check_file(file, path, rows, self._widths)
        return file

    def _logits(self, stored: Tensor, device: torch.device) -> Tensor:
        """fp32 logits on the device."""
        values = stored.to(device, non_blocking=True).float()
        if self.settings["kind"] == "logits":
            return values
        return as_logits(values) * (self.settings["temperature"] or 1.0)

    def _check_images(self, images: Tensor) -> None:
        found = image_digest(images)
        if found != self.settings["images_sha256"]:
            raise ArtefactError(
                str(self.folder),
                f"labels of {self.settings['images']} other images",
                f"labels of these {len(images)} (sha256 {found[:12]})",
                "relabel the set",
            )

    def _check_sum(self, number: int) -> None:
        path = self.folder / file_name(number)
        wanted = self.manifest["files"].get(path.name, {}).get("sha256")
        found = sha256_file(path) if path.exists() else "missing"
        if found != wanted:
            raise self._damage(number, found, f"sha256 {wanted}")

    def _damage(self, number: int, found: Any, allowed: str) -> ArtefactError:
        step = self.settings["epochs_per_file"]
        epochs = f"epochs {number * step} to {min((number + 1) * step, self.epochs) - 1}"
        next_step = "delete this file and run the relabel stage again, or download it again"
        return ArtefactError(f"{self.folder / file_name(number)} ({epochs})", found, allowed, next_step)
