"""Trajectory matching with soft labels that are learned together with the images (DATM, arXiv:2310.05773)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.flat import FlatNetwork
from hf_condense.objectives.trajectory import TrajectoryMatching


class LearnedLabels(TrajectoryMatching):
    """Students learn softmax(logits), and the logits follow the gradient of the distance as the images do.

    Images of earlier PDD stages keep the labels that these have given them.

    Args:
        epoch: of the experts whose logits the labels begin with; others as of `TrajectoryMatching`.
    """

    def __init__(self, *parts: Any, epoch: int) -> None:
        super().__init__(*parts)
        self.epoch = epoch

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        super().start(shard, images, labels, key)
        self._known = images.new_empty(0, self.network.network.num_classes)
        if self.earlier_labels is not None:
            self._known = self.earlier_labels
        own, classes = images[len(self._known) :], to_device(labels[len(self._known) :], images.device)
        weights = (
            to_device(self.experts.snapshot(number, self.epoch), images.device).to(images.dtype)
            for number in range(self.experts.experts)
        )
        seen = self.network.network.normalise(own)
        self._logits = right_logits(self.network, weights, seen, classes).requires_grad_(True)

    def learnables(self) -> dict[str, Tensor]:
        """The student's learning rate "lr", and "soft_logits" [n, K] of the shard's own images."""
        return {"lr": self._rate, "soft_logits": self._logits}

    def _said(self, labels: Tensor, target: Tensor, images: Tensor, number: int) -> Tensor:
        return torch.cat((self._known, self._logits.softmax(1)))

    def _logs(self, labels: Tensor) -> dict[str, Tensor]:
        """How many images have a label whose largest entry is not that of their class."""
        return {"relabelled": (self._logits.detach().argmax(1) != labels[len(self._known) :]).sum().float()}


@torch.no_grad()
def right_logits(network: FlatNetwork, experts: Iterable[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """The mean logits [n, K] of the experts that classify an image rightly; of all where none does.

    The authors' script divides zero by zero there.

    Args:
        experts: weights [P] of each.
        images: [n, C, H, W], as the network's `normalise` gives them.
        labels: int64 [n], on their device.
    """
    every, right, count, seen = 0.0, 0.0, 0.0, 0
    for weights in experts:
        logits = network.logits(weights, images)
        hit = (logits.argmax(1) == labels).to(logits.dtype)[:, None]
        every, right, count, seen = every + logits, right + hit * logits, count + hit, seen + 1
    return torch.where(count > 0, right / count.clamp(min=1), every / seen)
