"""Whole real images drawn at random, class by class, without replacement."""

from __future__ import annotations

import numpy as np
import torch

from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.errors import DataError


def random_rows(source: ImageSource, labels: tuple[int, ...], key: Key) -> np.ndarray:
    """A row of `source` for each label, no row twice.

    Raises:
        DataError: a class has fewer images than are asked of it.
    """
    labels_array = np.asarray(labels)
    rows = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels_array):
        places, candidates = np.flatnonzero(labels_array == c), source.rows_of(int(c))
        if len(places) > len(candidates):
            raise DataError(
                "ipc",
                len(places),
                f"at most {len(candidates)}, the images of class {source.class_names[c]!r}",
                "choose a smaller --ipc or leave that class out with --classes",
            )
        rows[places] = candidates[(key / int(c)).permutation(len(candidates))[: len(places)]]
    return rows


def random_real(source: ImageSource, labels: tuple[int, ...], size: int, key: Key) -> tuple[torch.Tensor, np.ndarray]:
    """Images uint8 [n, C, size, size] and their rows in `source`."""
    rows = random_rows(source, labels, key)
    return centre(source.images(rows), size).contiguous(), rows
