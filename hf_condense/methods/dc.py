"""DC: gradient matching (arXiv:2006.05929); DSA: the same under siamese augmentation (arXiv:2102.08259)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_condense.config import check, setting
from hf_condense.methods.base import Context
from hf_condense.methods.matching_family import CLASSIC, DSA_FAMILIES, FamilySettings, MatchingFamily
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.gradient_matching import GradientMatching, Loops
from hf_condense.objectives.twice import need_twice_differentiable
from hf_condense.plan import Plan, Recipe, SetSpec, Shard

# images a class -> (image steps with each network, epochs of its training between them): the official table
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


@dataclass(frozen=True)
class DCSettings(FamilySettings):
    """Settings of DC; defaults are those of the official script."""

    iterations: int = setting(1000, "untrained networks that synthesis goes through (K)", quick=2)
    outer_loop: int | None = setting(None, "image steps with each network; defaults to the official script's, by IPC")
    inner_loop: int | None = setting(
        None,
        "epochs that the network is trained on the images between two of these steps; defaults to a value by IPC",
        quick=5,
    )
    lr: float = setting(0.1, "SGD's learning rate of the images, in units of the dataset's standard deviation")
    network_lr: float = setting(0.01, "learning rate of the network's own training")
    train_batch: int = setting(256, "batch size of the network's own training")
    distance: Literal["rows", "mse", "cos"] = setting(
        "rows", "between gradients: cosine of each output unit (rows), squared difference, or one cosine for all"
    )
    init: Literal["real", "noise"] = setting("noise", "first images: random real ones, or Gaussian noise")
    families: tuple[str, ...] = setting((), "augmentation that real and synthetic images share; none in DC")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("outer_loop", "inner_loop"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "1 or more")
        check(self.network_lr > 0, "network_lr", self.network_lr, "above 0")
        check(self.train_batch >= 1, "train_batch", self.train_batch, "1 or more")

    def loops(self, ipc: int) -> tuple[int, int]:
        """(outer, inner) for `ipc` images a class; for an IPC that the table lacks, those of the nearest one."""
        outer, inner = LOOPS[min(LOOPS, key=lambda known: (abs(known - ipc), known))]
        return self.outer_loop or outer, self.inner_loop or inner


class DC(MatchingFamily):
    """All images are one shard, because the network between two steps is trained on all of them."""

    name = "dc"
    Settings = DCSettings

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        rows = tuple(range(len(starts.labels)))
        shard = Shard(f"{self.name}-00000", "optimise", rows, starts.labels)
        return Plan(starts.labels, (*starts.groups, (shard,)), joint=True)

    def check_network(self, network: ImageModel, image_size: int) -> None:
        need_twice_differentiable(network, image_size)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        return self.free_pixels(self.settings.iterations * self.settings.loops(spec.ipc)[0])

    def objective(self, context: Context, ready: Any = None) -> GradientMatching:
        s = self.settings
        loops = Loops(*s.loops(context.ipc), s.network_lr, s.train_batch, s.real_batch, s.distance)
        views = self.views(context)
        # every new network clusters again: expensive at IPC 1, where each step has one
        centres = self.centres(context, views)
        return GradientMatching(context.fresh, views, loops, centres)

    def protocol(self, dataset: str) -> str:
        return "dc-mnist" if dataset == "mnist" else "dc" if dataset in CLASSIC else "small"


@dataclass(frozen=True)
class DSASettings(DCSettings):
    """Settings of DSA; defaults are those of the official script."""

    init: Literal["real", "noise"] = setting("real", "first images: random real ones, or Gaussian noise")
    families: tuple[str, ...] = setting(
        DSA_FAMILIES, "augmentation that real and synthetic images share; flip is left out where it changes the class"
    )


class DSA(DC):
    """DC, with each class's real and synthetic images under one draw of augmentation."""

    name = "dsa"
    Settings = DSASettings

    def protocol(self, dataset: str) -> str:
        return MatchingFamily.protocol(self, dataset)
