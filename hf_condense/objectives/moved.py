"""Statistics matching in observers whose weights are moved away from the first images of the shard (arXiv:2409.17612)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.frozen import freeze
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import Shard


class MovedStatistics(FeatureStatistics):
    """`FeatureStatistics` in copies of the observers, whose weights have gone up the cross-entropy of the first images.

    Each of the ascent steps is of length rho / steps, over all weights together, so a copy is at most rho away. What
    BatchNorms remember stays that of the observers, as the targets are: networks in evaluation mode do not move it. The
    move follows from the first images and the key, so a resumed shard makes it again and needs no state for it.

    Args:
        rho: length of the whole way; with 0, or no steps, the observers themselves are used.
        ascent_steps: K.
        ascent_view: of the first images in them: that of the first step of the shard, or "each" step has one.
    """

    def __init__(
        self,
        *,
        observers: Sequence[nn.Module],
        rho: float,
        ascent_steps: int,
        ascent_view: Literal["first", "each"],
        **more: Any,
    ) -> None:
        super().__init__(observers=observers, **more)
        self.originals = list(observers)
        self.rho, self.ascent_steps, self.ascent_view = rho, ascent_steps, ascent_view

    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        if self.rho and self.ascent_steps:
            moved = [self.moved(model, images.detach(), labels, key) for model in self.originals]
            self.observers = [freeze(model, self.precision) for model in moved]
        super().start(shard, images, labels, key)

    def moved(self, model: nn.Module, images: Tensor, labels: Tensor, key: Key) -> nn.Module:
        """A moved copy of a frozen observer, in the precision of its weights; `key` is that of the shard."""
        model = copy.deepcopy(model).requires_grad_(True)
        weights, labels = list(model.parameters()), to_device(labels, images.device)
        for turn in range(self.ascent_steps):
            drawn = key / "step" / 0 if self.ascent_view == "first" else key / "ascent" / turn
            shown = self.look(images, 0, drawn)(images)
            loss = F.cross_entropy(model(shown), labels)
            up = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            length = torch.stack([part.square().sum() for part in up]).sum().sqrt() + 1e-12
            with torch.no_grad():
                for weight, part in zip(weights, up):
                    weight += self.rho / self.ascent_steps * part / length
        return model
