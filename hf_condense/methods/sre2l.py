"""SRe2L (arXiv:2306.13092): images from the statistics that BatchNorms remember. The base of the recovery family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import check, check_choices, setting
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.methods.formations import medoid_rows, tiles_of_rows
from hf_condense.methods.patches import crops_looked_at, ranked_patches
from hf_condense.models.embedding import feature_count
from hf_condense.objectives.diversity import Diversity
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, Synthetic, mixed_blocks
from hf_condense.selection.features import class_features
from hf_condense.selection.noise import gaussian_images
from hf_condense.selection.real import need_images, random_real


@dataclass(frozen=True)
class SRe2LSettings:
    """Settings of the recovery; defaults are those of the ImageNet-1k script. The family shares them."""

    iterations: int = setting(4000, "optimiser steps per shard (T)", quick=20)
    lr: float = setting(0.25, "Adam's learning rate, in units of the dataset's standard deviation")
    match_weight: float = setting(0.01, "weight of the BatchNorm statistics beside cross-entropy (a_bn)")
    first_layer_weight: float = setting(10.0, "weight of the first BatchNorm, the others having 1")
    variance_weight: float = setting(1.0, "weight of the distances of variances, those of means having 1")
    shard_size: int = setting(100, "images optimised together: one a class, or several where there are fewer classes")
    crop_min: float | None = setting(0.08, "smallest area of the random resized crop in synthesis; none leaves it out")
    mirror: bool = setting(True, "mirror the images in half of the steps, where that keeps their class")
    roll: int = setting(32, "largest cyclic shift in synthesis down and to the right, in pixels")
    roll_back: int = setting(0, "largest cyclic shift in synthesis up and to the left, in pixels")
    init: Literal["noise", "real", "medoids", "patches"] = setting(
        "noise", "first images: noise, random real ones, those nearest to k-means centres, or tiles of real crops"
    )
    rded_factor: int = setting(1, "patches: tiles per side of an image")
    rded_candidates: int = setting(300, "patches: real images looked at per class", quick=20)
    rded_crops: int = setting(5, "patches: crops looked at per real image")
    curriculum: Literal["none", "cosine", "linear", "step"] = setting(
        "none", "how the smallest crop falls from the whole image to crop_min"
    )
    milestone: float = setting(1.0, "share of the iterations after which the curriculum has reached crop_min")
    diversity_weight: float = setting(
        0.0,
        "weight of DiRe: images of a class in a shard apart from one another, and near its real images; 0 for none",
    )
    diversity_distance: float = setting(0.01, "DiRe: weight of distances to real images, cosines having 1")
    diversity_images: int = setting(500, "DiRe: real images of a class, or all where one has fewer")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("iterations", "shard_size", "rded_factor", "rded_candidates", "rded_crops", "diversity_images"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.lr > 0, "lr", self.lr, "above 0")
        for name in ("roll", "roll_back"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 pixels or more")
        for name in ("diversity_weight", "diversity_distance"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        crop = self.crop_min
        check(crop is None or 0 < crop <= 1, "crop_min", crop, "an area above 0 and up to 1, or none")
        check(0 <= self.milestone <= 1, "milestone", self.milestone, "a share from 0 to 1")
        check(
            self.curriculum == "none" or crop is not None,
            "curriculum",
            self.curriculum,
            "none where there is no crop",
            "give a --crop_min, or --curriculum none",
        )
        self.matching()  # its weights are checked there

    def matching(self) -> MatchingSettings:
        """Statistics of all data only, of the batch itself: nothing of classes, running averages or flatness."""
        return MatchingSettings(
            alpha=1.0,
            stat_momentum=0.0,
            flatness_weight=0.0,
            match_weight=self.match_weight,
            first_layer_weight=self.first_layer_weight,
            variance_weight=self.variance_weight,
        )

    def smallest_crop(self, step: int) -> float | None:
        """Smallest area of the crop at `step`: falls from 1 to `crop_min` at milestone * iterations, then stays there."""
        end = self.milestone * self.iterations
        if self.crop_min is None or self.curriculum == "none" or step >= end:
            return self.crop_min
        cosine, linear = (1 + math.cos(math.pi * step / end)) / 2, 1 - step / end
        above = {"cosine": cosine, "linear": linear, "step": 1.0}[self.curriculum]
        return min(1.0, self.crop_min + (1 - self.crop_min) * above)


class SRe2L(Method):
    """Shards that mix classes, each recovered on its own from the BatchNorm statistics of one network; last iterate.

    Further observers take turns, one a step. Where they have no BatchNorm, the statistics of their other layers are
    measured on the real images. Fewer images are the first ones of more, from noise and from whole real images, as long
    as shards are whole; patches are ranked again for each number of images.
    """

    name = "sre2l"
    Settings = SRe2LSettings
    protocols: ClassVar[dict[str, str]] = {
        "cifar10": "sre2l-cifar10",
        "cifar100": "sre2l-cifar100",
        "tiny-imagenet": "sre2l-tiny",
        "imagenet-1k": "sre2l-in1k",
    }
    other_protocol = "small"

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        # one prefix for the whole family: shards are keyed by it, so that equal settings make equal images
        shards = mixed_blocks(num_classes, ipc, self.settings.shard_size, "recover")
        return Plan(starts.labels, (*starts.groups, shards))

    def statistics(self, context: Context) -> StatisticsRequest:
        """Running statistics of BatchNorms; without any, those of real images in views of the last step."""
        patch = self.settings.matching().patch_side(context.image_size)
        return StatisticsRequest(patch, self._view(context, self.settings.iterations), "running")

    @property
    def real_images_each(self) -> int:
        return {"noise": 0, "patches": self.settings.rded_factor**2}.get(self.settings.init, 1)

    def images_looked_at(self, real: int, ipc: int) -> float:
        looked = {"medoids": float(real), "patches": crops_looked_at(self.settings, real, ipc)}
        return looked.get(self.settings.init, 0.0)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        key, size, count = context.key / shard.id, context.image_size, len(shard.labels)
        if self.settings.init == "noise":
            return Start(gaussian_images(context.train, count, size, key), np.full(count, -1))
        if self.settings.init == "real":
            return Start(*random_real(context.train, shard.labels, size, key))
        if self.settings.init == "medoids":
            need_images(context.train, count, 1, shard.labels[0])
            return tiles_of_rows(medoid_rows(shard, context), context)
        return ranked_patches(shard, context, self.settings, "medium")

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return Recipe(self.settings.iterations, self.settings.lr)

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Any:
        """Features of real images in each observer for DiRe, or None."""
        s, key = self.settings, context.key / "diversity"
        if shard.kind == "start" or not s.diversity_weight:
            return None
        args = (context.train, s.diversity_images, context.image_size, context.device, key)
        return [class_features(member.model, *args) for member in context.observers]

    def stand_in(self, shard: Shard, context: Context) -> Any:
        s, smallest = self.settings, min(len(context.train.rows_of(c)) for c in range(context.num_classes))
        if not s.diversity_weight:
            return None
        counts = (context.num_classes, min(s.diversity_images, smallest))
        return [torch.ones(*counts, feature_count(one.model, context.image_size)) for one in context.observers]

    def objective(self, context: Context, ready: Any = None) -> FeatureStatistics:
        return FeatureStatistics(**self.parts(context, ready))

    def parts(self, context: Context, real: list[Tensor] | None) -> dict[str, Any]:
        """What the objectives of the family have in common, as arguments of `FeatureStatistics`; `real` as from `ready`."""
        s = self.settings
        return {
            "observers": [member.model for member in context.observers],
            "statistics": context.statistics,
            "settings": s.matching(),
            "policy": lambda step: self._view(context, step),
            "precision": context.precision,
            "diversity": Diversity(real, s.diversity_weight, s.diversity_distance) if real else None,
        }

    def protocol(self, dataset: str) -> str:
        return self.protocols.get(dataset, self.other_protocol)

    def _view(self, context: Context, step: int) -> ViewPolicy:
        """One crop, one flip and one shift for the whole batch."""
        settings, smallest = self.settings, self.settings.smallest_crop(step)
        return ViewPolicy(
            context.image_size,
            crop=None if smallest is None else (smallest, 1.0),
            flip=0.5 if settings.mirror and context.flip else 0.0,
            roll=settings.roll,
            roll_back=settings.roll_back,
            per="batch",
        )
