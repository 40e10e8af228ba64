"""DM: distribution matching in untrained networks (arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_condense.config import check, setting
from hf_condense.methods.base import Context
from hf_condense.methods.matching_family import FamilySettings, MatchingFamily
from hf_condense.objectives.distribution_matching import DistributionMatching
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, blocks


@dataclass(frozen=True)
class DMSettings(FamilySettings):
    """Settings of DM; defaults are those of the official script.

    With `sampler` "centres" every class (or its `cluster_candidates`) goes through the network of every
    `cluster_every`-th step whole: at 6,000 images a class and the defaults, 3.3 times the real images of random batches.
    """

    iterations: int = setting(20000, "optimiser steps, each with an untrained network of its own", quick=20)
    classes_per_shard: int | None = setting(
        5, "classes that go through a network together, a shard; processes take shards in turn; all where it says none"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.classes_per_shard
        check(size is None or size >= 1, "classes_per_shard", size, "1 or more, or none")


class DM(MatchingFamily):
    """Shards of whole classes. Classes are independent: how they are divided into shards changes only rounding."""

    name, VERSION = (
        "dm",
        3,
    )  # 2: a term for every few classes, which sums in another order; 3: fused blocks of ConvNets
    Settings = DMSettings

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        size = (self.settings.classes_per_shard or num_classes) * ipc
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, size, self.name)))

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return self.free_pixels(self.settings.iterations)

    def images_per_step(self, num_classes: int, ipc: int) -> float:
        return num_classes * (self.settings.real_batch / 3 + ipc)  # real images only go forward

    def objective(self, context: Context, ready: Any = None) -> DistributionMatching:
        s, views = self.settings, self.views(context)
        return DistributionMatching(
            context.fresh, views, context.key, s.real_batch, context.precision, self.centres(context, views)
        )
