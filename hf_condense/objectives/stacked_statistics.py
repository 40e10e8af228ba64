"""Feature statistics with all observers of a step in one call, for pools whose networks have equal shapes."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.augmentation import apply_views, draw_views
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models.stacked import Stacked
from hf_condense.objectives.base import Term
from hf_condense.objectives.feature_statistics import FeatureStatistics


class StackedStatistics(FeatureStatistics):
    """The same loss as `FeatureStatistics` over norm layers, as one term; memory is that of all observers of a step.

    Raises:
        ModelError: on `start`, when the shapes of the observers differ, or layers other than norms are matched.
    """

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        super().start(shard, images, labels, key)
        if any(statistics.kinds != ("norm",) for statistics in self.statistics):
            raise ModelError("stacked", True, "networks with BatchNorms that remember their data", "drop --stacked")
        self._stack = Stacked(self.observers)

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        policy = self._policy(step)
        if policy:
            images = apply_views(images, draw_views(policy, key / "view", len(images), *images.shape[-2:]), policy)
        turns = self.whose_turn()
        logits, first, second = self._stack(images, turns)
        ce = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(turns)))
        matched = sum(self.matching[k].loss(*moments) for k, *moments in zip(turns, first, second)) / len(turns)
        loss = ce + self.settings.match_weight * matched
        yield Term(loss, "feature_statistics", {"ce": ce.detach(), "matching": matched.detach()})
