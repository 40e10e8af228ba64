"""LGM: images on which a linear head on a frozen network is trained as on real ones (arXiv:2511.16674)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import check, check_choices, setting
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.pyramid import PyramidPixels
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.methods.base import Context, Method, UsedNetwork
from hf_condense.methods.registry import MethodInfo
from hf_condense.models.embedding import embed, feature_count
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import load_backbone
from hf_condense.objectives.linear_probe import LinearGradientMatching, NoisyViews
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start
from hf_condense.selection.features import mean_features
from hf_condense.selection.noise import gaussian_images


@dataclass(frozen=True)
class LGMSettings:
    """Settings of the synthesis; defaults are those of the official code, but for the mean of the noise."""

    backbone: str | None = setting(
        None,
        "frozen network by name (timm, transformers, a folder); defaults to the first network of the pool",
        quick=None,
    )
    iterations: int = setting(5000, "optimiser steps", quick=50)
    lr: float = setting(2e-3, "Adam's learning rate, in units of `space`")
    head_scale: float = setting(0.01, "spread of the weights of the head drawn in each step; 0 leaves them zero")
    real: Literal["batches", "means"] = setting(
        "batches", "real images: batches in each step, or their class means in one pass (with --head_scale 0)"
    )
    real_batch: int | None = setting(None, "real images in a step; defaults to as many as views of synthetic ones")
    real_passes: int = setting(1, "means: passes over the real images, each in other views; 0 is one of whole images")
    copies: int = setting(10, "views of each synthetic image in a step (A)", quick=2)
    chunk: int = setting(256, "synthetic images that go through the network at once, which sets the memory")
    crop_min: float | None = setting(0.08, "smallest area of the random resized crop of views; none leaves it out")
    noise: float = setting(0.2, "spread of the noise on a half of the views; 0 adds none")
    noise_mean: float = setting(0.0, "mean of that noise")
    space: Literal["pyramid", "normalised"] = setting("pyramid", "what is learned: a pyramid of levels, or pixels")
    grow_every: int = setting(200, "pyramid: steps from one new level to the next", quick=5)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("iterations", "copies", "chunk", "grow_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.lr > 0, "lr", self.lr, "above 0")
        check(self.real_batch is None or self.real_batch >= 1, "real_batch", self.real_batch, "1 or more images")
        for name in ("head_scale", "real_passes", "noise"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.noise_mean >= -1, "noise_mean", self.noise_mean, "-1 or more, in unit pixels")
        crop = self.crop_min is None or 0 < self.crop_min <= 1
        check(crop, "crop_min", self.crop_min, "an area above 0 and up to 1, or none")
        single = self.real == "batches" or self.head_scale == 0
        check(single, "real", self.real, "batches with a random head", "set --head_scale 0 for class means alone")


class LGM(Method):
    """All images in one shard: the loss couples the classes. Students are linear probes on the same network.

    Adding images of a class changes all others.
    """

    name = "lgm"
    Settings = LGMSettings

    @property
    def info(self) -> MethodInfo:
        return replace(super().info, pool=self.settings.backbone is None)

    @property
    def probed(self) -> bool:
        return True

    @property
    def backbone(self) -> str | None:
        return self.settings.backbone

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        rows = tuple(range(len(starts.labels)))
        return Plan(starts.labels, (*starts.groups, (Shard("lgm", "optimise", rows, starts.labels),)), chained=True)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        s = self.settings
        return Recipe(
            s.iterations, s.lr, betas=(0.9, 0.999), schedule="constant", space=s.space, grow_every=s.grow_every
        )

    def images_looked_at(self, real: int, ipc: int) -> float:
        return real * max(1, self.settings.real_passes) if self.settings.real != "batches" else 0.0

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        """Pictures of one colour, which the first level of a pyramid can be; noise where pixels are learned."""
        count, size, key = len(shard.labels), context.image_size, context.key / shard.id
        if self.settings.space == "normalised":
            images = gaussian_images(context.train, count, size, key)
        else:
            level = (key / "level").numpy().standard_normal((count, context.train.channels, 1))
            images = PyramidPixels(context.train.channels, size, 1, torch.device("cpu")).decode(
                torch.from_numpy(level).float()
            )
        return Start(images, np.full(count, -1))

    def ready(self, shard: Shard, context: Context, earlier: Any) -> Tensor | None:
        """The class means of the real images, where a step needs no others."""
        if shard.kind == "start" or self.settings.real == "batches":
            return None
        views = self._views(context) if self.settings.real_passes else None
        return mean_features(
            self._network(context),
            context.train,
            context.image_size,
            context.device,
            views,
            self.settings.real_passes,
            context.key / "means",
        )

    def stand_in(self, shard: Shard, context: Context) -> Tensor | None:
        if self.settings.real == "batches":
            return None
        size = feature_count(self._network(context), context.image_size)
        return torch.ones(context.num_classes, size, dtype=torch.float64)

    def objective(self, context: Context, ready: Any = None) -> LinearGradientMatching:
        s = self.settings
        return LinearGradientMatching(
            self._network(context),
            context.num_classes,
            self._views(context),
            copies=s.copies,
            chunk=s.chunk,
            head_scale=s.head_scale,
            real=(lambda step, key: self._real(context, key)) if ready is None else ready,
            precision=context.precision,
        )

    def networks(self, context: Context) -> list[UsedNetwork]:
        return [] if self.info.pool else [UsedNetwork(self._network(context), "probe")]

    def protocol(self, dataset: str) -> str:
        return "probe-fast"

    def _network(self, context: Context) -> ImageModel:
        if self.info.pool:
            return context.observers[0].model
        return load_backbone("backbone", self.settings.backbone, context.train.plain_spec)

    def _views(self, context: Context) -> NoisyViews:
        s = self.settings
        crop = None if s.crop_min is None else (s.crop_min, 1.0)
        policy = ViewPolicy(context.image_size, crop=crop, flip=0.5 if context.flip else 0.0)
        return NoisyViews(policy, s.noise, s.noise_mean)

    @torch.no_grad()
    def _real(self, context: Context, key: Key) -> tuple[Tensor, Tensor]:
        """Features and labels of a batch of real images, drawn without regard to their classes, in one view each."""
        train, s, network = context.train, self.settings, self._network(context)
        count = s.real_batch or context.num_classes * context.ipc * s.copies
        rows = (key / "rows").numpy().choice(len(train), count, replace=count > len(train))
        found, views = [], self._views(context)
        for begin in range(0, count, s.chunk):
            part = rows[begin : begin + s.chunk]
            images = unit_pixels(train.images(part), context.device, context.image_size)
            found.append(embed(network, views(images, key / begin)))
        return torch.cat(found), to_device(torch.from_numpy(train.labels[rows]), context.device)
