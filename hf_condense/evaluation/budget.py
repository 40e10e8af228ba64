"""What training costs in images seen and optimiser steps: at once or in stages, and the replay of chains.

In stages (PDD, arXiv:2310.06982) a network sees growing unions, so that equal epochs are not equal costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_condense.evaluation.protocol import Protocol


@dataclass(frozen=True)
class Budget:
    """Images that a network is shown, counted each time, and the steps that its optimiser takes."""

    samples: int
    steps: int


def union_sizes(images: int, stages: int) -> list[int]:
    """Images that each of `stages` cumulative stages sees, where each of them made `images`."""
    return [images * stage for stage in range(1, stages + 1)]


def epochs_budget(sizes: Sequence[int], epochs: int, batch: int) -> Budget:
    """Of one training after another on sets of `sizes` images, `epochs` passes each; the last batch may be short."""
    return Budget(epochs * sum(sizes), epochs * sum(-(-size // batch) for size in sizes))


def student_budget(protocol: Protocol, sizes: Sequence[int]) -> Budget:
    """Of a student trained by a resolved protocol in stages that see `sizes` images; one size: on a set at once."""
    staged = protocol.staged(sizes)
    epochs, limit = staged.duration(sizes[-1])
    if limit is not None:
        sizes = [min(sizes[0], limit * staged.batch)]
    return epochs_budget(sizes, epochs, staged.batch)


def replay_budget(images: int, stage: int, epochs: int, batch: int) -> Budget:
    """Of bringing one new network to the start of `stage`: a training on each earlier union (PDD over IDC).

    Args:
        images: training images that one stage makes (decoded ones where an image holds several).
        epochs: on each union.
    """
    return epochs_budget(union_sizes(images, stage - 1), epochs, batch)
