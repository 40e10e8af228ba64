"""BatchNorm statistics measured again: those of early copies and pruned networks no longer fit their activations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_condense.data.augmentation import ViewPolicy, apply_views, row_views
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource

BATCH = 128  # images whose statistics are averaged; variances of small batches are noisy


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    source: ImageSource,
    policy: ViewPolicy | None,
    key: Key,
    device: torch.device,
    images: int = 5000,
) -> int:
    """Replaces the running statistics of every BatchNorm by the plain average over batches of real images.

    Only BatchNorms are in training mode meanwhile, and weights stay as they are. Those with statistics are what
    synthesis matches, so the images are seen as synthesis sees its own: each has a view of its own of `policy`.

    Args:
        model: takes unit pixels [n, C, H, W]; in eval mode afterwards.
        policy: augmentation of the synthesis; None shows the images as they are.
        key: names the images and their views.
        images: number of real images that are used; all if there are fewer.

    Returns:
        Number of BatchNorms; 0 where there is nothing to measure.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    model.to(device).eval()
    if not norms:
        return 0
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in torch, None stands for the cumulative average
        norm.train()
    policy = None if policy is None else replace(policy, per="image", mix="none")
    rows = (key / "rows").permutation(len(source))[:images]
    try:
        # batches of nearly equal size, for all count the same in the average
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            model(_seen(source, part, policy, key, device))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()
    return len(norms)


def _seen(source: ImageSource, rows: np.ndarray, policy: ViewPolicy | None, key: Key, device: torch.device):
    pixels = source.images(rows)
    if policy is None:
        return unit_pixels(pixels, device, source.image_size)
    return apply_views(unit_pixels(pixels, device), row_views(policy, key / "view", rows, *pixels.shape[-2:]), policy)
