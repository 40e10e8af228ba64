"""PDD: applies a base method in stages, each with networks trained on earlier stages (arXiv:2310.06982)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hf_condense.config import check
from hf_condense.data.pixels import to_unit
from hf_condense.methods.base import Context, Method, StatisticsRequest, UsedNetwork
from hf_condense.methods.pdd.settings import PDDSettings
from hf_condense.methods.pdd.stage import ReadyStage, StageContext
from hf_condense.methods.pdd.stage_networks import StageNetworks
from hf_condense.methods.pdd.stage_source import harder, unused
from hf_condense.methods.registry import METHODS, MethodInfo
from hf_condense.methods.wrapping import base_of, settings_beside, with_settings_of
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.base import Objective
from hf_condense.objectives.union import Frozen, Union
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start, Synthetic


class PDD(Method):
    """The base's plan, repeated: rows are in order of their stage, and within it as the base has them.

    A single stage is bitwise equal to the base method. In later ones the base's objective takes the images of all
    stages so far, of which only the new ones are optimised, in networks that were trained on the earlier ones.
    """

    name = "pdd"
    Settings = PDDSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.base = base_of(settings)
        self.VERSION = 100 + self.base.VERSION
        own = settings.chains != 0 or not self.base.info.pool
        check(own, "chains", 0, f"1 or more over {self.base.name}, whose observers they become")

    @classmethod
    def settings_class(cls, base_method: str | None = None) -> type:
        return settings_beside(PDDSettings, base_method or PDDSettings.base_method)

    @classmethod
    def preset_families(cls, settings: PDDSettings, ipc: int) -> dict[str, int]:
        return {f"pdd-{settings.base_method}": ipc, settings.base_method: max(1, ipc // settings.stages)}

    @property
    def info(self) -> MethodInfo:
        own, base = METHODS[self.name], self.base.info
        return replace(
            own,
            title=f"{own.title} over {base.title}",
            pool=base.pool,
            real_pixels=base.real_pixels,
            summary=f"{own.summary} In each stage: {base.summary}",
            citation=f"{own.citation}\n{base.citation}",
        )

    @property
    def formation_factor(self) -> int:
        return self.base.formation_factor

    @property
    def real_images_each(self) -> int:
        return self.base.real_images_each

    @property
    def fewer(self) -> str:
        return self.base.fewer

    @property
    def labels_by(self) -> str | None:
        return self.base.labels_by

    @property
    def trains_students(self) -> bool:
        return self.settings.stages > 1

    def each(self, ipc: int) -> int:
        """Images a class and stage. Raises ConfigError where `ipc` does not divide by the stages."""
        stages = self.settings.stages
        check(
            ipc % stages == 0,
            "ipc",
            ipc,
            f"a multiple of the {stages} stages",
            f"choose --ipc {max(1, round(ipc / stages)) * stages}, or another --stages",
        )
        return ipc // stages

    def plan(self, num_classes: int, ipc: int) -> Plan:
        one, stages = self.base.plan(num_classes, self.each(ipc)), range(1, self.settings.stages + 1)
        groups = tuple(
            tuple(_of_stage(shard, stage, len(one.labels)) for shard in group)
            for stage in stages
            for group in one.groups
        )
        return Plan(one.labels * len(stages), groups, one.chained, one.joint)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe | None:
        return self.base.recipe(shard, replace(spec, ipc=self.each(spec.ipc)))

    def images_before(self, real: int) -> float:
        """Those of the base in each stage; chains, which train on few images, are not counted."""
        return self.base.images_before(real) * self.settings.stages

    def check(self, context: Context) -> None:
        self.base.check(self._base_context(context))

    def settings_for(self, network: ImageModel, num_classes: int) -> Any:
        return with_settings_of(self.settings, self.base.settings_for(network, num_classes))

    def check_network(self, network: ImageModel, image_size: int) -> None:
        self.base.check_network(network, image_size)

    def networks(self, context: Context) -> Iterable[UsedNetwork]:
        return self.base.networks(self._base_context(context))

    def statistics(self, context: Context) -> StatisticsRequest | None:
        return self.base.statistics(self._base_context(context))

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> ReadyStage:
        """The real images of the stage, and in later ones networks trained on the images of those before."""
        shown = self.each(context.ipc) * self.formation_factor**2  # real images of a class that first ones can need
        here = StageContext.of(context) if earlier is None else self._later(shard, context, earlier)
        here = harder(self.settings, here, 2 * shown, context.key / "forgetting")
        if earlier is not None:
            networks = StageNetworks(self.settings, self.base, context.key / "experts")
            here = networks.put_into(here, shard, earlier)
            if shard.kind == "start":
                here = unused(here, earlier.origin, shown)
        here = self._base_context(here)
        return ReadyStage(here, self.base.ready(shard, here, None))

    def stand_in(self, shard: Shard, context: Context) -> ReadyStage:
        """Of a later stage with black images of those before, in networks that have not seen them."""
        here, before = StageContext.of(context), shard.stage - 1
        if before:
            labels = torch.tensor(self.base.plan(context.num_classes, self.each(context.ipc)).labels * before)
            size = (len(labels), context.train.channels, context.image_size, context.image_size)
            here = replace(here, stage=shard.stage, frozen=Frozen(torch.zeros(size), labels, before))
        here = self._base_context(here)
        return ReadyStage(here, self.base.stand_in(shard, here))

    def _later(self, shard: Shard, context: Context, earlier: Synthetic) -> StageContext:
        """The context of a later stage, with the results of earlier ones."""
        seen = to_unit(earlier.images) if earlier.pixels is None else earlier.pixels
        frozen = Frozen(seen, earlier.labels, shard.stage - 1, earlier.soft_labels)
        here = replace(context, key=context.key / "stage" / shard.stage)
        return StageContext.of(here, stage=shard.stage, frozen=frozen)

    def images_looked_at(self, real: int, ipc: int) -> float:
        return self.settings.stages * self.base.images_looked_at(real, self.each(ipc))

    def start(self, shard: Shard, context: Context, ready: ReadyStage | None = None) -> Start:
        found = self.base.start(shard, ready.context, ready.base)
        if ready.context.real_rows is None:
            return found
        rows = ready.context.real_rows[np.maximum(found.origin, 0)]
        return replace(found, origin=np.where(found.origin < 0, -1, rows))

    def objective(self, context: Context, ready: ReadyStage | None = None) -> Objective:
        objective, frozen = self.base.objective(ready.context, ready.base), ready.context.frozen
        return objective if frozen is None else Union(objective, frozen)

    @property
    def network_count(self) -> int | None:
        return self.base.network_count

    def protocol(self, dataset: str) -> str:
        return self.base.staged_protocol(dataset)

    def _base_context(self, context: Context) -> Context:
        return replace(context, ipc=self.each(context.ipc))


def _of_stage(shard: Shard, stage: int, rows: int) -> Shard:
    """A shard of the base's plan in a stage; in the first it is the base's shard, with its name."""
    if stage == 1:
        return shard
    moved = tuple(row + (stage - 1) * rows for row in shard.rows)
    return replace(shard, id=f"stage{stage}-{shard.id}", rows=moved, stage=stage)
