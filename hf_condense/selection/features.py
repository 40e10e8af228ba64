"""Features of all real images of a class, in memory that does not grow with the pixels of the class."""

from __future__ import annotations

import numpy as np
import torch

from hf_condense.data.source import ImageSource
from hf_condense.models.embedding import embed
from hf_condense.models.loading import ImageModel
from hf_condense.models.training import unit_pixels

FEATURE_BATCH = 256


@torch.no_grad()
def features_of(
    model: ImageModel, source: ImageSource, rows: np.ndarray, size: int, device: torch.device
) -> torch.Tensor:
    """Features float32 [n, d] on the CPU of these rows, seen whole by a frozen `model` at `size` pixels."""
    model.to(device).eval()
    parts = (rows[a : a + FEATURE_BATCH] for a in range(0, len(rows), FEATURE_BATCH))
    return torch.cat([embed(model, unit_pixels(source.images(part), device, size)).float().cpu() for part in parts])
