"""PDD: any method, stage after stage, each on networks trained on the stages before (arXiv:2310.06982)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_condense.config import check, check_choices, setting
from hf_condense.methods import METHODS, MethodInfo, method_class
from hf_condense.methods.base import Context, Frozen, Method, Plan, Recipe, Shard, Start, StatisticsRequest
from hf_condense.methods.stage_networks import stage_networks
from hf_condense.methods.stage_source import harder, unused
from hf_condense.objectives.base import Objective
from hf_condense.objectives.parameterisation import to_unit
from hf_condense.objectives.union import Union

if TYPE_CHECKING:
    from hf_condense.data.images import ImageSource
    from hf_condense.engine import Synthetic
    from hf_condense.models.loading import ImageModel


@dataclass(frozen=True)
class PDDSettings:
    """Settings of the stages; those of the base method stand beside them, for the images of one stage."""

    base_method: str = setting("mtt", "method that makes the images of each stage")
    stages: int = setting(5, "stages (P), each of which makes ipc / P images a class")
    chains: int | None = setting(
        None, "networks that are trained on stage after stage: as many as the base method's experts or its pool's "
        "observers, or 20, where not said; 0 trains a new one for each network that the base method draws",
    )  # fmt: skip
    chain_epochs: int | None = setting(None, "epochs of a chain on each stage's union; a student's where not said")
    tune_epochs: int = setting(1, "epochs on real data of chains that become observers (bases with a pool)")
    tune_lr: float = setting(0.005, "learning rate of these")
    missed_weight: float = setting(
        1.0, "how much more often a real image that the chains miss is drawn and counted (bases with a pool)"
    )
    discard: Literal["none", "drop_easy", "band"] = setting(
        "none", "real images of later stages: all, without the easy ones (forgotten seldom), or only a band of them"
    )
    discard_interval: int = setting(10, "how many more times an image must have been forgotten from stage to stage")
    discard_epochs: int = setting(200, "epochs of the training in which forgetting is counted")

    def __post_init__(self) -> None:
        check_choices(self)
        known = sorted(name for name in METHODS if name != "pdd")
        check(self.base_method in known, "base_method", self.base_method, ", ".join(known))
        for name in ("stages", "discard_interval", "discard_epochs"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("chains", "tune_epochs", "missed_weight"):
            value = getattr(self, name)
            check(value is None or value >= 0, name, value, "0 or more")
        check(self.chain_epochs is None or self.chain_epochs >= 1, "chain_epochs", self.chain_epochs, "1 or more")
        check(self.tune_lr > 0, "tune_lr", self.tune_lr, "above 0")


@cache
def settings_with(base_method: str) -> type:
    """PDD's settings and, beside them, those of a base method."""
    base = method_class(base_method).Settings

    @dataclass(frozen=True)
    class Settings(PDDSettings, base):
        def __post_init__(self) -> None:
            if hasattr(base, "__post_init__"):
                base.__post_init__(self)
            PDDSettings.__post_init__(self)

    Settings.__name__ = f"{base.__name__} in stages"
    return Settings


