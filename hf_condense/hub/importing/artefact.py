"""Writes an imported set as a folder of this library, marked as imported and unverified."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_condense.config import check
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.data.source import SourceInfo
from hf_condense.errors import ArtefactError
from hf_condense.files import sha256_file
from hf_condense.hub.artefact import Artefact, write_artefact
from hf_condense.hub.importing.fkd import write_fkd_store
from hf_condense.hub.importing.names import source_of
from hf_condense.hub.importing.sets import FoundSet, read_folder, read_parquet_set, read_tensors
from hf_condense.hub.provenance import gather_content, gather_record, portable, training_block
from hf_condense.hub.record import CONDENSATION
from hf_condense.labels.store import LabelStore
from hf_condense.methods import method_info
from hf_condense.methods.registry import MethodInfo
from hf_condense.snapshots import fetch_snapshot

READERS = {"folder": read_folder, "parquet": read_parquet_set, "tensors": read_tensors}
UNVERIFIED = "imported, unverified"
UNKNOWN = MethodInfo(
    name="imported",
    title="unknown method",
    where="",
    paper="",
    citation="",
    pool=False,
    real_pixels=True,
    summary="",
)


def import_set(
    kind: str,
    path: Path | str,
    output_dir: Path | str,
    dataset: str,
    *,
    method: str | None = None,
    soft_labels: Path | str | None = None,
    class_names: Path | str | None = None,
    pixels: str = "normalised",
    revision: str | None = None,
) -> Path:
    """Writes a distilled set of another project as a folder that `DistilledDataset.load` reads.

    It is not checked against the method or the source dataset; the provenance records this and sha256 of its files.

    Args:
        kind: "folder" of images by class, "parquet", or "tensors" of `torch.save`.
        path: file or folder; for "parquet" also a Hub id, read at `revision`.
        output_dir: becomes the folder; one that is there is replaced if it is a distilled dataset.
        dataset: what it was made from: short name, Hub id or folder. Gives class names, and mean and std of tensors.
        method: method of this library that it was made with, for card and citation.
        soft_labels: an official folder `epoch_*/batch_*.tar` of labels of these images.
        class_names: file with the class names of the dataset, one a line, in label order; it is then not opened.
        pixels: what tensors hold: pixels "normalised" with mean and std of the dataset, or "unit" ones. Whitened pixels
            (ZCA) are no images and cannot be imported.

    Returns:
        `output_dir`.

    Raises:
        ConfigError: an unknown kind, or a setting that does not fit it.
        DataError: the dataset gives no class names.
        ArtefactError: files that are damaged or unsafe, or that do not fit each other or the dataset.
    """
    check(kind in READERS, "kind", kind, ", ".join(READERS))
    check(pixels in ("normalised", "unit"), "pixels", pixels, "normalised, unit")
    output_dir = Path(output_dir)
    replaceable = not output_dir.exists() or (output_dir / CONDENSATION).exists()
    check(replaceable, "output_dir", str(output_dir), "a new folder, or a distilled dataset to replace")
    info = UNKNOWN if method is None else method_info(method)
    source = source_of(dataset, class_names and Path(class_names))
    root, commit = _files(kind, path, revision)
    if kind == "tensors":
        found = read_tensors(root, source.class_names, published_scale(dataset) if pixels == "normalised" else None)
    else:
        found = READERS[kind](root, source.class_names)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    # beside the result: the store's files are linked into it, which only works on one disk
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", suffix=".part", dir=output_dir.parent) as scratch:
        store, hashes = None, {"images": file_hashes(found.files, root)}
        if soft_labels is not None:
            labels = Path(soft_labels)
            store = write_fkd_store(labels, Path(scratch), found.images, found.labels, len(source.class_names))
            hashes["soft_labels"] = file_hashes(sorted(labels.glob("epoch_*/batch_*.tar")), labels)
        imported = {"verified": False, "kind": kind, "place": str(path), "revision": commit, "sha256": hashes}
        write_artefact(output_dir, _artefact(found, store, info, source, imported))
    return output_dir


def _files(kind: str, path: Path | str, revision: str | None) -> tuple[Path, str | None]:
    """The file or folder of a set on this machine, and the commit of one that is on the Hub."""
    if kind != "parquet" or Path(path).exists():
        return Path(path), None
    fetched = _fetched(str(path), revision)
    return fetched, fetched.name  # a snapshot in the cache is named by its commit


def _artefact(
    found: FoundSet, store: LabelStore | None, info: MethodInfo, source: SourceInfo, imported: dict[str, Any]
) -> Artefact:
    """The set with the provenance of an imported one; `imported` says from where, and sha256 of its files."""
    content = gather_content(
        method=replace(info, title=f"{info.title}, {UNVERIFIED}", summary=_summary(info, imported["kind"], store)),
        config={},
        source=source,
        models=[],
        regimes=["hard", *["stored"] * bool(store)],
        training=_training(found, store),
        store=store and store.settings,
        imported=portable(imported),
    )
    return Artefact(
        found.images,
        found.labels,
        list(source.class_names),
        content,
        gather_record({}, torch.device("cpu")),
        float_images=found.float_images,
        store_folder=store and store.folder,
    )


def published_scale(dataset: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std with which published code normalises this dataset, one for each channel.

    Raises:
        ConfigError: they are not known.
    """
    known = KNOWN.get(canonical_name(dataset))
    names = ", ".join(name for name, entry in KNOWN.items() if entry.mean)
    allowed = f"one whose published mean and std are known ({names})"
    check(known is not None and known.mean is not None, "dataset", dataset, allowed, "or give --pixels unit")
    return known.mean, known.std


def file_hashes(files: Sequence[Path], root: Path) -> dict[str, str]:
    """sha256 of each file; of the files of a folder below `root`, of the list that `sha256sum *` prints in it.

    A thousand folders of images or labels thus give a thousand lines.
    """
    listed: dict[str, list[str]] = {}
    for file in sorted(files):
        name = file.parent.relative_to(root if root.is_dir() else root.parent).as_posix()
        listed.setdefault(name, []).append(f"{sha256_file(file)}  {file.name}\n")
    found = {}
    for folder, lines in listed.items():
        if folder == ".":
            found |= {line[66:-1]: line[:64] for line in lines}
        else:
            found[f"{folder}/"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return found


def _fetched(path: str, revision: str | None) -> Path:
    """The Parquet files of a Hub dataset repository, in the Hub's cache."""
    return fetch_snapshot(
        path,
        "dataset",
        revision=revision,
        patterns=["*.parquet", "**/*.parquet"],
        error=ArtefactError,
        field="path",
        allowed="a file, a folder or a Hub dataset repository",
    )


def _training(found: FoundSet, store: LabelStore | None) -> dict:
    """Training facts known for an imported set: batch and epochs of stored labels, otherwise none."""
    if store is None:
        return training_block("not recorded", None, min(len(found.images), 64), 1)
    return training_block("not recorded", store.policy, store.batch_size, store.epochs)


def _summary(info: MethodInfo, kind: str, store: LabelStore | None) -> str:
    """The card's paragraph."""
    parts = f"{kind} files{' and official soft-label files' if store else ''}"
    by_name = f" The method is what the person who imported it said. {info.summary}" if info.summary else ""
    return f"Imported from {parts} that others published; neither method nor source has been verified.{by_name}"
