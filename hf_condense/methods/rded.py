"""RDED: real crops that an observer finds easy, tiled and never optimised (arXiv:2312.03526)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_condense.config import check, setting
from hf_condense.methods.base import Context, Method
from hf_condense.methods.patches import crops_looked_at, ranked_patches
from hf_condense.plan import Shard, Start

PROTOCOLS = (
    "cifar10",
    "cifar100",
    "tiny-imagenet",
    "imagenette",
    "imagewoof",
    "imagenet-10",
    "imagenet-100",
    "imagenet-1k",
)


@dataclass(frozen=True)
class RDEDSettings:
    """Settings of the selection (section 4 of the paper); EDC's RDED start has settings of the same names."""

    rded_factor: int = setting(1, "tiles per side of an image")
    rded_candidates: int = setting(300, "real images looked at per class", quick=20)
    rded_crops: int = setting(5, "crops looked at per real image")

    def __post_init__(self) -> None:
        for name in ("rded_factor", "rded_candidates", "rded_crops"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class RDED(Method):
    """A shard a class, with its own randomness: adding or removing classes does not change the images of others.

    The first observer ranks the crops. The protocol trains students on online labels of the teacher and, at factor 2,
    shuffles the cells of an image.
    """

    name = "rded"
    Settings = RDEDSettings

    @property
    def real_images_each(self) -> int:
        return self.settings.rded_factor**2

    def images_looked_at(self, real: int, ipc: int) -> float:
        return crops_looked_at(self.settings, real, ipc)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        return ranked_patches(shard, context, self.settings)

    def protocol(self, dataset: str) -> str:
        return f"rded-{dataset}" if dataset in PROTOCOLS else "small"