class PDD(Method):
    """The base's plan, repeated: rows are in order of their stage, and within it as the base has them.

    One stage is the base method to the last bit. In later ones the base's objective sees the images of all stages so
    far, of which only the new ones move, in networks that were trained on the old ones.
    """

    name = "pdd"
    Settings = PDDSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        cls = method_class(settings.base_method)
        self.base = cls(cls.Settings(**{f.name: getattr(settings, f.name) for f in fields(cls.Settings)}))
        self.VERSION = 100 + self.base.VERSION
        own = settings.chains != 0 or not self.base.info.pool
        check(own, "chains", 0, f"1 or more over {self.base.name}, whose observers they become")

    @classmethod
    def settings_class(cls, base_method: str | None = None) -> type:
        base_method = base_method or PDDSettings.base_method
        PDDSettings(base_method=base_method)  # refuses names that are not known
        return settings_with(base_method)

    @classmethod
    def preset_families(cls, settings: PDDSettings, ipc: int) -> dict[str, int]:
        return {f"pdd-{settings.base_method}": ipc, settings.base_method: max(1, ipc // settings.stages)}

    @property
    def info(self) -> MethodInfo:
        own, base = METHODS[self.name], self.base.info
        return replace(
            own, title=f"{own.title} over {base.title}", pool=base.pool, real_pixels=base.real_pixels,
            summary=f"{own.summary} In each stage: {base.summary}", citation=f"{own.citation}\n{base.citation}",
        )  # fmt: skip

    @property
    def formation_factor(self) -> int:
        return self.base.formation_factor

    @property
    def real_images_each(self) -> int:
        return self.base.real_images_each

    @property
    def fewer(self) -> str:
        return self.base.fewer

    def check_images(self, source: ImageSource, ipc: int) -> None:
        """As many as one stage takes: later stages may draw the same ones again."""
        self.base.check_images(source, self.each(ipc))

    def check_network(self, network: ImageModel, image_size: int) -> None:
        self.base.check_network(network, image_size)

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
            ipc % stages == 0, "ipc", ipc, f"a multiple of the {stages} stages",
            f"choose --ipc {max(1, round(ipc / stages)) * stages}, or another --stages",
        )  # fmt: skip
        return ipc // stages

    def plan(self, num_classes: int, ipc: int) -> Plan:
        one, stages = self.base.plan(num_classes, self.each(ipc)), range(1, self.settings.stages + 1)
        groups = tuple(
            tuple(_of_stage(shard, stage, len(one.labels)) for shard in group)
            for stage in stages
            for group in one.groups
        )
        return Plan(one.labels * len(stages), groups, one.chained, one.joint)

    def recipe(self, num_classes: int, ipc: int, image_size: int) -> Recipe | None:
        return self.base.recipe(num_classes, self.each(ipc), image_size)

    def images_per_step(self, num_classes: int, ipc: int) -> float:
        stages = self.settings.stages  # the first one sees its own images, the last one all of them
        return self.base.images_per_step(num_classes, self.each(ipc)) * stages * (stages + 1) / 2

    def images_before(self, real: int) -> float:
        """Those of the base in each stage; chains, which see few images, are not counted."""
        return self.base.images_before(real) * self.settings.stages

    def statistics(self, context: Context) -> StatisticsRequest | None:
        return self.base.statistics(self._base_context(context))

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> Context:
        """The real images of the stage, and in later ones networks trained on the images of those before."""
        shown = self.each(context.ipc) * self.formation_factor**2  # real images of a class that first ones can need
        here = context if earlier is None else self._later(shard, context, earlier)
        here = harder(self.settings, here, 2 * shown, context.key / "forgetting")
        if earlier is not None:
            here = stage_networks(self, shard, here, earlier, context.key / "experts")
            if shard.kind == "start":
                here = unused(here, earlier.origin, shown)
        return replace(self.base.ready(shard, self._base_context(here), None), ipc=context.ipc)

    def _later(self, shard: Shard, context: Context, earlier: Synthetic) -> Context:
        """Says which stage it is, and what the ones before have made."""
        seen = to_unit(earlier.images) if earlier.pixels is None else earlier.pixels
        frozen = Frozen(seen, earlier.labels, shard.stage - 1)
        return replace(context, key=context.key / "stage" / shard.stage, stage=shard.stage, frozen=frozen)

    def start(self, shard: Shard, context: Context) -> Start:
        found = self.base.start(shard, self._base_context(context))
        if context.real_rows is None:
            return found
        rows = context.real_rows[np.maximum(found.origin, 0)]
        return replace(found, origin=np.where(found.origin < 0, -1, rows))

    def objective(self, context: Context) -> Objective:
        objective = self.base.objective(self._base_context(context))
        return objective if context.frozen is None else Union(objective, context.frozen)

    def protocol(self, dataset: str) -> str:
        name = self.base.protocol(dataset)
        return {"mtt": "pdd-mtt", "mtt-zca": "pdd-mtt-zca", "idc": "pdd-idc"}.get(name, name)

    def _base_context(self, context: Context) -> Context:
        return replace(context, ipc=self.each(context.ipc))


def _of_stage(shard: Shard, stage: int, rows: int) -> Shard:
    """A shard of the base's plan in a stage; in the first it is the base's own, name and all."""
    if stage == 1:
        return shard
    moved = tuple(row + (stage - 1) * rows for row in shard.rows)
    return replace(shard, id=f"stage{stage}-{shard.id}", rows=moved, stage=stage)
