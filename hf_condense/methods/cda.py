"""CDA (arXiv:2311.18838): SRe2L with a curriculum of crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hf_condense.config import setting
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings


@dataclass(frozen=True)
class CDASettings(SRe2LSettings):
    """SRe2L's with the curriculum of the paper."""

    curriculum: Literal["none", "cosine", "linear", "step"] = setting(
        "cosine", "how the smallest crop falls from the whole image to crop_min"
    )


class CDA(SRe2L):
    """SRe2L with crops that shrink over the steps. At milestone 0 it is bitwise equal to SRe2L."""

    name = "cda"
    Settings = CDASettings
    protocols: ClassVar[dict[str, str]] = {
        **SRe2L.protocols,
        "tiny-imagenet": "cda-tiny",
        "imagenet-1k": "cda-in1k",
    }
