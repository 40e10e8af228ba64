"""CIM: tiles of whole real images, optimised until each has the features of its image at full size (arXiv:2607.00916)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_condense.config import check, check_choices, setting
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.data.spaces import pixel_space
from hf_condense.methods.base import Context, Method
from hf_condense.methods.formations import easy_rows, tiles_of_rows
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.paired_features import PairedFeatures, feature_layer
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, blocks
from hf_condense.selection.real import need_images
from hf_condense.selection.realism import images_ranked

DATASETS = ("cifar10", "cifar100", "tiny-imagenet", "imagenet-10", "imagenet-100", "imagenet-1k")  # of the paper


@dataclass(frozen=True)
class CIMSettings:
    """Settings of CIM; defaults are those of the official script. Its weight decay, 2 % of the change in all, is left out."""

    iterations: int = setting(200, "optimiser steps", quick=10)
    lr: float = setting(0.01, "Adam's learning rate of unit pixels")
    distance: Literal["l2", "l1"] = setting(
        "l2", "between features: squared length of the difference (the paper), or its mean absolute value (its code)"
    )
    layer: str | None = setting(
        None,
        "module of the first observer whose input are the features, such as layer3; its head by default",
        quick=None,
    )
    tile_factor: int = setting(2, "real images per side of an image")
    tiling: Literal["antialiased", "nearest"] = setting(
        "antialiased",
        "how real images are scaled down into tiles: with antialiasing, or to the nearest pixel (its code)",
    )
    candidates: int = setting(300, "real images of a class looked at", quick=20)
    families: tuple[str, ...] = setting(
        ("crop", "cutout", "flip"), "augmentation that tile and image share; flip only where it is allowed"
    )
    clamp: Literal["end", "never"] = setting(
        "end", "pixels are put into [0, 1] at the end; or never, and published as float images too (its code)"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("iterations", "tile_factor", "candidates"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.lr > 0, "lr", self.lr, "above 0")
        if self.families:
            SiamesePolicy(self.families)  # refuses what is no family, and one twice


class CIM(Method):
    """A shard a class: images are independent, because each tile is held against its own real image alone."""

    name = "cim"
    Settings = CIMSettings

    @property
    def real_images_each(self) -> int:
        return self.settings.tile_factor**2

    @property
    def fewer(self) -> str:
        return "a smaller --ipc or --tile_factor"

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, ipc, self.name)))

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        s = self.settings
        return Recipe(
            s.iterations,
            s.lr,
            betas=(0.9, 0.999),
            schedule="constant",
            space="unit",
            clamp_every=s.iterations if s.clamp == "end" else 0,
        )

    def check(self, context: Context) -> None:
        super().check(context)
        factor, size = self.settings.tile_factor, context.image_size
        check(factor <= size, "tile_factor", factor, f"up to {size}, the side of the images in pixels")

    def check_network(self, network: ImageModel, image_size: int) -> None:
        feature_layer(network, self.settings.layer)

    def images_looked_at(self, real: int, ipc: int) -> float:
        return images_ranked(self.settings.candidates, ipc * self.real_images_each, real)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        s = self.settings
        need_images(context.train, len(shard.labels), self.real_images_each, shard.labels[0], self.fewer)
        rows = easy_rows(shard, context, self.real_images_each, s.candidates)
        return tiles_of_rows(rows, context, s.tile_factor, nearest=s.tiling == "nearest")

    def objective(self, context: Context, ready: Any = None) -> PairedFeatures:
        s, train = self.settings, context.train
        families = tuple(f for f in s.families if f != "flip" or context.flip)
        return PairedFeatures(
            context.observers[0].model,
            pixel_space("normalised", train.mean, train.std, context.device),
            SiamesePolicy(families) if families else None,
            factor=s.tile_factor,
            layer=s.layer,
            distance=s.distance,
            precision=context.precision,
        )

    def protocol(self, dataset: str) -> str:
        return f"{self.name}-{dataset}" if dataset in DATASETS else "small-tiles"
