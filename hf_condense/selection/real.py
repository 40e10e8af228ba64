"""Real images of a class: checks their number, and draws random ones without replacement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.errors import DataError

CHUNK = 256  # images that are looked at together


def need_images(
    source: ImageSource, ipc: int, each: int = 1, label: int | None = None, remedy: str = "a smaller --ipc"
) -> None:
    """Whether every class (or the one of `label`) has `ipc * each` images; needs no decoding.

    Args:
        ipc: images to make of a class, for the message.
        each: different real images that one of them takes.
        remedy: advice to the user, for the message.

    Raises:
        DataError: a class has fewer; the one with the fewest is named.
    """
    classes = range(source.num_classes) if label is None else [label]
    count, worst = min((len(source.rows_of(c)), c) for c in classes)
    if ipc * each > count:
        images = f"{count} training image{'s' * (count != 1)}"
        raise DataError(
            "ipc",
            ipc,
            f"at most {count // each} (class {source.class_names[worst]!r} has {images}"
            + (f", and each takes {each})" if each > 1 else ")"),
            f"choose {remedy}, or leave that class out with --classes",
        )


def random_rows(source: ImageSource, labels: tuple[int, ...], key: Key) -> np.ndarray:
    """A row of `source` for each label, no row twice.

    Raises:
        DataError: as `need_images`.
    """
    labels_array = np.asarray(labels)
    rows = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels_array):
        places, candidates = np.flatnonzero(labels_array == c), source.rows_of(int(c))
        need_images(source, len(places), label=int(c))
        rows[places] = candidates[(key / int(c)).permutation(len(candidates))[: len(places)]]
    return rows


def random_real(source: ImageSource, labels: tuple[int, ...], size: int, key: Key) -> tuple[torch.Tensor, np.ndarray]:
    """Images uint8 [n, C, size, size] and their rows in `source`."""
    rows = random_rows(source, labels, key)
    return centre(source.images(rows), size).contiguous(), rows


def preferred_rows(
    source: ImageSource, label: int, count: int, key: Key, holds: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, int]:
    """Rows of `count` random images of a class for which `holds`, and of others where too few are left.

    Args:
        holds: rows int64 [b] -> bool [b]; called until enough are found.

    Returns:
        rows int64 [count], and how many of them are the others, which come last.

    Raises:
        DataError: as `need_images`.
    """
    need_images(source, count, label=label)
    rows = source.rows_of(label)
    rows, found, others = rows[key.permutation(len(rows))], [], []
    for part in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        fits = holds(part)
        found += part[fits].tolist()
        others += part[~fits].tolist()
        if len(found) >= count:
            break
    return np.asarray([*found, *others][:count], dtype=np.int64), max(0, count - len(found))
