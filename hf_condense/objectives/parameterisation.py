"""What the optimiser moves, and how it becomes the pixels that networks see."""

from __future__ import annotations

import torch


class NormalisedPixels:
    """Pixels in normalised space, one value a pixel: unit = z * std + mean.

    Adam moves every channel by about its learning rate in units of the dataset's own standard deviation.

    Args:
        mean, std: of the dataset, one value a channel, in unit pixels.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self.low, self.high = -self.mean / self.std, (1 - self.mean) / self.std

    def encode(self, unit: torch.Tensor) -> torch.Tensor:
        """Unit pixels [n, C, H, W] to what is learned, of the same shape."""
        return (unit - self.mean) / self.std

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """What is learned to unit pixels."""
        return z * self.std + self.mean

    @classmethod
    def of(cls, space: str, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> NormalisedPixels:
        """Pixels as a recipe's `space` has them: in units of the dataset's standard deviation, or in [0, 1]."""
        return cls(mean, std, device) if space == "normalised" else cls((0.0,), (1.0,), device)

    @torch.no_grad()
    def clamp_(self, z: torch.Tensor) -> None:
        """Puts what is learned back to where it decodes into [0, 1]."""
        torch.minimum(torch.maximum(z, self.low, out=z), self.high, out=z)


def to_uint8(unit: torch.Tensor) -> torch.Tensor:
    """Unit pixels to 8 bits, rounded to nearest, clamped to [0, 1]."""
    return (unit.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float unit pixels; float images pass unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
