"""The contract of a method: a pure plan of shards, how images start, what they are optimised for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hf_condense.data.randomness import Key
from hf_condense.methods import METHODS, MethodInfo
from hf_condense.selection.real import need_images

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.data.source import ImageSource
    from hf_condense.data.whitening import Whitening
    from hf_condense.engine import Synthetic
    from hf_condense.evaluation.service import Students
    from hf_condense.models.experts import ExpertBuffer
    from hf_condense.models.fresh import FreshNetworks
    from hf_condense.models.loading import ImageModel
    from hf_condense.models.pool import ModelPool
    from hf_condense.models.statistics import RealStatistics
    from hf_condense.objectives.base import Objective


@dataclass(frozen=True)
class Shard:
    """Rows of the synthetic set that are made together, independent of every other shard of their group.

    Args:
        id: names the shard's file and keys its randomness.
        kind: "start" makes first images, "optimise" takes the newest images of its rows and moves them.
        rows: row numbers in the synthetic set.
        labels: class of each row.
        stage: PDD stage in which they are made.
    """

    id: str
    kind: Literal["start", "optimise"]
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    stage: int = 1


@dataclass(frozen=True)
class Plan:
    """Ordered groups of independent shards; a group begins when the one before it is whole.

    Every row is made by at least one start shard. `chained` groups run in order on one process, because state
    crosses from shard to shard (some `official` variants). On the shards of a `joint` plan all processes work
    together, each on its share of the classes.
    """

    labels: tuple[int, ...]
    groups: tuple[tuple[Shard, ...], ...]
    chained: bool = False
    joint: bool = False


@dataclass(frozen=True)
class Recipe:
    """How pixels are optimised.

    Args:
        steps: optimiser steps for each shard.
        lr: learning rate, in units of `space`.
        optimizer, betas, momentum: Adam with its betas, or SGD with its momentum.
        schedule: name for `models.schedules.multiplier`.
        space: what is learned: pixels in units of the dataset's standard deviation, in [0, 1], or whitened (ZCA).
        clamp_every: steps after which pixels are put back into [0, 1]; 0 leaves them free, and they are published as
            float images too.
        rates: learning rate of what the objective learns beside pixels, by name. What has none is kept and published,
            but the optimiser does not move it: the objective sets it itself.
    """

    steps: int
    lr: float
    optimizer: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.5, 0.9)
    momentum: float = 0.0
    schedule: str = "cosine"
    space: Literal["normalised", "unit", "whitened"] = "normalised"
    clamp_every: int = 1
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics of the real data a method needs from its observers.

    Args:
        patch: side in pixels of the cells of patch moments.
        policy: augmentation of the synthesis, under which the real images are seen.
        mode: "exact" or "official" in one pass over the real images; "running" takes what BatchNorms remember, and
            makes an exact pass only for networks without any.
        kinds: layers that are read, as in `Taps`.
    """

    patch: int
    policy: ViewPolicy | None
    mode: Literal["exact", "official", "running"]
    kinds: tuple[str, ...] = ("conv", "norm")


