"""The contract of a method: a pure plan of shards, how images start, what they are optimised for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hf_condense.data.randomness import Key
from hf_condense.methods import METHODS, MethodInfo

if TYPE_CHECKING:
    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.data.source import ImageSource
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
    """

    id: str
    kind: Literal["start", "optimise"]
    rows: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Ordered groups of independent shards; a group begins when the one before it is whole.

    Every row is made by at least one start shard. `chained` groups run in order on one process, because state
    crosses from shard to shard (some `official` variants).
    """

    labels: tuple[int, ...]
    groups: tuple[tuple[Shard, ...], ...]
    chained: bool = False


@dataclass(frozen=True)
class Recipe:
    """How pixels are optimised.

    Args:
        steps: optimiser steps for each shard.
        lr: Adam's learning rate in the space of the parameterisation.
        betas: Adam's.
        schedule: name for `models.schedules.multiplier`.
        clamp: whether pixels are put back into [0, 1] after every step or only when published.
    """

    steps: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: str = "cosine"
    clamp: Literal["step", "export"] = "step"


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics of the real data a method needs from its observers."""

    patch: int
    policy: ViewPolicy | None
    mode: Literal["exact", "official"]


@dataclass
class Context:
    """What a method may use. The engine and the trainer fill it; a method only reads it."""

    train: ImageSource
    image_size: int
    ipc: int
    key: Key
    device: torch.device
    precision: str
    flip: bool = True
    observers: ModelPool | None = None
    statistics: list[RealStatistics] | None = None

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

    @abstractmethod
    def start(self, shard: Shard, context: Context) -> Start:
        """First images of a start shard."""

    def recipe(self) -> Recipe | None:
        """How pixels are optimised, or None for methods that only select."""
        return None

    def objective(self, context: Context) -> Objective:
        """What pixels are optimised for; made anew for each shard, once for a chained group."""
        raise AssertionError(f"{self.name} has a recipe but no objective")

    def protocol(self, dataset: str) -> str:
        """Name of the student protocol that fits this method on `dataset`."""
        return "small"


def blocks(labels: tuple[int, ...], size: int, prefix: str) -> tuple[Shard, ...]:
    """Optimise-shards of `size` consecutive rows (the last one may be short)."""
    return tuple(
        Shard(f"{prefix}-{i:05d}", "optimise", tuple(range(a, min(a + size, len(labels)))), labels[a : a + size])
        for i, a in enumerate(range(0, len(labels), size))
    )
