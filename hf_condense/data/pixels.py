"""Conversions between unit pixels (input of networks) and stored 8-bit images, and the digest of images."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hf_condense.data.crops import centre
from hf_condense.data.upload import to_device


def to_uint8(unit: torch.Tensor) -> torch.Tensor:
    """Unit pixels to 8 bits, rounded to nearest, clamped to [0, 1]."""
    return (unit.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float unit pixels; float images pass unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def unit_pixels(images: Tensor, device: torch.device, size: int | None = None) -> Tensor:
    """Float unit pixels on `device`, centre-cropped to `size` where the stored side is larger."""
    if size is not None and images.shape[-1] > size:
        images = centre(images, size)
    images = to_device(images, device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def image_digest(images: Tensor) -> str:
    """sha256 of dtype, shape and pixels of images [N, C, S, S]: labels belong to exactly these."""
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}\n".encode())
    for part in images.split(4096):
        digest.update(part.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
