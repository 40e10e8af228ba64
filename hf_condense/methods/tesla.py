"""TESLA: matching of trajectories in the memory of one step, with labels from the experts (arXiv:2211.10586)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_condense.config import setting
from hf_condense.methods.mtt import MTT, MTTSettings


@dataclass(frozen=True)
class TESLASettings(MTTSettings):
    """Settings of TESLA; defaults are those of the official script."""

    iterations: int = setting(10000, "image steps", quick=20)
    gradient: Literal["auto", "adjoint", "unroll", "tesla", "tesla_official"] = setting(
        "adjoint", "as of MTT; the memory of one step is what TESLA is for"
    )
    assign_labels: bool = setting(True, "students learn soft labels that the expert's target weights give the images")


class TESLA(MTT):
    """MTT in the memory of one step, with labels from the experts."""

    name, VERSION = "tesla", 1
    Settings = TESLASettings

    def staged_protocol(self, dataset: str) -> str:
        return self.protocol(dataset)
