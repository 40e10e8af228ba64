"""FADRM and FADRM+ (arXiv:2506.24125): SRe2L++ in blocks, between which images are blended with their first ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from hf_condense.config import check, setting
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.errors import ModelError
from hf_condense.methods.base import Context
from hf_condense.methods.sre2lpp import SRe2LPlus, SRe2LPlusSettings
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.residual import Blocks, ResidualStatistics


@dataclass(frozen=True)
class FADRMSettings(SRe2LPlusSettings):
    """SRe2L++'s, with half of the iterations and what happens between blocks of them."""

    iterations: int = setting(2000, "optimiser steps per shard, of all blocks together", quick=20)
    blocks: int = setting(4, "blocks of steps, each with an optimiser of its own (K)")
    alpha: float = setting(
        0.5, "share of the optimised images where a block begins, the rest being the first ones (a)"
    )
    small_side: float = setting(
        1.0, "share of the side at which every other block works; the last has the whole", quick=1.0
    )
    resolution: Literal["views", "pixels"] = setting(
        "views", "what has the side of a block: views of the images, or the images, which are resized between blocks"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.blocks >= 1, "blocks", self.blocks, "1 or more")
        check(0 <= self.alpha <= 1, "alpha", self.alpha, "a share from 0 to 1")
        check(0 < self.small_side <= 1, "small_side", self.small_side, "a share of the side, above 0 and up to 1")
        whole = self.iterations % self.blocks == 0
        check(whole, "iterations", self.iterations, f"a multiple of {self.blocks} blocks")
        blended = self.init != "noise" or self.alpha == 1
        check(blended, "init", self.init, "patches or real, to which images are brought back", "or set --alpha 1")

    def in_blocks(self, side: int) -> Blocks:
        """The blocks for images of `side` pixels; the last one has this side."""
        small = round(self.small_side * side)
        sides = [side if (self.blocks - number) % 2 else small for number in range(self.blocks)]
        return Blocks(self.iterations, sides, self.alpha, self.resolution == "pixels")


class FADRM(SRe2LPlus):
    """SRe2L++ whose images keep 1 - alpha^(K-1) of their first pixels, if optimisation is not counted: 7/8 by default.

    The rate falls over all blocks together. With one block the images are those of SRe2L++. Several observers take turns.
    """

    name = "fadrm"
    Settings = FADRMSettings
    protocols: ClassVar[dict[str, str]] = {
        "cifar10": "fadrm-cifar100",
        "cifar100": "fadrm-cifar100",
        "tiny-imagenet": "fadrm-tiny",
        "imagenette": "fadrm-imagenette",
        "imagewoof": "fadrm-imagewoof",
        "imagenet-1k": "fadrm-in1k",
    }

    def check_network(self, network: ImageModel, image_size: int) -> None:
        """Raises ModelError for a network that does not take the side of each block."""
        network.eval()
        for side in sorted({*self.settings.in_blocks(image_size).sides}):
            try:
                with torch.no_grad():
                    network(torch.zeros(1, network.channels, side, side))
            except (RuntimeError, AssertionError, ValueError) as error:  # what torch, timm and transformers raise here
                allowed = f"a network that takes {side} px images too ({str(error).splitlines()[0]})"
                step = "set --small_side 1, or choose a network with global pooling"
                raise ModelError("base_model", network.name, allowed, step) from error

    def objective(self, context: Context, ready: Any = None) -> ResidualStatistics:
        blocks = self.settings.in_blocks(context.image_size)
        return ResidualStatistics(**self.parts(context, ready), blocks=blocks)

    def _view(self, context: Context, step: int) -> ViewPolicy:
        side = self.settings.in_blocks(context.image_size).side(step)
        return replace(super()._view(context, step), size=side)


class FADRMPlus(FADRM):
    """FADRM whose presets have several observers, which take turns in the order of the pool; the mean of all labels."""

    name = "fadrmplus"
    protocols: ClassVar[dict[str, str]] = {
        **FADRM.protocols,
        "tiny-imagenet": "fadrm-plus-tiny",
        "imagewoof": "fadrm-plus-imagewoof",
    }
