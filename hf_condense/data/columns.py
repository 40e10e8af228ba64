"""Which column holds the images, which the labels, and what the labels are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_condense.config import nearest
from hf_condense.errors import DataError

IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values")
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "category",
    "y",
    "fine_label",
    "species",
    "breed",
    "cls",
)
UNLABELLED = -1


def find_image_column(features: Any, named: str | None) -> str:
    """Name of the column with the images: the named one, else the only one of type Image.

    Args:
        features: `datasets.Features` of the split.

    Raises:
        DataError: no such column, none of that type, or several.
    """
    from datasets import Image, Value

    encoded = [n for n, f in features.items() if isinstance(f, Value) and f.dtype in ("binary", "large_binary")]
    if named is not None:
        if named not in features:
            raise DataError("image_column", named, f"a column: {', '.join(features)}", nearest(named, list(features)))
        if not isinstance(features[named], Image) and named not in encoded and not _is_path(features[named]):
            step = f'cast it first: dataset.cast_column("{named}", datasets.Image())'
            raise DataError("image_column", named, f"images, not {features[named]}", step)
        return named
    found = [n for n, f in features.items() if isinstance(f, Image)]
    found = found or [n for n in encoded if n in IMAGE_NAMES]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            "image_column", None, f"one of {', '.join(found)}: all hold images", "say which one with --image_column"
        )
    raise DataError(
        "image_column", None, f"a column of type Image; the columns are {', '.join(features) or 'none'}",
        "name the one with encoded images with --image_column",
    )  # fmt: skip


def find_label_column(features: Any, named: str | None) -> str:
    """Name of the column with the labels: the named one, else the only ClassLabel, else one called label, class ...

    Raises:
        DataError: no such column, none that looks like labels, or several.
    """
    from datasets import ClassLabel

    if named is not None:
        if named not in features:
            raise DataError("label_column", named, f"a column: {', '.join(features)}", nearest(named, list(features)))
        if not _is_label(features[named]):
            raise DataError(
                "label_column", named, f"class labels, whole numbers or words, not {features[named]}", "name another"
            )
        return named
    found = [n for n, f in features.items() if isinstance(f, ClassLabel)]
    if not found:
        found = [n for n in LABEL_NAMES if n in features and _is_label(features[n])][:1]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            "label_column", None, f"one of {', '.join(found)}: all hold labels", "say which one with --label_column"
        )
    raise DataError(
        "label_column", None, f"a column of class labels; the columns are {', '.join(features) or 'none'}",
        "name it with --label_column; in a folder of images, put those of each class into a folder of its own",
    )  # fmt: skip


def _is_label(feature: Any) -> bool:
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and (feature.dtype in ("string", "large_string", "bool") or "int" in feature.dtype)
    )


def _is_path(feature: Any) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def read_labels(
    dataset: Any, column: str, split: str, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N] and class names; only the label column is read.

    Words and numbers without names are put in sorted order. With `class_names` (those of the training split) labels
    are mapped to them by name. Rows without a label are -1, as are empty words.

    Raises:
        DataError: a number without a name, or a label that the training split does not have.
    """
    from datasets import ClassLabel

    feature = dataset.features[column]
    values = dataset.select_columns([column]).with_format("arrow")[:].column(0)
    if isinstance(feature, ClassLabel):
        numbers = values.fill_null(UNLABELLED).to_numpy().astype(np.int64)
        own = tuple(feature.names or ())
        if len(numbers) and numbers.max() >= len(own):
            told = f"in split {split}, class numbers below {len(own)}, the number of names"
            raise DataError(column, int(numbers.max()), told, "mend the names of that column's ClassLabel")
        numbers[numbers < 0] = UNLABELLED
    else:
        distinct = sorted(v for v in values.unique().to_pylist() if v is not None and v != UNLABELLED and v != "")
        place = {v: i for i, v in enumerate(distinct)}
        numbers = np.fromiter((place.get(v, UNLABELLED) for v in values.to_pylist()), np.int64, len(values))
        own = tuple(str(v) for v in distinct)
    if class_names is None or tuple(class_names) == own:
        return numbers, own
    unknown = [own[i] for i in np.unique(numbers[numbers >= 0]) if own[i] not in class_names]
    if unknown:
        raise DataError(
            column, unknown[0], f"in split {split}, labels that the training split has too",
            "choose another --test_split or --label_column",
        )  # fmt: skip
    table = np.array([list(class_names).index(n) if n in class_names else UNLABELLED for n in own] + [UNLABELLED])
    return table[numbers], tuple(class_names)
