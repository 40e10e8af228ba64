"""Common parts of DC, DSA and DM: free pixels under SGD, real or noise starts, and siamese augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hf_condense.config import check, setting
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.methods.base import Context, Method
from hf_condense.plan import Recipe, Shard, Start
from hf_condense.selection.noise import gaussian_images
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.real import random_real
from hf_condense.selection.sampler import CentresSampler, SamplerSettings

DSA_FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
CLASSIC = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet")  # datasets of the papers' tables


@dataclass(frozen=True)
class FamilySettings(SamplerSettings):
    """Settings of the family."""

    lr: float = setting(1.0, "SGD's learning rate of the images, in units of the dataset's standard deviation")
    momentum: float = setting(0.5, "SGD's momentum of the images")
    init: Literal["real", "noise"] = setting("real", "first images: random real ones, or Gaussian noise")
    families: tuple[str, ...] = setting(
        DSA_FAMILIES, "augmentation that real and synthetic images share; flip is left out where it changes the class"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.lr > 0, "lr", self.lr, "above 0")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "0 or more and below 1")
        check(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        if self.families:
            SiamesePolicy(self.families)  # refuses what is no family, and one twice


class MatchingFamily(Method):
    """Pixels are unbounded in normalised space; they are published in 8 bits and, unclamped, as float images."""

    @property
    def real_images_each(self) -> int:
        return 1 if self.settings.init == "real" else 0

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        key, train, size = context.key / shard.id, context.train, context.image_size
        if self.settings.init == "noise":
            images = gaussian_images(train, len(shard.labels), size, key)
            return Start(images, np.full(len(images), -1))
        return Start(*random_real(train, shard.labels, size, key))

    def free_pixels(self, steps: int) -> Recipe:
        """SGD at a constant rate, without clamping of pixels."""
        s = self.settings
        return Recipe(steps, s.lr, optimizer="sgd", momentum=s.momentum, schedule="constant", clamp_every=0)

    def views(self, context: Context) -> PairedViews:
        """Real batches, and the augmentation that they share with the images."""
        families = tuple(f for f in self.settings.families if f != "flip" or context.flip)
        return PairedViews(context.train, SiamesePolicy(families) if families else None, context.device)

    def centres(self, context: Context, views: PairedViews) -> CentresSampler | None:
        """Chooses real batches where the settings ask for k-means centroids; random ones need no sampler."""
        s = self.settings
        return CentresSampler(views, context.key / "sampler", s) if s.sampler == "centres" else None

    def protocol(self, dataset: str) -> str:
        return "dsa" if dataset in CLASSIC else "small"
