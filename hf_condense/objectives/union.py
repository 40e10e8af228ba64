"""An objective over the shard's images and the fixed images of earlier stages (PDD, arXiv:2310.06982)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.objectives.base import Objective, Term


@dataclass(frozen=True)
class Frozen:
    """Fixed images of earlier stages, which enter the loss but are not optimised.

    Args:
        images: float unit pixels [m, C, S, S], stage after stage, on the CPU.
        labels: int64 [m].
        stages: number of those stages.
        soft: probabilities [m, K] that were made with the images, or None.
    """

    images: torch.Tensor
    labels: torch.Tensor
    stages: int
    soft: torch.Tensor | None = None

    def of_stage(self, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of all stages up to this one."""
        count = len(self.labels) // self.stages * stage
        return self.images[:count], self.labels[:count]


class Union(Objective):
    """Passes the earlier images and then those of the shard to a base objective; only the shard's get gradients.

    Of the earlier images those at the shard's places are shown, stage after stage: of a shard that holds whole classes
    all earlier images of them, of a shard of some images as many of each earlier stage.

    Args:
        objective: of the base method.
        frozen: images of earlier stages.
    """

    def __init__(self, objective: Objective, frozen: Frozen) -> None:
        self.objective, self.frozen = objective, frozen
        self.needs_sources = objective.needs_sources

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        each = len(self.frozen.labels) // self.frozen.stages
        places = torch.tensor(shard.rows) - each * self.frozen.stages
        rows = torch.cat([places + each * stage for stage in range(self.frozen.stages)])
        self._images = to_device(self.frozen.images[rows].to(images.dtype), images.device)
        before = self.frozen.labels[rows]
        self._labels = to_device(before, images.device)
        self.objective.share, self.objective.recorder = self.share, self.recorder
        if self.frozen.soft is not None:
            self.objective.earlier_labels = to_device(self.frozen.soft[rows].to(images.dtype), images.device)
        if self.needs_sources:
            self.objective.sources = self.sources  # of the shard's own images, which come last
        self.objective.start(shard, self._all(images), torch.cat((before, labels)), key)

    def learnables(self) -> dict[str, Tensor]:
        return self.objective.learnables()

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """The terms of the base objective on the union."""
        return self.objective.terms(self._all(images), torch.cat((self._labels, labels)), step, key)

    def after(self, images: Tensor, step: int, key: Key) -> None:
        self.objective.after(self._all(images), step, key)

    def revises(self, step: int) -> bool:
        return self.objective.revises(step)

    def revise(self, images: Tensor, step: int, key: Key) -> Tensor:
        return self.objective.revise(self._all(images), step, key)[len(self._images) :]

    def state_dict(self) -> dict[str, Tensor]:
        return self.objective.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.objective.load_state_dict(state)

    def _all(self, images: Tensor) -> Tensor:
        return torch.cat((self._images, images))
