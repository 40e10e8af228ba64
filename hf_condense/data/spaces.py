"""Spaces of optimised and augmented pixels: normalised, unit or whitened, with maps to unit pixels and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.randomness import Key
from hf_condense.data.whitening import Whitening


class PixelSpace(Protocol):
    """Images [n, C, S, S] in unit pixels and in other coordinates z, of the same shape unless the space says otherwise.

    A space that is linear has its zero at the mean of the dataset.
    """

    def initial(self, first: Tensor) -> Tensor:
        """The z of a shard that begins with these unit pixels."""
        return self.encode(first)

    def grown(self, z: Tensor, step: int, key: Key) -> Tensor | None:
        """A z of more coordinates from the step after this one on, under a new optimiser; None keeps it as it is."""
        return None

    def encode(self, unit: Tensor) -> Tensor:
        """Unit pixels to z."""

    def decode(self, z: Tensor) -> Tensor:
        """z to unit pixels; differentiable, as `encode` is."""

    def vjp(self, z: Tensor, gradient: Tensor) -> Tensor:
        """The gradient in z, at z, of a value whose gradient in unit pixels is given."""

    def clamp_(self, z: Tensor) -> None:
        """Clamps z, in place, so that it decodes into [0, 1]."""


class NormalisedPixels(PixelSpace):
    """One value a pixel: unit = z * std + mean.

    Adam moves every channel by about its learning rate in units of the dataset's own standard deviation.

    Args:
        mean, std: of the dataset, one value a channel, in unit pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self.low, self.high = -self.mean / self.std, (1 - self.mean) / self.std

    def encode(self, unit: Tensor) -> Tensor:
        return (unit - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        return z * self.std + self.mean

    def vjp(self, z: Tensor, gradient: Tensor) -> Tensor:
        return gradient * self.std

    @torch.no_grad()
    def clamp_(self, z: Tensor) -> None:
        torch.minimum(torch.maximum(z, self.low, out=z), self.high, out=z)


class WhitenedPixels(PixelSpace):
    """Pixels without their correlations over the dataset (ZCA).

    Args:
        whitening: of the dataset, on the device of the images.
    """

    def __init__(self, whitening: Whitening) -> None:
        self.whitening = whitening

    def encode(self, unit: Tensor) -> Tensor:
        return self.whitening(unit)

    def decode(self, z: Tensor) -> Tensor:
        return self.whitening.inverse(z)

    def vjp(self, z: Tensor, gradient: Tensor) -> Tensor:
        return self.whitening.vjp(gradient)

    @torch.no_grad()
    def clamp_(self, z: Tensor) -> None:
        z.copy_(self.encode(self.decode(z).clamp(0, 1)))


def pixel_space(
    space: Literal["normalised", "unit", "whitened"],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    whitening: Whitening | None = None,
) -> PixelSpace:
    """The space of this name: in units of the dataset's standard deviation, in [0, 1] as it is, or whitened.

    Args:
        mean, std: of the dataset, one value a channel, in unit pixels.
        whitening: of the dataset; moved to `device`.

    Raises:
        ConfigError: the whitened space without a whitening.
    """
    if space == "whitened":
        check(whitening is not None, "space", space, "a space that has what it needs", "fit a whitening first")
        return WhitenedPixels(whitening.to(device))
    return NormalisedPixels(mean, std, device) if space == "normalised" else NormalisedPixels((0.0,), (1.0,), device)
