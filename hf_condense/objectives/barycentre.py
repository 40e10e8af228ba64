"""Statistics matching, and the feature of each image drawn to a point of its own (arXiv:2311.18531)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.matching import root
from hf_condense.plan import Shard


class BarycentreStatistics(FeatureStatistics):
    """Loss = ce_weight * CE + weight * |features - points| + r * matching, in one observer.

    Args:
        points: [N, d] of all rows of the set, in the feature space of the observer; None with a weight of 0.
        weight: of the distance; ce_weight: of cross-entropy.
        norm: over a whole block of images ("block", as published), or the mean of those of single images ("image").
    """

    def __init__(
        self,
        *parts: Any,
        points: Tensor | None,
        weight: float,
        ce_weight: float,
        norm: Literal["block", "image"],
        **more: Any,
    ) -> None:
        super().__init__(*parts, **more, extra=self._pull if weight else None)
        self.points, self.weight, self.ce_weight, self.norm = points, weight, ce_weight, norm
        self.reads_features |= points is not None

    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        super().start(shard, images, labels, key)
        if self.points is None:
            return
        aims = to_device(self.points[list(shard.rows)].to(images.dtype), images.device)
        self.aims = aims if self._order is None else aims[self._order]

    def _pull(self, shown: Tensor, labels: Tensor) -> dict[str, Tensor]:
        squares = (self.seen - self.aims).square().sum(1)
        found = root(squares.sum()) if self.norm == "block" else root(squares).mean()
        return {"barycentre": self.weight * found}
