"""Gaussian noise as first images."""

from __future__ import annotations

import torch

from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource


def gaussian_images(source: ImageSource, count: int, size: int, key: Key) -> torch.Tensor:
    """`count` noise images, float unit pixels [count, C, size, size]: N(0, 1) in units of the dataset's standard deviation,
    around its mean. They are not clamped: a third of the pixels may lie outside [0, 1].

    The first k of n images are those of k images, so that a larger set begins with the smaller one.
    """
    normal = torch.from_numpy(key.numpy().standard_normal((count, source.channels, size, size))).float()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (source.mean, source.std))
    return normal * std + mean


def grey_noise(source: ImageSource, count: int, size: int, key: Key) -> torch.Tensor:
    """`count` noise images around mid-grey that mostly lie inside [0, 1], clamped to it: float unit pixels, as above."""
    normal = torch.from_numpy(key.numpy().standard_normal((count, source.channels, size, size))).float()
    return (normal / 4 + 0.5).clamp(0, 1)
