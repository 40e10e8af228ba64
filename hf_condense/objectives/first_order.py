"""First-order matching: the gradient of the images in frozen networks has the direction of that of the real data.

A training step on the images lowers the loss of the real data by rate * <g_real, g_images>, up to the square of the
rate: matching gradients at points that training passes through needs no training inside the loop (arXiv:2410.07579).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.data.upload import to_device
from hf_condense.models.frozen import freeze
from hf_condense.objectives.base import Objective, Term
from hf_condense.objectives.gradients import Distance, full_gradient, gradient_distance, parameter_gradients
from hf_condense.objectives.turns import whose_turn

BATCH = 128  # real images of one pass
Targets = dict[tuple[int, tuple[int, ...]], list[Tensor]]


class FirstOrder(Objective):
    """Loss = d(gradient of the images, gradient of all real images of their classes), averaged over observers.

    Observers are frozen, so the gradient of the real data is computed once for each of them. Images are not
    augmented. It needs second derivatives of the networks: for small networks, and to compare with feature statistics.

    Args:
        observers: networks that take unit pixels [n, C, H, W] and give logits; they are frozen here.
        source: the real images.
        distance: see `gradient_distance`.
        per_step: observers a step, in shuffled cycles.
        targets: gradients of the real data that are known already, by (observer, classes); new ones are added.
    """

    def __init__(
        self,
        observers: Sequence[nn.Module],
        source: ImageSource,
        distance: Distance = "layer_cos",
        per_step: int = 1,
        targets: Targets | None = None,
    ) -> None:
        size = len(observers)
        check(per_step <= size, "models_per_step", per_step, f"at most {size}, the size of the pool")
        self.observers = [freeze(model) for model in observers]
        self.source, self.distance, self.per_step = source, distance, per_step
        self.targets = {} if targets is None else targets

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self._key, self._classes = key, tuple(labels.unique().tolist())

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for each observer of the step."""
        for k in whose_turn(step, len(self.observers), self.per_step, self._key):
            found = parameter_gradients(self.observers[k], images, labels, create_graph=True)
            loss = gradient_distance(found, self._target(k, images.device), self.distance)
            yield Term(loss / self.per_step, "first_order", {"gradient": loss.detach()})

    def _target(self, k: int, device: torch.device) -> list[Tensor]:
        place = (k, self._classes)
        if place not in self.targets:
            self.targets[place] = full_gradient(self.observers[k], self._real(device))
        return self.targets[place]

    def _real(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All real images of the shard's classes, without augmentation."""
        rows = np.flatnonzero(np.isin(self.source.labels, self._classes))
        for at in range(0, len(rows), BATCH):
            part = rows[at : at + BATCH]
            images = unit_pixels(self.source.images(part), device, self.source.image_size)
            yield images, to_device(torch.from_numpy(self.source.labels[part]), device)
