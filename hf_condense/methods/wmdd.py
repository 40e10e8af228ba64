"""WMDD (arXiv:2311.18531): features drawn to the Wasserstein barycentre of their class, statistics matched class by class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hf_condense.config import check, setting
from hf_condense.data.crops import centre
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings
from hf_condense.models.embedding import feature_count
from hf_condense.objectives.barycentre import BarycentreStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.plan import Plan, Shard, Start, Synthetic, blocks
from hf_condense.selection.barycentre import barycentre, squared_distances
from hf_condense.selection.centres import kmeans, medoids
from hf_condense.selection.features import features_of
from hf_condense.selection.real import need_images


@dataclass(frozen=True)
class WMDDSettings(SRe2LSettings):
    """SRe2L's with class-wise matching, and the pull to the points of a class."""

    iterations: int = setting(2000, "optimiser steps per shard (T)", quick=20)
    first_layer_weight: float = setting(1.0, "weight of the first BatchNorm, the others having 1")
    shard_size: int = setting(100, "images optimised together: all of a class, of as many classes as fit")
    init: Literal["noise", "real", "patches", "medoids"] = setting(
        "noise", "first images: noise, whole real ones, tiles of real crops, or the real image nearest to each point"
    )
    points: Literal["balanced", "kmeans", "medoids"] = setting(
        "balanced",
        "points of a class: of equal mass (the barycentre), centroids of k-means, or real images near those",
    )
    points_weight: float = setting(1.0, "weight of the distance of features to their points")
    ce_weight: float = setting(1.0, "weight of cross-entropy")
    feature_norm: Literal["block", "image"] = setting(
        "block", "that distance: of all images of a shard together, as published, or the mean over images"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("points_weight", "ce_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    def matching(self) -> MatchingSettings:
        """Statistics of each class alone."""
        return replace(super().matching(), alpha=0.0, class_matching="per_class")


class WMDD(SRe2L):
    """Whole classes in a shard. Image k of a class has the k-th point of the class, in the features of the first observer."""

    name = "wmdd"
    Settings = WMDDSettings
    protocols: ClassVar[dict[str, str]] = {}

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = Method.plan(self, num_classes, ipc)
        classes = max(1, self.settings.shard_size // ipc)
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, classes * ipc, self.name)))

    def statistics(self, context: Context) -> StatisticsRequest:
        """Of whole real images, by class; of normalisation layers alone."""
        return StatisticsRequest(self.settings.matching().patch_side(context.image_size), None, "exact", ("norm",))

    @property
    def real_images_each(self) -> int:
        return 1 if self.settings.init == "medoids" else super().real_images_each

    def check(self, context: Context) -> None:
        """As of each method; and a class needs an image for each of its points."""
        super().check(context)
        if self.settings.points_weight:
            need_images(context.train, context.ipc, 1, remedy=self.fewer)

    def images_looked_at(self, real: int, ipc: int) -> float:
        return super().images_looked_at(real, ipc) + real * (self.settings.init == "medoids") + real

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        if self.settings.init != "medoids":
            return super().start(shard, context)
        label, train = shard.labels[0], context.train
        rows, known = train.rows_of(label), self._features(label, context)
        distances = squared_distances(known, self._points(label, context, known))
        picks: list[int] = []
        for k in range(len(shard.labels)):  # a row that two points are nearest to is the first one's
            distances[picks, k] = torch.inf
            picks.append(int(distances[:, k].argmin()))
        return Start(centre(train.images(rows[picks]), context.image_size).contiguous(), rows[picks])

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> tuple[Tensor | None, Any]:
        """The points [classes * ipc, d] of all classes, class by class; and what the family makes ready."""
        points = None
        if shard.kind == "optimise" and self.settings.points_weight:
            classes = range(context.num_classes)
            points = torch.cat([self._points(c, context, self._features(c, context)) for c in classes]).float()
        return points, super().ready(shard, _in_first(context), earlier)

    def stand_in(self, shard: Shard, context: Context) -> tuple[Tensor | None, Any]:
        points = None
        if self.settings.points_weight:
            size = feature_count(context.observers[0].model, context.image_size)
            points = torch.zeros(context.num_classes * context.ipc, size)
        return points, super().stand_in(shard, _in_first(context))

    def objective(self, context: Context, ready: tuple[Tensor | None, Any] | None = None) -> BarycentreStatistics:
        s = self.settings
        points, real = ready or (None, None)
        return BarycentreStatistics(
            **self.parts(_in_first(context), real),
            points=points,
            weight=s.points_weight,
            ce_weight=s.ce_weight,
            norm=s.feature_norm,
        )

    def _features(self, label: int, context: Context) -> Tensor:
        model, rows = context.observers[0].model, context.train.rows_of(label)
        return features_of(model, context.train, rows, context.image_size, context.device).double()

    def _points(self, label: int, context: Context, known: Tensor) -> Tensor:
        kind, count, key = self.settings.points, context.ipc, context.key / "points" / label
        if kind == "balanced":
            return barycentre(known, count)
        found = kmeans(known[None], count, key).centroids[0] if kind == "kmeans" else known[medoids(known, count, key)]
        return found[squared_distances(found, known.mean(0)[None])[:, 0].argsort(stable=True)]


def _in_first(context: Context) -> Context:
    """The run with its first observer alone."""
    return replace(context, observers=context.observers[:1], statistics=context.statistics[:1])
