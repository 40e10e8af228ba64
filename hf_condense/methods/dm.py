"""DM: distribution matching in untrained networks (arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hf_condense.config import check, setting
from hf_condense.methods.base import Context
from hf_condense.methods.formations import tiles_of_random
from hf_condense.methods.matching_family import FamilySettings, MatchingFamily
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.distribution_matching import DistributionMatching, tied
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, blocks

CLASSES = 5  # of a shard: two processes share ten classes


@dataclass(frozen=True)
class DMSettings(FamilySettings):
    """Settings of DM; defaults are those of the official script.

    With `sampler` "centres" every class (or its `cluster_candidates`) goes through the network of every
    `cluster_every`-th step whole: at 6,000 images a class and the defaults, 3.3 times the real images of random batches.
    """

    iterations: int = setting(20000, "optimiser steps, each with an untrained network of its own", quick=20)
    formation_factor: int = setting(
        1, "training images per side of a stored one (f): f squared in each, as of IDC; the paper has 1"
    )
    classes_per_shard: int | None = setting(
        None,
        f"classes that go through a network together, a shard; processes take shards in turn; defaults to {CLASSES}, and "
        "to all for networks with batch norms, whose statistics are those of all classes",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.classes_per_shard
        check(size is None or size >= 1, "classes_per_shard", size, "1 or more")
        check(self.formation_factor >= 1, "formation_factor", self.formation_factor, "1 or more")


class DM(MatchingFamily):
    """Shards of whole classes. Classes are independent: how they are divided into shards changes only rounding."""

    # 2: a term for every few classes, which sums in another order; 3: fused blocks of ConvNets; 4: whose sums go over
    # several rows
    name, VERSION = "dm", 4
    Settings = DMSettings

    @property
    def formation_factor(self) -> int:
        return self.settings.formation_factor

    @property
    def real_images_each(self) -> int:
        return super().real_images_each * self.formation_factor**2

    @property
    def fewer(self) -> str:
        return "a smaller --ipc or --formation_factor" if self.formation_factor > 1 else super().fewer

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        """Where an image holds several: tiles of random real images, scaled down with antialiasing."""
        if self.formation_factor == 1 or not self.real_images_each:
            return super().start(shard, context, ready)
        return tiles_of_random(shard, context, self.formation_factor, self.fewer, antialias=True)

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        size = (self.settings.classes_per_shard or CLASSES) * ipc
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, size, self.name)))

    def settings_for(self, network: ImageModel, num_classes: int) -> DMSettings:
        size, together = self.settings.classes_per_shard, tied(network)
        if size is None:
            return replace(self.settings, classes_per_shard=num_classes if together else CLASSES)
        allowed = f"{num_classes}, all classes: {network.name} has batch norms"
        check(size >= num_classes or not together, "classes_per_shard", size, allowed, "leave --classes_per_shard out")
        return self.settings

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return self.free_pixels(self.settings.iterations)

    def objective(self, context: Context, ready: Any = None) -> DistributionMatching:
        s, views = self.settings, self.views(context)
        return DistributionMatching(
            context.fresh,
            views,
            context.key,
            s.real_batch,
            context.precision,
            self.centres(context, views),
            self.formation_factor,
        )
