"""Features of all real images of a class, in memory that does not grow with the pixels of the class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel

FEATURE_BATCH = 256


@torch.no_grad()
def features_of(
    model: ImageModel, source: ImageSource, rows: np.ndarray, size: int, device: torch.device, normalised: bool = True
) -> torch.Tensor:
    """Features float32 [n, d] on the CPU of these rows, uncropped, from a frozen `model` at `size` pixels.

    Args:
        normalised: whether the network gets normalised images, or raw ones.
    """
    model.to(device).eval()
    found = []
    for begin in range(0, len(rows), FEATURE_BATCH):
        images = unit_pixels(source.images(rows[begin : begin + FEATURE_BATCH]), device, size)
        found.append(embed(model, images if normalised else seen_raw(model, images)).float().cpu())
    return torch.cat(found)


def class_features(
    model: ImageModel, source: ImageSource, count: int, size: int, device: torch.device, key: Key
) -> torch.Tensor:
    """Features float32 [K, R, d] on the CPU of R = `count` random images of each class, or as many as the smallest has."""
    rows = [source.rows_of(label) for label in range(source.num_classes)]
    count = min(count, *map(len, rows))
    picks = [of_class[(key / label).permutation(len(of_class))[:count]] for label, of_class in enumerate(rows)]
    return torch.stack([features_of(model, source, some, size, device) for some in picks])


@torch.no_grad()
def mean_features(
    model: ImageModel,
    source: ImageSource,
    size: int,
    device: torch.device,
    views: Callable[[torch.Tensor, Key], torch.Tensor] | None,
    passes: int,
    key: Key,
) -> torch.Tensor:
    """Mean features float64 [K, d] of each class, on the CPU: one pass at a time, in memory of the means alone.

    Args:
        views: (unit pixels, key) -> views, drawn in each of `passes` passes; None takes whole images, once.
    """
    model.to(device).eval()
    means = []
    for label in range(source.num_classes):
        rows, total = source.rows_of(label), 0.0
        for turn in range(passes if views else 1):
            for begin in range(0, len(rows), FEATURE_BATCH):
                images = unit_pixels(source.images(rows[begin : begin + FEATURE_BATCH]), device, size)
                shown = views(images, key / label / turn / begin) if views else images
                total = total + embed(model, shown).double().sum(0).cpu()
        means.append(total / (len(rows) * (passes if views else 1)))
    return torch.stack(means)


def seen_raw(model: ImageModel, images: torch.Tensor) -> torch.Tensor:
    """Inverts the normalisation of `model` on unit pixels [n, C, H, W], so that its backbone gets them unchanged."""
    return images * model.std + model.mean
