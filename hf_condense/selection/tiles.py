"""Whole real images, scaled down and put side by side into one: the second step of PCA (arXiv:2502.06434).

Its third step, student crops inside one tile, is that of protocols with `tiles` (`data.augmentation.ViewPolicy`).
"""

from __future__ import annotations

import torch

from hf_condense.selection.realism import scaled_down, tile


def combine(images: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """uint8 [count * factor², C, S, S] to uint8 [count, C, size, size] of `factor` x `factor` whole images each.

    Consecutive images share a tile, row by row, so that the first tile holds the first `factor`² of a ranking and
    fewer tiles are the first of more.
    """
    count, small = len(images) // factor**2, scaled_down(images, factor, size)
    # `tile` takes cell k of all images together
    by_cell = small.view(count, factor**2, *small.shape[1:]).transpose(0, 1).flatten(0, 1)
    return tile(by_cell, count, factor, size)
