"""DELT (arXiv:2411.19946): CDA from real images, which join the optimisation one after another and end together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hf_condense.config import check, setting
from hf_condense.data.crops import centre
from hf_condense.methods.base import Context, Method
from hf_condense.methods.cda import CDA, CDASettings
from hf_condense.objectives.joining import JoiningStatistics
from hf_condense.plan import Plan, Shard, Start, blocks
from hf_condense.selection.realism import middling_images

DATASETS = ("cifar10", "cifar100", "tiny-imagenet", "imagenette", "imagenet-100", "imagenet-1k")


@dataclass(frozen=True)
class DELTSettings(CDASettings):
    """CDA's, and when images join."""

    iterations: int = setting(4000, "optimiser steps per shard (T), of the images that join first", quick=24)
    rounds: int = setting(
        8, "groups of the images of a class, of which one joins after each part of the iterations (R)"
    )
    shard_size: int = setting(100, "images optimised together: all of a class, of as many classes as fit")
    roll: int = setting(0, "largest cyclic shift in synthesis down and to the right, in pixels")
    init: Literal["noise", "real", "patches", "medium"] = setting(
        "medium", "first images: noise, whole real ones, tiles of real crops, or whole real ones of medium difficulty"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        whole = self.iterations % self.rounds == 0
        check(whole, "iterations", self.iterations, f"a multiple of {self.rounds} rounds")


class DELT(CDA):
    """Whole classes in a shard. The first images of a class are optimised in all steps, the last in one round of them.

    A class larger than a shard has early and late images in each of its shards. With one round it is CDA on these shards.
    Rate and crops follow the step, so late images meet the end of both and stay near their real start.
    """

    name = "delt"
    Settings = DELTSettings
    protocols: ClassVar[dict[str, str]] = {dataset: f"delt-{dataset}" for dataset in DATASETS}

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts, size = Method.plan(self, num_classes, ipc), self.settings.shard_size
        size = size // ipc * ipc or size  # no class is cut that fits into a shard
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, size, self.name)))

    def images_looked_at(self, real: int, ipc: int) -> float:
        return real if self.settings.init == "medium" else super().images_looked_at(real, ipc)

    @property
    def real_images_each(self) -> int:
        return 1 if self.settings.init == "medium" else super().real_images_each

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        if self.settings.init != "medium":
            return super().start(shard, context)
        rows = middling_images(
            context.train,
            shard.labels[0],
            len(shard.labels),
            context.observers[0].model,
            size=context.image_size,
            device=context.device,
            precision=context.precision,
        )
        return Start(centre(context.train.images(rows), context.image_size).contiguous(), rows)

    def objective(self, context: Context, ready: Any = None) -> JoiningStatistics:
        s = self.settings
        return JoiningStatistics(**self.parts(context, ready), groups=s.rounds, every=s.iterations // s.rounds)
