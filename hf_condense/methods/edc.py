"""EDC: real crops, soft category-aware statistic matching under many observers (arXiv:2404.13733)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from hf_condense.config import check, check_choices, setting
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.methods.formations import check_divides, easy_rows, medoid_rows, tiles_of_random, tiles_of_rows
from hf_condense.methods.patches import crops_looked_at, ranked_patches
from hf_condense.methods.registry import MethodInfo
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, blocks
from hf_condense.selection.noise import gaussian_images
from hf_condense.selection.real import need_images, random_real
from hf_condense.selection.realism import images_ranked


@dataclass(frozen=True)
class EDCSettings(MatchingSettings):
    """Settings of the synthesis; names follow section 3 of the paper, defaults are its ImageNet-1k values."""

    iterations: int = setting(2000, "optimiser steps per shard (T)", quick=20)
    lr: float = setting(0.05, "Adam's learning rate, in units of the dataset's standard deviation")
    shard_size: int | None = setting(100, "images optimised together; all of them where it says none")
    init: Literal["real", "medoids", "easy", "rded", "noise"] = setting(
        "real",
        "first images: random real ones, those nearest to k-means centres, those of lowest cross-entropy, RDED crops, or noise",
    )
    formation_factor: int = setting(1, "training images per side of a stored one, which students enlarge (IDC)")
    rded_factor: int = setting(1, "RDED: tiles per side of an image")
    rded_candidates: int = setting(300, "RDED and easy images: real images looked at per class", quick=20)
    rded_crops: int = setting(5, "RDED: crops looked at per real image")
    statistics_mode: Literal["exact", "official"] = setting(
        "exact", "targets: exact moments, or the script's averages"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        check(self.lr > 0, "lr", self.lr, "above 0")
        check(self.shard_size is None or self.shard_size >= 1, "shard_size", self.shard_size, "1 or more, or none")
        for name in ("formation_factor", "rded_factor", "rded_candidates", "rded_crops"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        whole, factor = self.init in ("real", "medoids", "easy"), self.formation_factor
        step = "choose another --init, or --formation_factor 1"
        check(whole or factor == 1, "formation_factor", factor, f"1 where init is {self.init}", step)


class EDC(Method):
    """Shards of `shard_size` consecutive rows, class-major, each optimised on its own with a fresh Adam.

    First images from medoids or easy images, and several training images in a stored one, are ours and not the paper's.
    """

    name = "edc"
    Settings = EDCSettings
    VERSION = 2

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        size = self.settings.shard_size or len(starts.labels)
        # statistics that persist over shards (official variant) tie the shards into one chain
        chained = self.settings.stat_ema_persist
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, size, "edc")), chained)

    def statistics(self, context: Context) -> StatisticsRequest:
        """Targets are taken under the augmentation of the synthesis, one draw an image."""
        return StatisticsRequest(
            self.settings.patch_side(context.image_size),
            self._view(context, per="image"),
            self.settings.statistics_mode,
        )

    @property
    def info(self) -> MethodInfo:
        s, own = self.settings, super().info
        start = "" if s.init == "real" else f", {s.init} start"
        tiles = "" if s.formation_factor == 1 else f", {s.formation_factor**2} tiles an image"
        return replace(own, title=own.title + start + tiles)

    @property
    def formation_factor(self) -> int:
        return self.settings.formation_factor

    @property
    def real_images_each(self) -> int:
        return {"noise": 0, "rded": self.settings.rded_factor**2}.get(self.settings.init, self.formation_factor**2)

    @property
    def fewer(self) -> str:
        return "a smaller --ipc or --formation_factor" if self.formation_factor > 1 else super().fewer

    def check(self, context: Context) -> None:
        super().check(context)
        check_divides("formation_factor", self.formation_factor, context.image_size)

    def images_looked_at(self, real: int, ipc: int) -> float:
        s = self.settings
        easy = images_ranked(s.rded_candidates, ipc * self.real_images_each, real)
        return {"medoids": float(real), "easy": easy, "rded": crops_looked_at(s, real, ipc)}.get(s.init, 0.0)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        s, key, size, factor = self.settings, context.key / shard.id, context.image_size, self.formation_factor
        if s.init == "noise":
            count = len(shard.labels)
            return Start(gaussian_images(context.train, count, size, key), np.full(count, -1))
        if s.init == "rded":
            return ranked_patches(shard, context, s)
        if s.init == "real" and factor > 1:
            return tiles_of_random(shard, context, factor, self.fewer, antialias=True)
        if s.init == "real":
            images, rows = random_real(context.train, shard.labels, size, key)
            flips = torch.from_numpy(key.uniform(len(images)) < 0.5) & bool(context.flip)
            images[flips] = images[flips].flip(-1)
            return Start(images, rows)
        each = self.real_images_each
        need_images(context.train, len(shard.labels), each, shard.labels[0], self.fewer)
        if s.init == "easy":
            return tiles_of_rows(easy_rows(shard, context, each, s.rded_candidates), context, factor)
        return tiles_of_rows(medoid_rows(shard, context, each), context, factor)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return Recipe(self.settings.iterations, self.settings.lr)

    def objective(self, context: Context, ready: Any = None) -> FeatureStatistics:
        return FeatureStatistics(
            [member.model for member in context.observers],
            context.statistics,
            self.settings,
            self._view(context, per="batch"),
            context.precision,
            factor=self.formation_factor,
        )

    def protocol(self, dataset: str) -> str:
        return (
            f"edc-{dataset}"
            if dataset in ("cifar10", "cifar100", "tiny-imagenet", "imagenet-10", "imagenet-1k")
            else "small"
        )

    def _view(self, context: Context, per: Literal["image", "batch"]) -> ViewPolicy:
        flip = 0.5 if context.flip else 0.0
        return ViewPolicy(context.image_size, crop=(self.settings.crop_min, 1.0), flip=flip, per=per)
