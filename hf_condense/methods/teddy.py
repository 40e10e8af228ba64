"""Teddy: first-order matching through a pool of weak models made from one network (arXiv:2410.07579).

To first order in the learning rate, training on the images lowers the loss of the real data as far as the gradients of
the two agree at the points that training passes through; and gradients agree where the statistics of features do. So
images match feature statistics in several frozen networks that are as weak as a student on its way. The paper's own
values could not be read: where there are values of SRe2L, with which it compares itself, those are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hf_condense.config import check, setting
from hf_condense.methods.base import Context, StatisticsRequest
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.base import Objective
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.first_order import FirstOrder
from hf_condense.objectives.stacked_statistics import StackedStatistics
from hf_condense.objectives.twice import need_twice_differentiable
from hf_condense.plan import Shard, Synthetic


@dataclass(frozen=True)
class TeddySettings(SRe2LSettings):
    """Settings of SRe2L and of the use of the pool; those of its training are the settings of weak pools."""

    lr: float = setting(0.1, "Adam's learning rate, in units of the dataset's standard deviation")
    init: Literal["noise", "real", "patches"] = setting(
        "real", "first images: noise, whole real ones, or tiles of real crops of medium difficulty"
    )
    models_per_step: int = setting(1, "networks of the pool in a step; they take turns in shuffled cycles")
    match: Literal["statistics", "gradient"] = setting(
        "statistics", "what is matched: feature statistics, or the gradients that they stand for (small networks only)"
    )
    stacked: bool = setting(False, "evaluate the networks of a step in one call; needs a pool of equal shapes")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.models_per_step >= 1, "models_per_step", self.models_per_step, "1 or more")
        clash = self.stacked and self.match == "gradient"
        check(not clash, "stacked", True, "false where gradients are matched", "drop --stacked, or --match gradient")
        read = not self.diversity_weight or (self.match == "statistics" and not self.stacked)
        check(read, "diversity_weight", self.diversity_weight, "0 where gradients are matched or networks stacked")


class Teddy(SRe2L):
    """SRe2L's shards and views, with another network of the pool at every step. With one network it is SRe2L."""

    name = "teddy"
    Settings = TeddySettings
    protocols: ClassVar[dict[str, str]] = {k: v for k, v in SRe2L.protocols.items() if k != "cifar10"}

    def check_network(self, network: ImageModel, image_size: int) -> None:
        if self.settings.match == "gradient":
            need_twice_differentiable(network, image_size)

    def statistics(self, context: Context) -> StatisticsRequest | None:
        return super().statistics(context) if self.settings.match == "statistics" else None

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Any:
        """As of the family; or a dictionary for gradients of the real data, which are the same for all shards of a group."""
        return super().ready(shard, context, earlier) if self.settings.match == "statistics" else {}

    def stand_in(self, shard: Shard, context: Context) -> Any:
        return super().stand_in(shard, context) if self.settings.match == "statistics" else {}

    def objective(self, context: Context, ready: Any = None) -> Objective:
        per_step = self.settings.models_per_step
        if self.settings.match == "gradient":
            models = [member.model for member in context.observers]
            return FirstOrder(models, context.train, per_step=per_step, targets=ready)
        kind = StackedStatistics if self.settings.stacked else FeatureStatistics
        return kind(**self.parts(context, ready), turns="shuffled", per_step=per_step)
