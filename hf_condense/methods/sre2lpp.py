"""SRe2L++ (arXiv:2501.07575): SRe2L from real patches, with labels from the statistics of their batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hf_condense.config import setting
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings


@dataclass(frozen=True)
class SRe2LPlusSettings(SRe2LSettings):
    """SRe2L's with a start from real patches."""

    init: Literal["noise", "real", "patches"] = setting(
        "patches", "first images: noise, whole real ones, or tiles of real crops of medium difficulty"
    )


class SRe2LPlus(SRe2L):
    """SRe2L from real patches; its protocols label with the statistics of the labelled batch."""

    name = "sre2lpp"
    Settings = SRe2LPlusSettings
    protocols: ClassVar[dict[str, str]] = {
        "cifar10": "sre2lpp-cifar10",
        "cifar100": "sre2lpp-cifar100",
        "tiny-imagenet": "sre2lpp-tiny",
        "imagenet-1k": "sre2lpp-in1k",
    }
    other_protocol = "small-bssl"
