"""G-VBSM: many backbones and statistics of convolutions too, with densified classes (arXiv:2311.17950)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hf_condense.config import check, check_choices, setting
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.objectives.densification import Densification, DensifiedStatistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, blocks
from hf_condense.selection.noise import gaussian_images
from hf_condense.selection.real import random_real

PROTOCOLS = {
    "cifar10": "gvbsm-cifar10",
    "cifar100": "gvbsm-cifar100",
    "tiny-imagenet": "gvbsm-tiny",
    "imagenet-1k": "gvbsm-in1k",
}


@dataclass(frozen=True)
class GVBSMSettings:
    """Settings of the synthesis; defaults are those of the authors' ImageNet-1k script."""

    iterations: int = setting(4000, "optimiser steps per shard", quick=20)
    lr: float = setting(0.1, "Adam's learning rate, in units of the dataset's standard deviation")
    shard_size: int = setting(80, "images optimised together: the batch whose statistics are matched")
    id_chunks: int = setting(1, "parts into which the images of a class are cut; a part of all classes, then the next")
    init: Literal["noise", "real"] = setting("noise", "first images: Gaussian noise, or whole real ones")
    match_weight: float = setting(0.01, "weight of statistic matching beside cross-entropy")
    first_layer_weight: float = setting(10.0, "weight of the layer that sees pixels, the others having 1")
    drop_rate: float = setting(0.0, "probability that a convolution does not count in a step")
    stat_momentum: float = setting(0.4, "momentum of the running statistics of synthetic batches")
    stat_ema_zero_init: bool = setting(False, "running statistics start at zero (the authors' script)")
    stat_ema_persist: bool = setting(False, "running statistics go on from batch to batch (the authors' script)")
    statistics_mode: Literal["exact", "official"] = setting(
        "exact", "targets: exact moments of the views of the synthesis, or the script's averages"
    )
    patch: int | None = setting(
        None, "side of a patch in pixels; defaults to 4 for images up to 64 pixels and 16 above"
    )
    crop_min: float | None = setting(0.08, "smallest area of the random resized crop; none pads and crops instead")
    synthesis_pad: int = setting(4, "pixels of mean colour around the image of the pad-and-crop")
    roll: int = setting(32, "largest cyclic shift in pixels")
    densification_weight: float = setting(1.0, "weight of densification; 0 leaves it out")
    densification_temperature: float = setting(4.0, "temperature of the flatter spectrum of densification")
    densification_normalised: bool = setting(False, "densification of eigenvalues divided by their mean (ours)")
    densification_every: int = setting(1, "steps from one evaluation of densification to the next")

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.lr > 0, "lr", self.lr, "above 0")
        for name in ("iterations", "shard_size", "id_chunks", "densification_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("synthesis_pad", "roll", "densification_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        crop = self.crop_min is None or 0 < self.crop_min <= 1
        check(crop, "crop_min", self.crop_min, "an area above 0 and up to 1, or none")
        temperature = self.densification_temperature
        check(temperature > 0, "densification_temperature", temperature, "above 0")
        self.matching()

    def matching(self) -> MatchingSettings:
        """The settings of statistic matching: targets are those of all data, without class statistics."""
        shared = (
            "match_weight",
            "first_layer_weight",
            "drop_rate",
            "stat_momentum",
            "stat_ema_zero_init",
            "stat_ema_persist",
            "patch",
        )
        return MatchingSettings(alpha=1.0, flatness_weight=0.0, **{name: getattr(self, name) for name in shared})


class GVBSM(Method):
    """Shards of consecutive images, class-major; one observer a step, in turn; all observers label."""

    name = "gvbsm"
    Settings = GVBSMSettings

    def plan(self, num_classes: int, ipc: int) -> Plan:
        """Raises ConfigError where `id_chunks` does not divide the images of a class."""
        starts, chunks = super().plan(num_classes, ipc), self.settings.id_chunks
        check(
            ipc % chunks == 0,
            "id_chunks",
            chunks,
            f"a number that divides ipc, which is {ipc}",
            "set --id_chunks 1, or choose another --ipc",
        )
        # [class, chunk, image] to [chunk, class, image]
        order = np.arange(num_classes * ipc).reshape(num_classes, chunks, -1).swapaxes(0, 1).flatten().tolist()
        shards = blocks(tuple(starts.labels[row] for row in order), self.settings.shard_size, self.name)
        shards = tuple(replace(shard, rows=tuple(order[i] for i in shard.rows)) for shard in shards)
        # statistics that persist over shards (official variant) tie the shards into one chain
        return Plan(starts.labels, (*starts.groups, shards), chained=self.settings.stat_ema_persist)

    def statistics(self, context: Context) -> StatisticsRequest:
        """Of real images under the views of the synthesis, one draw an image; the script does not roll them and pads
        with black."""
        policy, mode = self._view(context, per="image"), self.settings.statistics_mode
        if mode == "official":
            policy = replace(policy, roll=0, fill=None)
        return StatisticsRequest(self.settings.matching().patch_side(context.image_size), policy, mode)

    @property
    def real_images_each(self) -> int:
        return 1 if self.settings.init == "real" else 0

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        key, size, train = context.key / shard.id, context.image_size, context.train
        if self.settings.init == "real":
            return Start(*random_real(train, shard.labels, size, key))
        return Start(gaussian_images(train, len(shard.labels), size, key), np.full(len(shard.labels), -1))

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return Recipe(self.settings.iterations, self.settings.lr)

    def objective(self, context: Context, ready: Any = None) -> FeatureStatistics:
        s = self.settings
        parts = (
            [member.model for member in context.observers],
            context.statistics,
            s.matching(),
            self._view(context, per="batch"),
            context.precision,
        )
        if not s.densification_weight:
            return FeatureStatistics(*parts)
        term = Densification(
            s.densification_weight,
            s.densification_temperature,
            s.densification_normalised,
            s.densification_every,
            context.train.mean,
            context.train.std,
            s.iterations,
        )
        return DensifiedStatistics(*parts, densification=term)

    def protocol(self, dataset: str) -> str:
        return PROTOCOLS.get(dataset, "small")

    def _view(self, context: Context, per: Literal["image", "batch"]) -> ViewPolicy:
        s, flip = self.settings, 0.5 if context.flip else 0.0
        if s.crop_min is None:
            border = {"pad": s.synthesis_pad, "fill": tuple(context.train.mean)}
        else:
            border = {"crop": (s.crop_min, 1.0)}
        return ViewPolicy(context.image_size, flip=flip, roll=s.roll, per=per, **border)
