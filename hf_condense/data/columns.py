"""Finds the columns of images and labels, and the class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_condense.config import nearest
from hf_condense.data.cell_forms import holds_lists_of_images, holds_pixels, is_binary, is_cell, is_list, is_text
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
    from datasets import Image

    if named is not None:
        if named not in features:
            raise DataError("image_column", named, f"a column: {', '.join(features)}", nearest(named, list(features)))
        feature = features[named]
        if not isinstance(feature, Image) and not any(
            fits(feature) for fits in (is_binary, is_cell, is_text, holds_pixels)
        ):
            raise DataError("image_column", named, f"images, not {feature}", _image_step({named: feature}))
        return named
    forms = (
        lambda name, feature: isinstance(feature, Image),
        lambda name, feature: is_cell(feature),
        lambda name, feature: name in IMAGE_NAMES and (is_binary(feature) or holds_pixels(feature)),
        lambda name, feature: holds_pixels(feature),
    )
    found: list[str] = []
    for fits in forms:
        found = found or [name for name, feature in features.items() if fits(name, feature)]
    if not found:
        raise DataError("image_column", None, f"a column of images; {_listed(features)}", _image_step(features))
    return _only(found, "image_column", "images")


def _only(found: list[str], setting: str, held: str) -> str:
    """The one column found; DataError where several hold the same."""
    if len(found) > 1:
        raise DataError(
            setting, None, f"one of {', '.join(found)}: all hold {held}", f"say which one with --{setting}"
        )
    return found[0]


def _listed(features: Any) -> str:
    return f"the columns are {', '.join(features) or 'none'}"


def _image_step(features: Any) -> str:
    """The next step for the user when none of these columns holds one image per row."""
    several = [name for name, feature in features.items() if holds_lists_of_images(feature)]
    if several:
        return (
            f"{several[0]} holds several images a row: write a row for each of them, with its label, and keep those of one "
            "object in one split"
        )
    encoded = [name for name, feature in features.items() if is_binary(feature)]
    if encoded:
        return f"if {' or '.join(encoded)} holds encoded images, give --image_column {encoded[0]}"
    words = [name for name, feature in features.items() if is_text(feature)]
    if words:
        return f"if {' or '.join(words)} names image files, give --image_column with its name and check that they are there"
    flat = [name for name, feature in features.items() if is_list(feature)]
    if flat:
        return (
            f"if {' or '.join(flat)} holds pixels, store them as arrays [height, width] or [height, width, 3] of uint8"
        )
    return "add a column of type datasets.Image"


def find_label_column(features: Any, named: str | None) -> str:
    """Name of the column with the labels: the named one, else the only ClassLabel, else one named label, class ...

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
    if not found:
        raise DataError("label_column", None, f"a column of class labels; {_listed(features)}", _label_step(features))
    return _only(found, "label_column", "labels")


def _label_step(features: Any) -> str:
    """The next step for the user when none of these columns has a usual name of labels."""
    inner = [
        f"{name}.{field}" for name, f in features.items() if isinstance(f, dict) for field in f if field in LABEL_NAMES
    ]
    if inner:
        return f"{inner[0]} lies inside a column: take it out with dataset.flatten(), and name it with --label_column"
    several = [name for name, f in features.items() if name in LABEL_NAMES and is_list(f)]
    if several:
        return (
            f"{several[0]} holds several labels an image: condensation needs one class each, so choose or split them"
        )
    possible = [name for name, f in features.items() if _is_label(f)]
    if possible:
        return f"if {' or '.join(possible[:5])} holds the classes, give --label_column {possible[0]}"
    return "add a column with the class of each image; in a folder of images, put those of each class into a folder of its own"


def _is_label(feature: Any) -> bool:
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and (feature.dtype in ("string", "large_string", "bool") or "int" in feature.dtype)
    )


def read_labels(
    dataset: Any, column: str, split: str, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N] and class names; only the label column is read.

    Strings, and numbers without names, are sorted. With `class_names` (those of the training split) labels
    are mapped to them by name. Rows without a label, or with an empty string, are -1.

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
            needed = f"in split {split}, class numbers below {len(own)}, the number of names"
            raise DataError(column, int(numbers.max()), needed, "mend the names of that column's ClassLabel")
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
            column,
            unknown[0],
            f"in split {split}, labels that the training split has too",
            "choose another --test_split or --label_column",
        )
    table = np.array([list(class_names).index(n) if n in class_names else UNLABELLED for n in own] + [UNLABELLED])
    return table[numbers], tuple(class_names)
