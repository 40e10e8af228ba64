"""Statistics matching in blocks of steps, between which images are blended with their own first ones (arXiv:2506.24125)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.randomness import Key
from hf_condense.objectives.feature_statistics import FeatureStatistics


@dataclass(frozen=True)
class Blocks:
    """Blocks of equal length, each with the side at which networks see the images.

    Args:
        steps: of all blocks; a multiple of their number.
        sides: in pixels, one a block; the last one is that of the images.
        alpha: share of what is optimised in a blend, the rest being the first images; 1 leaves these out.
        resized: whether the optimised images have the side of their block, or only their views.
    """

    steps: int
    sides: Sequence[int]
    alpha: float
    resized: bool = False

    def __post_init__(self) -> None:
        blocks = len(self.sides)
        check(blocks >= 1 and self.steps % blocks == 0, "iterations", self.steps, f"a multiple of {blocks} blocks")

    def number(self, step: int) -> int:
        """The block of a step; the last one for those after the end."""
        return min(step // (self.steps // len(self.sides)), len(self.sides) - 1)

    def side(self, step: int) -> int:
        return self.sides[self.number(step)]


class ResidualStatistics(FeatureStatistics):
    """`FeatureStatistics` whose images begin each later block as alpha * images + (1 - alpha) * first images.

    The blend is linear: in normalised and in unit pixels it gives the same image. The optimiser begins again with a block.
    """

    def __init__(self, *parts: Any, blocks: Blocks, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.blocks = blocks

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self.first = images.clone()
        super().start(shard, images, labels, key)

    def begin(self, images: Tensor) -> Tensor:
        return resize(images, self.blocks.side(0)) if self.blocks.resized else images

    def revises(self, step: int) -> bool:
        return self.blocks.number(step + 1) != self.blocks.number(step)

    def revise(self, images: Tensor, step: int, key: Key) -> Tensor:
        side = self.blocks.side(step + 1) if self.blocks.resized else images.shape[-1]
        return self.blocks.alpha * resize(images, side) + (1 - self.blocks.alpha) * resize(self.first, side)


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, without a filter before shrinking, as the official code does it."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
