"""Mosaic, our own recipe: real images that an observer finds easy, several in a stored one (IDC), each with the features
that it has at full size (CIM).

Without optimisation, enlarged tiles teach with hard labels and mislead with soft ones; with it they teach with both
(`benchmarks/log/2026-11-28-mosaic.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_condense.config import setting
from hf_condense.methods.base import Context
from hf_condense.methods.cim import CIM, CIMSettings
from hf_condense.methods.formations import check_divides


@dataclass(frozen=True)
class MosaicSettings(CIMSettings):
    """CIM's."""

    tile_factor: int = setting(2, "training images per side of a stored one (f): f squared in each; divides the side")


class Mosaic(CIM):
    """CIM whose students enlarge each tile to the whole size, in place of looking at the image of tiles."""

    name = "mosaic"
    Settings = MosaicSettings

    @property
    def formation_factor(self) -> int:
        return self.settings.tile_factor

    def check(self, context: Context) -> None:
        super().check(context)
        check_divides("tile_factor", self.settings.tile_factor, context.image_size)

    def protocol(self, dataset: str) -> str:
        return "small"
