"""The interface of a method: a pure plan of shards, the first images and the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.data.whitening import Whitening
from hf_condense.methods.registry import METHODS, MethodInfo
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.image_model import ImageModel
from hf_condense.models.members import ModelPool
from hf_condense.models.statistics import RealStatistics
from hf_condense.objectives.base import Objective
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, Synthetic
from hf_condense.selection.real import need_images


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics of the real data a method needs from its observers.

    Args:
        patch: side in pixels of the cells of patch moments.
        policy: augmentation of the synthesis, under which the real images are seen.
        mode: "exact" or "official" in one pass over the real images; "running" takes those that BatchNorms store, and
            makes an exact pass only for networks without any.
        kinds: layers that are read, as in `Taps`.
    """

    patch: int
    policy: ViewPolicy | None
    mode: Literal["exact", "official", "running"]
    kinds: tuple[str, ...] = ("conv", "norm")


class StudentTrainer(Protocol):
    """Trains networks as the students of the run are trained; for methods that train networks on their own images.

    `protocol` is the run's, not yet resolved for a student; `ipc` counts training images of a class in the finished set;
    `fingerprint` covers everything that changes a trained network.
    """

    protocol: Any
    ipc: int
    fingerprint: str

    def train(self, network: ImageModel, images: Tensor, labels: Tensor, *, key: Key, **settings: Any) -> ImageModel:
        """Trains `network` on uint8 or float images [n, C, S, S] with labels int64 [n], and returns it in eval mode."""


@dataclass(frozen=True)
class Context:
    """The parts of a run that a method uses.

    Args:
        train: the real images.
        image_size: side of the synthetic images in pixels.
        ipc: synthetic images a class.
        key: of the synthesis.
        flip: whether a mirrored image keeps its class.
        observers: the pool's networks that synthesis looks through; with their `statistics` of the real images. Both
            only for methods that need a pool.
        fresh: gives an untrained network of the first base model for each key.
        whitening: of the real images, where pixels are whitened.
        student_trainer: trains networks as the run's students.
        accelerator: the processes of the run.
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
    student_trainer: StudentTrainer | None = None
    accelerator: Accelerator | None = None

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def spec(self) -> SetSpec:
        """Size of the synthetic set."""
        return SetSpec(self.num_classes, self.ipc, self.image_size)


@dataclass(frozen=True)
class UsedNetwork:
    """A network outside the pool that a method has used, for the provenance.

    Args:
        role: its use: "backbone", "ranker".
    """

    model: ImageModel
    role: str


class Method(ABC):
    """One condensation method: composes shared parts, and has no training loop.

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

    # pure: equal arguments give equal results, before any data is read

    def plan(self, num_classes: int, ipc: int) -> Plan:
        """One start shard a class. Pure: equal arguments give equal plans."""
        labels = tuple(c for c in range(num_classes) for _ in range(ipc))
        starts = tuple(
            Shard(f"start-{c:05d}", "start", tuple(range(c * ipc, (c + 1) * ipc)), (c,) * ipc)
            for c in range(num_classes)
        )
        return Plan(labels, (starts,))

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe | None:
        """The optimiser settings of the pixels of a shard, or None for methods that only select. Pure, as `plan`."""
        return None

    def images_before(self, real: int) -> float:
        """Images that networks are trained on in `ready`, of `real` ones in an epoch; used by the estimate."""
        return 0.0

    def images_looked_at(self, real: int, ipc: int) -> float:
        """Of a class of `real` images, those that go forward through an observer before the first step; each of its
        crops counts. Used by the estimate."""
        return 0.0

    @property
    def real_images_each(self) -> int:
        """Different real images of its class that the start of an image takes; 0 where it begins with noise."""
        return 0

    @property
    def fewer(self) -> str:
        """The advice to the user if a class has too few of them."""
        return "a smaller --ipc"

    @property
    def formation_factor(self) -> int:
        """f, where each published image holds f x f training images as tiles (`data.formation`); 1 where it is one."""
        return 1

    @property
    def trains_students(self) -> bool:
        """Whether synthesis itself trains networks as students are trained: images then depend on the protocol."""
        return False

    @property
    def network_count(self) -> int | None:
        """Networks that synthesis goes through, where it trains a fixed number of them; None elsewhere."""
        return None

    @property
    def probed(self) -> bool:
        """Whether the images are for a linear probe on a frozen network, with hard labels, and for no other student."""
        return False

    @property
    def backbone(self) -> str | None:
        """The network of that probe by name; None where it is the first of the pool."""
        return None

    @property
    def labels_by(self) -> str | None:
        """Describes the source of the objective's soft labels; the regime "stored" then means these labels.

        None where the objective gives none.
        """
        return None

    def label_weights(self, teachers: int) -> list[float] | None:
        """The share of each teacher in the mean that labels the images, in the order of the pool; None for equal ones.

        Raises:
            ConfigError: the settings do not fit this number of teachers.
        """
        return None

    def protocol(self, dataset: str) -> str:
        """Name of the student protocol that fits this method on `dataset`."""
        return "small"

    def staged_protocol(self, dataset: str) -> str:
        """Name of the student protocol that fits this method as the base of one that works in stages."""
        return self.protocol(dataset)

    def settings_for(self, network: ImageModel, num_classes: int) -> Any:
        """The settings, with what was left open chosen for the first base model.

        Args:
            network: that model, untrained; called before any work, and not at all where it means trained weights.
        """
        return self.settings

    # on data

    def check(self, context: Context) -> None:
        """Checks, before any work, that the method supports the real images and networks of the run.

        Args:
            context: without observers and statistics, which do not exist yet.

        Raises:
            ConfigError, DataError: with the class or the network named.
        """
        need_images(context.train, context.ipc, self.real_images_each, remedy=self.fewer)

    def check_network(self, network: ImageModel, image_size: int) -> None:
        """Checks, before any work, that the method supports a network.

        Args:
            network: one of the base models, untrained.

        Raises:
            ModelError, ConfigError: the network is not supported; the message names the reason.
        """
        return

    def statistics(self, context: Context) -> StatisticsRequest | None:
        """The statistics that `objective` needs, or None."""
        return None

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Any:
        """Prepares a group of shards: experts, networks trained on earlier stages.

        Called on all processes, before each group with unfinished shards.

        Args:
            shard: the first of the group.
            earlier: results of the groups of earlier stages; None in the first stage.

        Returns:
            a value that only this method understands, which `start` and `objective` of the group get.
        """
        return None

    def stand_in(self, shard: Shard, context: Context) -> Any:
        """Stands for the value of `ready` where a step is tried before the run: made up, of the same shapes, at no cost."""
        return self.ready(shard, context, None)

    @abstractmethod
    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        """First images of a start shard; `ready` is the result of the method's `ready`."""

    def objective(self, context: Context, ready: Any = None) -> Objective:
        """The objective of the pixels: a new one for each shard, one for a whole chained group."""
        raise AssertionError(f"{self.name} has a recipe but no objective")

    def networks(self, context: Context) -> Iterable[UsedNetwork]:
        """Networks beside the pool that the images depend on and that others can get, asked for when they are made."""
        return ()
