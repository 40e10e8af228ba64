"""Which class of the source dataset a folder, word or number of an imported set means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hf_condense.config import DataSettings
from hf_condense.data.columns import find_label_column
from hf_condense.data.names import KNOWN, canonical_name, select_classes
from hf_condense.data.reading import open_splits
from hf_condense.data.source import SourceInfo
from hf_condense.data.streams import features_of
from hf_condense.errors import ArtefactError, DataError

NUMBERED = re.compile(r"(?:new|class)?[_-]?(\d+)")  # new007 (SRe2L, EDC), 00007 (RDED)


def source_of(dataset: str, class_names: Path | None = None) -> SourceInfo:
    """The source dataset of a set, as far as it is known without reading its images.

    Args:
        dataset: short name, Hub id or folder.
        class_names: file with its class names, one a line, in label order; then the dataset is not opened at all.

    Raises:
        DataError: the dataset cannot be opened, has no class names, or the file with them cannot be read.
    """
    known = KNOWN.get(canonical_name(dataset))
    revision, license, split = None, None, (known and known.train_split) or "train"
    if class_names is not None:
        names = _lines(class_names)
    else:
        try:
            opened = open_splits(DataSettings(dataset=dataset, streaming=True))
            split = split if split in opened.splits else next(iter(opened.splits))
            features = features_of(opened.splits[split])
            names = getattr(features[find_label_column(features, known and known.label_column)], "names", None)
        except DataError as error:
            raise DataError(
                error.field, error.value, error.allowed, f"{error.next_step}; or give --class_names FILE"
            ) from error
        if names is None:
            raise DataError("dataset", dataset, "a dataset whose labels have names", "give --class_names FILE")
        if known and known.classes:
            names = [names[number] for number in select_classes((known.classes,), names)]
        revision, license = opened.revision, opened.license
    return SourceInfo(
        id=canonical_name(dataset),
        revision=revision,
        train_split=split,
        test_split=(known and known.test_split) or "test",
        license=license,
        fingerprint="unknown",
        class_names=tuple(names),
        held_out=False,
        skipped=0,
    )


def _lines(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("class_names", str(path), f"a text file ({error})", "check the path") from None
    if len(set(names)) < max(2, len(names)):
        raise DataError("class_names", str(path), "two classes or more, each once, one a line", "mend the file")
    return names


def class_numbers(found: Sequence[str], class_names: Sequence[str], place: Path | str) -> list[int]:
    """The class of each of `found`: a name, a WordNet id, or a class number, alone or after `new` or `class`.

    If one is exactly a class name, all are read as names: classes that are named 0, 1, 10, 11, 2 ... are not taken by
    position.

    Raises:
        ArtefactError: a number that no class has, a name twice or unknown, or names beside numbers.
    """
    others = [name for name in found if name not in class_names]
    if not others:
        return [list(class_names).index(name) for name in found]
    if len(others) == len(found) and all(NUMBERED.fullmatch(name) for name in found):
        numbers = [int(NUMBERED.fullmatch(name)[1]) for name in found]
        check_numbers(numbers, class_names, place)
        return numbers
    number = next((name for name in others if name.isdigit()), None)
    if number is not None:
        step = "name the dataset it was made from with --dataset"
        raise ArtefactError(f"{place}: classes", number, "a name, as others of these are", step)
    try:
        return select_classes(found, class_names)
    except DataError as error:
        raise ArtefactError(f"{place}: classes", error.value, error.allowed, error.next_step) from error


def check_numbers(numbers: Iterable[int], class_names: Sequence[str], place: Path | str) -> None:
    """Raises ArtefactError for class numbers that the source dataset does not have."""
    wrong = sorted({int(n) for n in numbers if not 0 <= n < len(class_names)})
    if wrong:
        allowed = f"class numbers 0 to {len(class_names) - 1} of the source dataset"
        raise ArtefactError(f"{place}: classes", wrong[0], allowed, "name the dataset it was made from with --dataset")