@dataclass(frozen=True)
class Frozen:
    """Images of earlier stages, which count but do not move.

    Args:
        images: float unit pixels [m, C, S, S], stage after stage, on the CPU.
        labels: int64 [m].
        stages: number of those stages.
    """

    images: torch.Tensor
    labels: torch.Tensor
    stages: int

    def of_stage(self, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of all stages up to this one."""
        count = len(self.labels) // self.stages * stage
        return self.images[:count], self.labels[:count]


@dataclass
class Context:
    """What a method may use. The engine and the trainer fill it; a method only reads it.

    `observers` and their `statistics` are there for methods that need a pool; `fresh(key)` gives an untrained network
    of the first base model to those that draw new ones as they go. `experts` are there once `Method.ready` has
    made them, `frozen` in later stages. `students` trains networks as students are trained. `real_rows` are rows of the
    source where `train` is only a part of it.
    """

    train: ImageSource
    image_size: int
    ipc: int
    key: Key
    device: torch.device
    precision: str
    flip: bool = True
    observers: ModelPool | None = None
    statistics: list[RealStatistics] | None = None
    fresh: FreshNetworks | None = None
    whitening: Whitening | None = None
    students: Students | None = None
    accelerator: Accelerator | None = None
    experts: ExpertBuffer | None = None
    frozen: Frozen | None = None
    stage: int = 1
    real_rows: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        return self.train.num_classes


@dataclass
class Start:
    """First images of a shard.

    Args:
        images: uint8 [n, C, S, S], or float unit pixels where 8 bits are not enough.
        origin: row in the source of each image, -1 where there is none.
    """

    images: torch.Tensor
    origin: np.ndarray


class Method(ABC):
    """One condensation method: composes shared parts, owns no loop.

    Subclasses set `name` (their key in the table of methods), `Settings` (a frozen dataclass) and `VERSION`, raised
    by hand when the images they make change.
    """

    name: str
    Settings: type
    VERSION = 1

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def settings_class(cls, base_method: str | None = None) -> type:
        """The settings of this method; where it wraps another one, with those of that one."""
        return cls.Settings

    @classmethod
    def preset_families(cls, settings: Any, ipc: int) -> dict[str, int]:
        """Folders of presets that hold settings of this method, the best first, and the IPC to look up in each."""
        return {cls.name: ipc}

    @property
    def info(self) -> MethodInfo:
        return METHODS[self.name]

    def plan(self, num_classes: int, ipc: int) -> Plan:
        """One start shard a class. Pure: equal arguments give equal plans."""
        labels = tuple(c for c in range(num_classes) for _ in range(ipc))
        starts = tuple(
            Shard(f"start-{c:05d}", "start", tuple(range(c * ipc, (c + 1) * ipc)), (c,) * ipc)
            for c in range(num_classes)
        )
        return Plan(labels, (starts,))

    def statistics(self, context: Context) -> StatisticsRequest | None:
        """The statistics that `objective` needs, or None."""
        return None

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Context:
        """What must be there before a group of shards is worked on: experts, networks trained on earlier stages.

        Called on all processes, before each group whose shards are not all made.

        Args:
            shard: the first of the group.
            earlier: what the groups of earlier stages have made; None in the first stage.

        Returns:
            the context that `start` and `objective` of the group get.
        """
        return context

    @abstractmethod
    def start(self, shard: Shard, context: Context) -> Start:
        """First images of a start shard."""

    def recipe(self, num_classes: int, ipc: int, image_size: int) -> Recipe | None:
        """How pixels are optimised, or None for methods that only select. Pure, as `plan`."""
        return None

    def images_per_step(self, num_classes: int, ipc: int) -> float:
        """Images that go through a network forward and back for one step of all shards; what the estimate counts."""
        return num_classes * ipc

    def images_before(self, real: int) -> float:
        """Images that networks are trained on in `ready`, of `real` ones in an epoch; what the estimate counts."""
        return 0.0

    def objective(self, context: Context) -> Objective:
        """What pixels are optimised for; made anew for each shard, once for a chained group."""
        raise AssertionError(f"{self.name} has a recipe but no objective")

    @property
    def real_images_each(self) -> int:
        """Different real images of its class that the start of an image takes; 0 where it begins with noise."""
        return 0

    @property
    def fewer(self) -> str:
        """What can be chosen where a class has too few of them."""
        return "a smaller --ipc"

    def check_images(self, source: ImageSource, ipc: int) -> None:
        """Refuses before any work an IPC for which a class has too few real images.

        Raises:
            DataError: the class with the fewest images is named.
        """
        need_images(source, ipc, self.real_images_each, remedy=self.fewer)

    def check_network(self, network: ImageModel, image_size: int) -> None:  # noqa: B027 (most methods take any)
        """Refuses before any work a network that the method cannot work through.

        Args:
            network: one of the base models, untrained.

        Raises:
            ModelError, ConfigError: what stands in the way is named.
        """

    @property
    def formation_factor(self) -> int:
        """f, where each published image holds f x f training images as tiles (`data.formation`); 1 where it is one."""
        return 1

    @property
    def trains_students(self) -> bool:
        """Whether synthesis itself trains networks as students are trained: images then depend on the protocol."""
        return False

    @property
    def labels_by(self) -> str | None:
        """Who gives each image a soft label in the objective, in words; the regime "stored" then means these labels.

        None where the objective gives none.
        """
        return None

    def protocol(self, dataset: str) -> str:
        """Name of the student protocol that fits this method on `dataset`."""
        return "small"


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
