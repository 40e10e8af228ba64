"""Settings of statistic matching; methods share them, and they import only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_condense.config import check, check_choices, setting


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of the loss in frozen observers beside the classification term (EDC, sections 3.2 to 3.5)."""

    alpha: float = setting(0.5, "share of statistics of all data in the matching; the rest is of the batch's classes")
    class_matching: Literal["aggregated", "per_class"] = setting(
        "aggregated", "class statistics as one target for a batch, or one for each of its classes"
    )
    match_weight: float = setting(0.01, "weight r of statistic matching beside cross-entropy")
    first_layer_weight: float = setting(10.0, "weight of the layer that sees pixels, the others having 1")
    variance_weight: float = setting(1.0, "weight of the distances of variances, those of means having 1")
    drop_rate: float = setting(0.0, "probability that a convolution does not count in a step")
    stat_momentum: float = setting(0.8, "momentum of the running statistics of synthetic batches")
    stat_ema_zero_init: bool = setting(False, "running statistics start at zero (the authors' script)")
    stat_ema_persist: bool = setting(False, "running statistics go on from batch to batch (the authors' script)")
    flatness_weight: float = setting(0.25, "weight of the flatness term; 0 leaves it out")
    flatness_decay: float = setting(0.99, "decay of the averaged images of the flatness term")
    flatness_temperature: float = setting(4.0, "temperature of the flatness term")
    flatness_official: bool = setting(False, "flatness term with the authors' direction and scaling")
    crop_min: float = setting(0.5, "smallest area of the random resized crop in synthesis")
    patch: int | None = setting(None, "side of a patch in pixels; 4 up to 64 pixels, 16 above, by default")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("alpha", "drop_rate", "stat_momentum", "flatness_decay"):
            check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        for name in ("match_weight", "first_layer_weight", "variance_weight", "flatness_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.flatness_temperature > 0, "flatness_temperature", self.flatness_temperature, "above 0")
        check(0 < self.crop_min <= 1, "crop_min", self.crop_min, "an area above 0 and up to 1")
        check(self.patch is None or self.patch >= 1, "patch", self.patch, "1 pixel or more")

    def patch_side(self, size: int) -> int:
        """Side of a patch in pixels for images of `size` pixels."""
        return self.patch or (4 if size <= 64 else 16)
