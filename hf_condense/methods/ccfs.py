"""CCFS: a part is made by another method, and real images are added that a student of it still misses (arXiv:2503.18872)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from hf_condense.config import check, check_choices, setting
from hf_condense.data.crops import centre
from hf_condense.methods.base import Context, Method, StatisticsRequest, UsedNetwork
from hf_condense.methods.missed import student_of
from hf_condense.methods.registry import METHODS, MethodInfo
from hf_condense.methods.watched import WatchedTraining, watched
from hf_condense.methods.wrapping import base_of, check_base, settings_beside, with_settings_of
from hf_condense.objectives.base import Objective
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, Synthetic
from hf_condense.selection.curriculum import added, parts
from hf_condense.selection.real import need_images
from hf_condense.selection.scores import forgetting

log = logging.getLogger(__name__)
DATASETS = ("cifar100", "tiny-imagenet")  # of its paper, where the student is known


@dataclass(frozen=True)
class CCFSSettings(WatchedTraining):
    """Settings of the selection; those of the base method stand beside them, for its part of the images."""

    base_method: str = setting("cda", "method that makes the first part of the images")
    share: float = setting(0.2, "share of the images that it makes (alpha); one a class at least")
    curricula: int = setting(3, "curricula in which real images are added (J); 0 leaves the base method's set alone")
    order: Literal["forgetting", "filter"] = setting(
        "forgetting", "which images are simple: seldom forgotten ones, or those that the student is surest of"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check_base(self.base_method)
        check(0 < self.share <= 1, "share", self.share, "above 0 and up to 1")
        check(self.curricula >= 0, "curricula", self.curricula, "0 or more")
        check(
            self.order != "forgetting" or self.dynamics_epochs >= 2,
            "dynamics_epochs",
            self.dynamics_epochs,
            "2 or more",
        )


@dataclass(frozen=True)
class Ready:
    """What the base method's `ready` gave, or the rows that a curriculum adds of each class."""

    base: Any = None
    rows: dict[int, np.ndarray] | None = None


class CCFS(Method):
    """The base's plan for its share, then a group a curriculum with a start shard a class.

    Students see the set at once. A class with too few candidates gets the simplest of the others instead.
    """

    name = "ccfs"
    Settings = CCFSSettings
    real_images_each = 1
    trains_students = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.base = base_of(settings)
        self.VERSION = 100 + self.base.VERSION
        plain = self.base.formation_factor == 1 and self.base.labels_by is None
        allowed = "a method whose images are single ones, with labels of a teacher"
        check(plain, "base_method", settings.base_method, allowed)

    @classmethod
    def settings_class(cls, base_method: str | None = None) -> type:
        return settings_beside(CCFSSettings, base_method or CCFSSettings.base_method)

    @classmethod
    def preset_families(cls, settings: Any, ipc: int) -> dict[str, int]:
        return {f"{cls.name}-{settings.base_method}": ipc, settings.base_method: made(settings, ipc)}

    @property
    def info(self) -> MethodInfo:
        own, base = METHODS[self.name], self.base.info
        summary = f"{own.summary} The first part: {base.summary}"
        return replace(
            own, title=f"{own.title} over {base.title}", summary=summary, citation=f"{own.citation}\n{base.citation}"
        )

    def plan(self, num_classes: int, ipc: int) -> Plan:
        base = self.base.plan(num_classes, made(self.settings, ipc))
        groups, labels = list(base.groups), list(base.labels)
        for number, count in enumerate(parts(ipc - made(self.settings, ipc), self.settings.curricula), 1):
            first = len(labels)
            labels += [c for c in range(num_classes) for _ in range(count)]
            groups.append(
                tuple(
                    Shard(
                        f"curriculum{number}-{c:05d}",
                        "start",
                        tuple(range(first + c * count, first + (c + 1) * count)),
                        (c,) * count,
                        stage=number + 1,
                    )
                    for c in range(num_classes)
                )
            )
        return Plan(tuple(labels), tuple(groups), base.chained, base.joint, one_set=True)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe | None:
        return self.base.recipe(shard, replace(spec, ipc=made(self.settings, spec.ipc)))

    def images_before(self, real: int) -> float:
        """Those of the base and of the training that is watched; students, which see few images, are not counted."""
        watching = self.settings.dynamics_epochs * real if self.settings.order == "forgetting" else 0
        return self.base.images_before(real) + watching

    def check(self, context: Context) -> None:
        self.base.check(self._part(context))
        need_images(context.train, context.ipc)

    def settings_for(self, network: Any, num_classes: int) -> Any:
        return with_settings_of(self.settings, self.base.settings_for(network, num_classes))

    def check_network(self, network: Any, image_size: int) -> None:
        self.base.check_network(network, image_size)

    def statistics(self, context: Context) -> StatisticsRequest | None:
        return self.base.statistics(self._part(context))

    def networks(self, context: Context) -> Iterable[UsedNetwork]:
        return self.base.networks(self._part(context))

    def protocol(self, dataset: str) -> str:
        return f"{self.name}-{dataset}" if dataset in DATASETS else "small"

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Ready:
        """A student is trained on all images so far; what it misses and the teacher knows are the candidates."""
        if earlier is None:
            return Ready(self.base.ready(shard, self._part(context), None))
        train, count = context.train, len(shard.labels)
        looked = student_of(earlier, context, context.key / "filter" / shard.stage)
        hard = -looked["sure"]
        if self.settings.order == "forgetting":
            hard = forgetting(watched(self.settings, context).correct)
        taken = torch.zeros(len(train), dtype=torch.bool)
        before = len(self.base.plan(train.num_classes, made(self.settings, context.ipc)).labels)
        whole = self.base.info.real_pixels and self.base.real_images_each == 1  # a tile is not the image itself
        real = earlier.origin if whole else earlier.origin[before:]
        taken[torch.from_numpy(real[real >= 0])] = True
        found = {}
        for c in range(train.num_classes):
            rows = torch.from_numpy(train.rows_of(c))
            right, missed, used = (x[rows] for x in (looked["known"], looked["missed"], taken))
            picks, short = added(right, missed, used, hard[rows], count, context.key / shard.stage / c)
            found[c] = train.rows_of(c)[picks]
            if short:
                name = train.class_names[c]
                log.warning(
                    "curriculum %d: class %r lacks %d candidates; easier ones fill it", shard.stage - 1, name, short
                )
        return Ready(rows=found)

    def stand_in(self, shard: Shard, context: Context) -> Ready:
        return Ready(self.base.stand_in(shard, self._part(context)))

    def images_looked_at(self, real: int, ipc: int) -> float:
        return self.base.images_looked_at(real, made(self.settings, ipc)) + self.settings.curricula * real

    def start(self, shard: Shard, context: Context, ready: Ready | None = None) -> Start:
        if ready is None or ready.rows is None:
            return self.base.start(shard, self._part(context), ready and ready.base)
        rows = ready.rows[shard.labels[0]]
        return Start(centre(context.train.images(rows), context.image_size).contiguous(), rows)

    def objective(self, context: Context, ready: Ready | None = None) -> Objective:
        return self.base.objective(self._part(context), ready and ready.base)

    def _part(self, context: Context) -> Context:
        """The context of the base method."""
        return replace(context, ipc=made(self.settings, context.ipc))


def made(settings: Any, ipc: int) -> int:
    """Images of a class that the base method makes."""
    return max(1, int(settings.share * ipc + 1e-9)) if settings.curricula else ipc
