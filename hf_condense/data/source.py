"""Opens training and test images from settings (`--dataset cifar10 --classes ...`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_condense.config import DataSettings
from hf_condense.data.cell_forms import holds_pixels, image_cells, with_single_images
from hf_condense.data.cells import refuse_local_files
from hf_condense.data.columns import UNLABELLED, find_image_column, find_label_column, read_labels
from hf_condense.data.decoding import PixelFormat
from hf_condense.data.drawing import hold_out, per_class, scored_on
from hf_condense.data.images import ImageSource
from hf_condense.data.names import IMAGENET_MEAN, IMAGENET_STD, select_classes
from hf_condense.data.pixel_format import PROBE, settle_pixels, without_corrupt
from hf_condense.data.randomness import Key
from hf_condense.data.reading import Opened, open_splits
from hf_condense.data.streams import features_of, gather, limit_before_hold_out
from hf_condense.errors import DataError
from hf_condense.files import fingerprint

__all__ = ["ImageSource", "PixelFormat", "SourceInfo", "Splits", "open_source"]

logger = logging.getLogger(__name__)


# of all draws from a source: neither its split nor a part of it depends on the seed of a run
SOURCE_KEY = Key(0, "data")
TEST_NAMES = ("test", "validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class SourceInfo:
    """The origin of the images; recorded in the provenance of everything made from them.

    Args:
        id: short name, Hub id or folder as it was given.
        revision: commit of the Hub repository, where known.
        held_out: whether the test images were taken from the training split.
        skipped: images that did not decode and were left out (only with `skip_corrupt`).
    """

    id: str
    revision: str | None
    train_split: str
    test_split: str
    license: str | None
    fingerprint: str
    class_names: tuple[str, ...]
    held_out: bool
    skipped: int


@dataclass(frozen=True)
class Splits:
    """The result of `open_source`: images to condense, images to score on, and the origin of both."""

    train: ImageSource
    test: ImageSource
    info: SourceInfo


def open_source(settings: DataSettings, key: Key, dataset: Any = None) -> Splits:
    """Opens a dataset, finds its columns and classes, and gives its training and test images.

    Labels are read at once, images when they are first asked for.

    Args:
        settings: what to read and how.
        key: names the draws (hold-out, `max_per_class`, `max_test`).
        dataset: a `datasets.Dataset`, `DatasetDict` or `IterableDataset` to use instead of `settings.dataset`.

    Raises:
        DataError: it cannot be read as asked; the message names the setting, what is allowed and the next step.
    """
    opened = open_splits(settings, dataset)
    reader = _Reader(opened, settings, key)
    everything = reader.read(_train_split(opened, settings))
    train = _choose_classes(everything, opened, settings)
    _need_labels(train)
    _need_images(train)

    test = _find_test(reader, everything, train)
    held_out = test is None
    _tell_unused(opened, train.split, None if held_out else test.split)
    if test is None:
        kept, held = hold_out(train.labels, settings.hold_out, key / "hold-out")
        train, test = train.take(kept), train.take(held)
    if settings.max_per_class is not None:
        train = train.take(per_class(train.labels, settings.max_per_class, key / "max_per_class"))
    if settings.max_test is not None:
        test = test.take(scored_on(test.labels, settings.max_test, key))

    pixels = settle_pixels(train.source(None, opened.license, settings), opened.known, settings, key / "pixels")
    sources = [s.source(pixels, opened.license, settings) for s in (train, test)]
    skipped = 0
    if settings.skip_corrupt:
        before = sum(map(len, sources))
        sources = [without_corrupt(s) for s in sources]
        skipped = before - sum(map(len, sources))
        _need_images(replace(train, labels=sources[0].labels))
    _need_test(sources[1], held_out, settings)
    info = SourceInfo(
        opened.id,
        opened.revision,
        train.split,
        test.split,
        opened.license,
        fingerprint([s.fingerprint for s in sources]),
        train.names,
        held_out,
        skipped,
    )
    return Splits(*sources, info)


@dataclass(frozen=True)
class _Labelled:
    """A split whose labels are known: table of images, rows of it, their labels and the class names."""

    table: Any
    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    split: str

    def take(self, rows: np.ndarray) -> _Labelled:
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def renumber(self, names: tuple[str, ...]) -> _Labelled:
        """Rows whose class is in `names`, numbered by their place there. Unlabelled rows (-1) stay."""
        place = {name: i for i, name in enumerate(names)}
        labels = np.array([place.get(name, -2) for name in self.names] + [UNLABELLED])[self.labels]
        return replace(self, rows=self.rows[labels > -2], labels=labels[labels > -2], names=names)

    def source(self, pixels: PixelFormat | None, license: str | None, settings: DataSettings) -> ImageSource:
        pixels = pixels or PixelFormat(3, PROBE, IMAGENET_MEAN, IMAGENET_STD)  # until settled
        return ImageSource(
            self.table, self.rows, self.labels, self.names, pixels, self.split, license, settings.decode_gb
        )


class _Reader:
    """Reads splits of one opened dataset: same columns, same class names for each."""

    def __init__(self, opened: Opened, settings: DataSettings, key: Key) -> None:
        self.opened, self.settings, self.key = opened, settings, key
        self.columns: tuple[str, str] | None = None

    def read(self, split: str, names: tuple[str, ...] | None = None) -> _Labelled:
        """One split with its labels, mapped to `names` where given. A stream is gathered into a local file first."""
        from datasets import IterableDataset

        dataset, settings, known = self.opened.splits[split], self.settings, self.opened.known
        if not isinstance(dataset, IterableDataset):
            dataset = with_single_images(dataset)
        features = features_of(dataset)
        if self.columns is None:
            self.columns = (
                find_image_column(features, settings.image_column or (known.image_column if known else None)),
                find_label_column(features, settings.label_column or (known.label_column if known else None)),
            )
        for field, column in zip(("image_column", "label_column"), self.columns):
            if column not in features:
                step = "choose other splits or columns"
                raise DataError(field, column, f"a column of split {split} too: {', '.join(features)}", step)
        if isinstance(dataset, IterableDataset):
            if holds_pixels(features[self.columns[0]]):
                allowed = f"encoded images in a stream; {self.columns[0]} holds arrays of pixels"
                raise DataError(
                    "streaming", True, allowed, "read it without --streaming, or store a column of type Image"
                )
            dataset = self._gather(dataset, split)
        if len(dataset) == 0:
            raise DataError(
                "train_split" if names is None else "test_split", split, "a split with rows", "use another"
            )
        image_column, label_column = self.columns
        labels, names = read_labels(dataset, label_column, split, names)
        table = image_cells(dataset, image_column, self.opened.root, split)
        if self.opened.hub:
            refuse_local_files(table, split)
        return _Labelled(table, np.arange(len(labels)), labels, names, split)

    def _gather(self, stream: Any, split: str) -> Any:
        from datasets import ClassLabel

        settings, opened = self.settings, self.opened
        label = features_of(stream)[self.columns[1]]
        asked = settings.classes or ((opened.known.classes,) if opened.known and opened.known.classes else None)
        keep = None
        if asked and isinstance(label, ClassLabel):  # do not store images that --classes leaves out
            keep = {*select_classes(asked, label.names), UNLABELLED}.__contains__
        training = split not in TEST_NAMES and split != settings.test_split
        limit = limit_before_hold_out(settings.max_per_class, settings.hold_out) if training else None
        identity = [opened.id, opened.revision, settings.dataset_config, split, asked] if opened.revision else None
        return gather(
            stream, *self.columns, keep=keep, limit=limit, key=self.key / split, identity=identity, hub=opened.hub
        )


def _train_split(opened: Opened, settings: DataSettings) -> str:
    offered = list(opened.splits)
    wanted = settings.train_split or (opened.known.train_split if opened.known else None)
    if wanted is None:
        wanted = offered[0] if len(offered) == 1 else "train"
    if wanted not in offered:
        raise DataError("train_split", wanted, f"one of {', '.join(offered)}", "say which one with --train_split")
    return wanted


def _choose_classes(train: _Labelled, opened: Opened, settings: DataSettings) -> _Labelled:
    """Keeps the classes asked for, numbered in that order."""
    asked = settings.classes or ((opened.known.classes,) if opened.known and opened.known.classes else None)
    if asked is None:
        return train
    return train.renumber(tuple(train.names[c] for c in select_classes(asked, train.names)))


def _need_labels(train: _Labelled) -> None:
    unlabelled = int((train.labels < 0).sum())
    if unlabelled:
        raise DataError(
            "train_split",
            train.split,
            f"labelled images; {unlabelled} of its {len(train.labels)} rows have label -1",
            "choose another --train_split or --label_column, or filter those rows out",
        )
    if len(train.names) < 2:
        raise DataError("label_column", ", ".join(train.names), "two classes or more", "choose another --label_column")


def _need_images(train: _Labelled) -> None:
    counts = np.bincount(train.labels, minlength=len(train.names))
    empty = [train.names[c] for c in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(
            "classes",
            ", ".join(empty[:5]) + more,
            f"classes with images; split {train.split} has none of these",
            "name the other classes with --classes, or add images",
        )


def _need_test(test: ImageSource, held_out: bool, settings: DataSettings) -> None:
    if len(test) == 0:
        field, value = ("hold_out", settings.hold_out) if held_out else ("test_split", test.split)
        raise DataError(
            field,
            value,
            "test images, and none is left (of a single image of a class none is held out)",
            "give a class two images or more, or name a split with labelled images (--test_split)",
        )


def _find_test(reader: _Reader, everything: _Labelled, train: _Labelled) -> _Labelled | None:
    """The split to score on, or None where there is no labelled one."""
    splits, known, named = reader.opened.splits, reader.opened.known, reader.settings.test_split
    if named is not None and (named not in splits or named == train.split):
        others = ", ".join(s for s in splits if s != train.split) or "none here"
        raise DataError(
            "test_split", named, f"another split than {train.split}: {others}", "leave it out for a hold-out"
        )
    candidates = [named] if named else [*([known.test_split] if known else []), *TEST_NAMES]
    for split in dict.fromkeys(s for s in candidates if s in splits and s != train.split):
        test = reader.read(split, everything.names).renumber(train.names)
        unlabelled = int((test.labels < 0).sum())
        if not unlabelled and len(test.labels):
            return test
        needed = f"labelled images of these classes; {unlabelled} of {len(test.labels)} rows have label -1"
        if named:
            raise DataError("test_split", split, needed, "name a labelled split, or leave it out for a hold-out")
        logger.warning("split %s is not used for scores: it would need %s", split, needed)
    return None


def _tell_unused(opened: Opened, train: str, test: str | None) -> None:
    """Logs the splits that the run does not use; warns where test images are held out of training ones."""
    unused = [split for split in opened.splits if split not in (train, test) and split not in TEST_NAMES]
    if unused:
        sizes = [
            f"{s} ({len(opened.splits[s])} images)" if hasattr(opened.splits[s], "__len__") else s for s in unused
        ]
        logger.log(
            logging.WARNING if test is None else logging.INFO,
            "not used beside %s: %s. --test_split %s scores on it, --train_split %s condenses it",
            train,
            ", ".join(sizes),
            unused[0],
            unused[0],
        )
