"""CA2D: RDED's crops, cut from the images that CAD keeps (arXiv:2604.18811)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_condense.config import check, check_choices, setting
from hf_condense.methods.base import Context, Method
from hf_condense.methods.patches import crops_looked_at, ranked_patches
from hf_condense.methods.watched import CADWindows, watched
from hf_condense.plan import Shard, Start
from hf_condense.selection.real import need_images
from hf_condense.selection.scores import cad, ranked

DATASETS = ("imagenette", "imagewoof", "imagenet-10", "imagenet-100", "imagenet-1k")  # of RDED's tiles of factor 2


@dataclass(frozen=True)
class CA2DSettings(CADWindows):
    """Settings of the scores and of the crops. The paper's windows and the size of its pool are not known here."""

    keep: Literal["high", "low"] = setting("high", "which end of CAD is kept: its related scores keep the high one")
    rded_factor: int = setting(2, "tiles per side of an image")
    rded_candidates: int = setting(300, "images of a class that CAD keeps, of which crops are cut", quick=20)
    rded_crops: int = setting(5, "crops looked at per image")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        self.check_windows()
        for name in ("rded_factor", "rded_candidates", "rded_crops"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class CA2D(Method):
    """A shard a class. The training that CAD is read from is recorded once; the first observer ranks the crops."""

    name = "ca2d"
    Settings = CA2DSettings

    @property
    def real_images_each(self) -> int:
        return self.settings.rded_factor**2

    def images_before(self, real: int) -> float:
        return self.settings.dynamics_epochs * real

    def images_looked_at(self, real: int, ipc: int) -> float:
        return crops_looked_at(self.settings, real, ipc)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        s, label, each = self.settings, shard.labels[0], self.real_images_each
        need_images(context.train, len(shard.labels), each, label)
        rows = context.train.rows_of(label)
        scores = cad(watched(s, context).probability[:, rows], s.cad_window, s.cad_band)
        count = min(len(rows), max(s.rded_candidates, len(shard.labels) * each))
        kept = ranked(scores, count, context.key / shard.id / "cad", largest=s.keep == "high")
        return ranked_patches(shard, context, s, pool=kept)

    def protocol(self, dataset: str) -> str:
        return f"rded-{dataset}" if dataset in DATASETS else "small"
