"""What methods and the engine say to each other: shards, plans, recipes, first images, and what a plan has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from hf_condense.data.randomness import Key


@dataclass(frozen=True)
class SetSpec:
    """Size of the synthetic set: classes, images a class, and their side in pixels."""

    num_classes: int
    ipc: int
    image_size: int


@dataclass(frozen=True)
class Shard:
    """Rows of the synthetic set that are made together, independent of every other shard of their group.

    Args:
        id: names the shard's file and keys its randomness.
        kind: "start" makes first images, "optimise" moves the newest images of its rows: those that the last group
            before it with these rows has made.
        rows: row numbers in the synthetic set.
        labels: class of each row.
        stage: PDD stage in which they are made.
    """

    id: str
    kind: Literal["start", "optimise"]
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    stage: int = 1

    def key(self, root: Key) -> Key:
        """The key of its draws; `root` is that of the synthesis."""
        return root / self.id if self.stage == 1 else root / "stage" / self.stage / self.id


@dataclass(frozen=True)
class Plan:
    """Ordered groups of independent shards; a group begins when the one before it is whole.

    Every row is made by at least one start shard. `chained` groups run in order on one process, because state
    crosses from shard to shard (some `official` variants). On the shards of a `joint` plan all processes work
    together, each on its share of the classes. With `one_set` the stages are those of synthesis alone: students see
    the set at once.
    """

    labels: tuple[int, ...]
    groups: tuple[tuple[Shard, ...], ...]
    chained: bool = False
    joint: bool = False
    one_set: bool = False

    @property
    def optimised(self) -> tuple[Shard, ...]:
        """All shards that move images, in order; none where the method only selects."""
        return tuple(shard for group in self.groups for shard in group if shard.kind == "optimise")

    @property
    def staged(self) -> bool:
        """Whether the set is made in several PDD stages, which students go through too."""
        return self.groups[-1][0].stage > 1 and not self.one_set


@dataclass(frozen=True)
class Recipe:
    """How pixels are optimised.

    Args:
        steps: optimiser steps for each shard.
        lr: learning rate, in units of `space`.
        optimizer, betas, momentum: Adam with its betas, or SGD with its momentum.
        schedule: name for `models.schedules.multiplier`.
        space: what is learned: pixels in units of the dataset's standard deviation, in [0, 1], whitened (ZCA), or a
            pyramid of levels (`data.pyramid`).
        grow_every: steps from one new level of a pyramid to the next.
        clamp_every: steps after which pixels are put back into [0, 1]; 0 leaves them free, and they are published as
            float images too.
        rates: learning rate of what the objective learns beside pixels, by name. What has none is kept and published,
            but the optimiser does not move it: the objective sets it itself.
        momenta: SGD's momentum of these, where it is not that of the images.
    """

    steps: int
    lr: float
    optimizer: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.5, 0.9)
    momentum: float = 0.0
    schedule: str = "cosine"
    space: Literal["normalised", "unit", "whitened", "pyramid"] = "normalised"
    clamp_every: int = 1
    grow_every: int = 200
    rates: Mapping[str, float] = field(default_factory=dict)
    momenta: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Start:
    """First images of a shard.

    Args:
        images: uint8 [n, C, S, S], or float unit pixels where 8 bits are not enough.
        origin: int64 [n], row in the source of each image, -1 where there is none; [n, cells] where each is tiled of
            several real images, cell by cell.
    """

    images: torch.Tensor
    origin: np.ndarray


@dataclass
class Synthetic:
    """What a plan made.

    Args:
        images: uint8 [N, C, S, S], the published images.
        initial: uint8 [N, C, S, S], the same rows before any optimisation.
        labels: int64 [N].
        origin: row in the source of each first image, int64 [N] or [N, cells], as in `Start`.
        pixels: float32 [N, C, S, S] unit pixels of methods whose images leave [0, 1], else None.
        stages: int64 [N], PDD stage of each image; None where there is one stage only.
        learned: what was learned beside images (a learning rate), by name: one value a stage.
        soft_labels: float32 [N, K] probabilities that the objective has given the images, else None.
    """

    images: torch.Tensor
    initial: torch.Tensor
    labels: torch.Tensor
    origin: np.ndarray
    pixels: torch.Tensor | None = None
    stages: torch.Tensor | None = None
    learned: dict[str, list[float]] = field(default_factory=dict)
    soft_labels: torch.Tensor | None = None


def blocks(labels: tuple[int, ...], size: int, prefix: str) -> tuple[Shard, ...]:
    """Optimise-shards of `size` consecutive rows (the last one may be short)."""
    return tuple(
        Shard(f"{prefix}-{i:05d}", "optimise", tuple(range(a, min(a + size, len(labels)))), labels[a : a + size])
        for i, a in enumerate(range(0, len(labels), size))
    )


def mixed_blocks(num_classes: int, ipc: int, size: int, prefix: str) -> tuple[Shard, ...]:
    """Optimise-shards that mix classes: up to `size` classes with one image each, or several where classes are few.

    Image k of a class is made in the same way whatever `ipc` is, as long as shards are whole: fewer images are the
    first of more.
    """
    classes, ids = min(size, num_classes), max(1, size // num_classes)
    shards = []
    for number, first in enumerate(range(0, ipc, ids)):
        for part, begin in enumerate(range(0, num_classes, classes)):
            cells = [
                (c, k)
                for k in range(first, min(first + ids, ipc))
                for c in range(begin, min(begin + classes, num_classes))
            ]
            rows, labels = tuple(c * ipc + k for c, k in cells), tuple(c for c, _ in cells)
            shards.append(Shard(f"{prefix}-{number:05d}-{part:03d}", "optimise", rows, labels))
    return tuple(shards)
