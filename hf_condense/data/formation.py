"""Multi-formation: a stored image holds f x f training images as tiles (IDC, arXiv:2205.14959, section 3.2)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 0.5  # unit pixel that fills the last row and column of tiles where the side does not divide
Formation = Literal["single", "multi", "bound"]


def decode(images: Tensor, factor: int) -> Tensor:
    """Cuts each image into `factor` x `factor` tiles and enlarges each to the whole size. Differentiable.

    Args:
        images: float unit pixels [n, C, H, W].

    Returns:
        [n * factor², C, H, W], tile by tile (row by row) and within a tile image by image: row k * n + j is tile k of
        image j, so labels repeat whole. The images themselves where `factor` is 1.
    """
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    sides = [-(-side // factor) for side in (height, width)]
    down, across = (part * factor - side for part, side in zip(sides, (height, width)))
    images = F.pad(images, (0, across, 0, down), value=BORDER)
    tiles = [part for row in images.split(sides[0], -2) for part in row.split(sides[1], -1)]
    return F.interpolate(torch.cat(tiles), (height, width), mode="bilinear", align_corners=False)


def tile_bounds(extent: int, factor: int) -> np.ndarray:
    """Where `factor` tiles along a side of `extent` pixels begin, and its end: int64 [factor + 1].

    Where they do not divide it, the first ones are a pixel larger.
    """
    return np.cumsum([0, *(extent // factor + (i < extent % factor) for i in range(factor))])


def enlarged(images: Tensor, factor: int) -> Tensor:
    """`decode` for tiles of `tile_bounds`, which differ by a pixel where they do not divide the side. Differentiable."""
    if factor == 1:
        return images
    rows, columns = (np.diff(tile_bounds(side, factor)).tolist() for side in images.shape[-2:])
    tiles = [part for row in images.split(rows, -2) for part in row.split(columns, -1)]
    shape = images.shape[-2:]
    return torch.cat([F.interpolate(part, shape, mode="bilinear", align_corners=False) for part in tiles])


def decode_as(images: Tensor, factor: int, kind: Formation = "single", most: int = 128) -> Tensor:
    """Training images [m, C, H, W] of float unit pixels [n, C, H, W].

    Args:
        kind: "single" is `decode`; "multi" decodes with every factor from 1 to `factor`; "bound" gives each image the
            largest factor with which at most `most` training images come out and every image still gives one.
    """
    if kind == "single":
        return decode(images, factor)
    if kind == "multi":
        return torch.cat([decode(images, f) for f in range(1, factor + 1)])
    parts, spare = [], most - len(images)
    for f in range(factor, 1, -1):
        count = min(len(images), max(0, spare) // (f * f - 1))
        parts.append(decode(images[:count], f))
        images, spare = images[count:], spare - count * (f * f - 1)
    return torch.cat([*parts, images])


def decode_set(images: Tensor, labels: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """What students are trained on: published images, uint8 or float unit pixels, with their labels int64 [n].

    Decoded images are float unit pixels; with `factor` 1 images and labels are returned unchanged.
    """
    if factor == 1:
        return images, labels
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    return decode(unit, factor), labels.repeat(factor**2)
