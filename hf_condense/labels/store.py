"""Writes a label store: the teacher's labels for the views of a training, as Parquet that `datasets` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from hf_condense.config import LabelSettings, check
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy, Views
from hf_condense.data.formation import decode_set
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.files import canonical_json, remove_leftovers, sha256_file
from hf_condense.labels.columns import epoch_table, expected_bytes, write_epochs
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.formats import kept_epochs, store_format
from hf_condense.labels.labelled_views import LabelledViews
from hf_condense.labels.regeneration import CLOSE, probe_table, probes
from hf_condense.labels.replay import FORMAT, LabelStore, file_name
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import part_size
from hf_condense.processes import Processes
from hf_condense.progress import Progress
from hf_condense.records.base import read_record, write_record
from hf_condense.records.labels import StoreManifest

# before compression; viewers read whole row groups, so these hold several epochs of a small set, and files several groups
GROUP_BYTES, FILE_BYTES = 4 << 20, 8 << 20


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
    form: dict[str, Any] | None = None,
    limit: int | None = None,
    dtype: str = "float16",
    accelerator=None,
    progress: Progress | None = None,
    formation_factor: int = 1,
) -> LabelStore:
    """Labels views of `epochs` epochs, and resumes an interrupted call with the same arguments.

    Args:
        folder: becomes `manifest.json` and `views-<n>.parquet`, each file written atomically.
        images: the published uint8 images [N, C, S, S]; `labels` their classes, int64 [N].
        key: determines order and views (`labels.views.view_batches`), and the epochs of a smaller store.
        batch_size: mixing partners come from one batch, so students train in this size or a divisor of it.
        form: the stored columns, and in how many parts a batch is labelled (`formats.store_format`); default: all.
        limit: most batches an epoch.
        dtype: of logits that are stored as they are, "float16" or "float32".
        accelerator: an `accelerate.Accelerator` whose processes share the files among them.
        progress: advances by one an epoch.
        formation_factor: f, where each image holds f x f training images (`data.formation`): views are of those.

    Raises:
        ModelError: labels are not finite; the message names the network.
        ArtefactError: the folder holds labels made with other settings (the first that differs is named).
    """
    check(images.dtype == torch.uint8, "images", str(images.dtype), "the published uint8 images")
    check(dtype in ("float16", "float32"), "label dtype", dtype, "float16, float32")
    check(epochs >= 1, "label_epochs", epochs, "1 or more")
    form = form or store_format(LabelSettings())
    kept, virtual, parts = kept_epochs(form, key, epochs), form["store"] == "virtual", form.get("accumulation", 1)
    number = "float32" if virtual else dtype
    settings = _described(images, policy, form, number, teacher.num_classes, list(key.parts), teacher.describe())
    images, labels = decode_set(images, labels, formation_factor)
    settings |= _extent(settings, images, batch_size, len(kept), limit)
    settings |= _exceptions(kept, epochs, virtual, formation_factor)
    size = settings["batch_size"]
    check(1 <= parts <= size, "accumulation", parts, f"up to the batch of {size}")
    labelled = LabelledViews(
        images.to(device),
        labels.to(device),
        teacher.to(device),
        policy,
        key,
        batch_size=size,
        part=part_size(size, parts),
        limit=limit,
        number=getattr(torch, number),
        first_few=virtual,
    )

    def table(position: int) -> pa.Table:
        if virtual:
            return probe_table(probes(labelled, epochs))
        return epoch_table(kept[position], labelled(kept[position]), encoding_of(settings), form["views"])

    return _write_files(Path(folder), settings, table, accelerator, progress)


def write_given(
    folder: Path | str,
    images: Tensor,
    policy: ViewPolicy,
    epochs: int,
    batch_size: int,
    classes: int,
    given: Callable[[int], Iterable[tuple[Tensor, Views, Tensor]]],
    *,
    teacher: dict[str, Any],
    kind: Literal["logits", "probabilities"] = "logits",
    temperature: float | None = None,
    dtype: str = "float16",
) -> LabelStore:
    """Writes a full store of imported labels, with explicit views.

    Args:
        images: those of the labels, uint8 [N, C, S, S].
        given: epoch -> (rows int64 [b], views, labels [b, K]) of its batches of `batch_size` (the last may be short).
        teacher: known facts of it, with the keys of `Ensemble.describe`, including `average`.
        kind: of labels; probabilities are turned into logits when they are read.
        temperature: that softened the probabilities; students then get logits from before it.
        dtype: "float16" or "float32".
    """
    form = store_format(LabelSettings())
    settings = _described(images, policy, form, dtype, classes, [], teacher, kind, temperature)
    settings |= _extent(settings, images, batch_size, epochs, None)
    return _write_files(Path(folder), settings, lambda epoch: epoch_table(epoch, given(epoch), encoding_of(settings)))


def _described(
    images: Tensor,
    policy: ViewPolicy,
    form: dict[str, Any],
    dtype: str,
    classes: int,
    key: list[Any],
    teacher: dict[str, Any],
    kind: str = "logits",
    temperature: float | None = None,
) -> dict[str, Any]:
    """What the labels of a store are, and which views of which published images they are of."""
    return {
        **form,
        "kind": kind,
        "temperature": temperature,
        "dtype": dtype,
        "classes": classes,
        "policy": asdict(policy),
        "key": key,
        "images_sha256": image_digest(images),
        "teacher": teacher,
    }


def _extent(settings: dict, images: Tensor, batch_size: int, epochs: int, limit: int | None) -> dict[str, Any]:
    """The size of a store, and the number of epochs in a row group and in a file."""
    size = min(batch_size, len(images))
    rows = min(len(images), (limit or len(images)) * size)
    one = expected_bytes(
        1, rows, settings["classes"], size, True, encoding=encoding_of(settings), views=settings["views"]
    )
    group = max(1, min(epochs, math.ceil(GROUP_BYTES / one)))
    return {
        "format": FORMAT,
        "view_version": VIEW_VERSION,
        "images": len(images),
        "rows": rows,
        "channels": images.shape[1],
        "side": images.shape[2],
        "batch_size": size,
        "limit": limit,
        "epochs": epochs,
        "epochs_per_group": group,
        "epochs_per_file": max(group, min(epochs, FILE_BYTES // one // group * group)),
    }


def _exceptions(kept: Sequence[int], epochs: int, virtual: bool, formation_factor: int) -> dict[str, Any]:
    """Settings that only some stores have, or have otherwise: of fewer epochs, of probes alone, of decoded tiles."""
    found: dict[str, Any] = {"kept": kept} if len(kept) < epochs else {}
    if virtual:
        found |= {"close": CLOSE, "epochs_per_file": epochs, "epochs_per_group": epochs}
    if formation_factor > 1:
        found["formation_factor"] = formation_factor
    return found


def _write_files(
    folder: Path,
    settings: dict[str, Any],
    table: Callable[[int], pa.Table],
    accelerator=None,
    progress: Progress | None = None,
) -> LabelStore:
    """Writes the missing files and the manifest; `table` makes the epoch at a position (virtual: the probes of all)."""
    processes = Processes(accelerator)
    if processes.main:
        _claim(folder, settings)
    processes.wait()
    epochs, step = settings["epochs"], settings["epochs_per_file"]
    for number, first in enumerate(range(0, epochs, step)):
        positions, path = range(first, min(first + step, epochs)), folder / file_name(number)
        if number % processes.world == processes.rank and not path.exists():
            write_epochs(path, _groups(positions, settings, table, progress), encoding_of(settings))
        elif progress:
            progress.advance(len(positions))
        if progress:
            progress.stop_if_asked()
    processes.wait()
    if processes.main:
        _finish(folder)
    processes.wait()
    return LabelStore.open(folder)


def _groups(
    positions: range, settings: dict[str, Any], table: Callable[[int], pa.Table], progress: Progress | None
) -> Iterator[pa.Table]:
    """The row groups of a file, one in memory at a time."""
    size = settings["epochs_per_group"]
    for start in range(0, len(positions), size):
        group = positions[start : start + size]
        yield pa.concat_tables([table(i) for i in (group[:1] if settings["store"] == "virtual" else group)])
        if progress:
            progress.advance(len(group))


def _claim(folder: Path, settings: dict) -> None:
    """Writes the manifest of an unfinished store, or compares `settings` with the one that is there."""
    path = folder / "manifest.json"
    if not path.exists():
        write_record(path, StoreManifest, {"settings": settings, "record": {"torch": torch.__version__}})
        return
    remove_leftovers(folder)
    manifest, wanted = read_record(path, StoreManifest), json.loads(canonical_json(settings))
    there = manifest["settings"]
    for name in {**wanted, **there}:
        found, value = there.get(name), wanted.get(name)
        if found != value:
            raise ArtefactError(f"{path}: {name}", found, repr(value), "delete the folder or choose another one")
    if any(not (folder / name).exists() for name in manifest.get("files", ())):
        unfinished = {name: value for name, value in manifest.items() if name != "files"}
        write_record(path, StoreManifest, unfinished)


def _finish(folder: Path) -> None:
    """Adds the list of files to the manifest, which marks the store as complete."""
    manifest = read_record(folder / "manifest.json", StoreManifest)
    if "files" not in manifest:
        paths = sorted(folder.glob("views-*.parquet"))
        manifest["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}
        write_record(folder / "manifest.json", StoreManifest, manifest)
