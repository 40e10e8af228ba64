"""Real images that a student still misses, the simplest first: one curriculum of CCFS (arXiv:2503.18872)."""

from __future__ import annotations

import numpy as np
import torch

from hf_condense.data.randomness import Key


def parts(total: int, count: int) -> list[int]:
    """`total` images of a class in up to `count` curricula: equal ones, the first ones one larger; none is empty."""
    each, over = divmod(total, count) if count else (0, 0)
    return [size for j in range(count) if (size := each + (j < over))]


def added(
    known: torch.Tensor, missed: torch.Tensor, used: torch.Tensor, hard: torch.Tensor, count: int, key: Key
) -> tuple[np.ndarray, int]:
    """Places int64 [count] in a class of what a curriculum adds, and how many of them are no candidates.

    Candidates are unused images that the teacher knows and the student misses. Where they are too few, other unused
    ones that the teacher knows fill the class, then the rest. In each kind the simplest come first; equal ones in the
    random order of `key`.

    Args:
        known, missed, used: bool [n]; `hard`: [n], larger is harder. At least `count` images are unused.
    """
    kind = torch.where(used, 3, torch.where(~known, 2, torch.where(~missed, 1, 0))).numpy()
    drawn = key.permutation(len(kind))
    order = drawn[np.lexsort((hard.numpy()[drawn], kind[drawn]))][:count]
    return order, int((kind[order] > 0).sum())
