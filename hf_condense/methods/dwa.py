"""DWA (arXiv:2409.17612): SRe2L from real images, in a network whose weights are moved for each shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hf_condense.config import check, setting
from hf_condense.methods.base import Context
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings
from hf_condense.objectives.moved import MovedStatistics


@dataclass(frozen=True)
class DWASettings(SRe2LSettings):
    """SRe2L's, and the move; defaults are those of the ImageNet-1k script."""

    iterations: int = setting(2000, "optimiser steps per shard (T)", quick=20)
    variance_weight: float = setting(2.0, "weight of the distances of variances, those of means having 1 (r_var)")
    init: Literal["noise", "real", "patches"] = setting(
        "real", "first images: noise, whole real ones, or tiles of real crops of medium difficulty"
    )
    rho: float = setting(0.015, "length of the way that an observer's weights are moved for a shard; 0 leaves them")
    ascent_steps: int = setting(15, "steps of that way (K)")
    ascent_view: Literal["first", "each"] = setting(
        "first", "view of the first images in these steps: one for all, that of the first iteration, or one for each"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "ascent_steps"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


class DWA(SRe2L):
    """SRe2L whose shards each see a network of their own: images of a class differ more. At rho 0 it is SRe2L.

    The weights are moved in single precision from where training has left them, for every shard and observer again; in
    the authors' script the moves of the shards of an image number add up, and old gradients enter the next move.
    """

    name = "dwa"
    Settings = DWASettings
    protocols: ClassVar[dict[str, str]] = {
        "cifar10": "dwa-cifar",
        "cifar100": "dwa-cifar",
        "tiny-imagenet": "dwa-tiny",
        "imagenet-1k": "dwa-in1k",
    }

    def objective(self, context: Context, ready: Any = None) -> MovedStatistics:
        s = self.settings
        move = {"rho": s.rho, "ascent_steps": s.ascent_steps, "ascent_view": s.ascent_view}
        return MovedStatistics(**self.parts(context, ready), **move)
