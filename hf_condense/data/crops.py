"""Crops with integer boxes, cut and resized for a whole batch at once: an image resize is a row matrix and a column matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import together
from hf_condense.precision import autocast

TRIES = 10  # as torchvision's RandomResizedCrop: after ten boxes that do not fit, the centre is taken


def random_boxes(
    key: Key,
    n: int,
    height: int | np.ndarray,
    width: int | np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Draws crop boxes with the distribution of torchvision's RandomResizedCrop, all at once.

    Args:
        key: names the draw.
        n: number of boxes.
        height, width: sides of the images in pixels, one number or one for each box.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn uniformly in its logarithm.

    Returns:
        int32 [n, 4]: top, left, height, width, inside the image.
    """
    stream = key.numpy()
    area, aspect, place = stream.random((n, TRIES)), stream.random((n, TRIES)), stream.random((n, 2))
    height, width = (np.broadcast_to(np.asarray(side), (n,)) for side in (height, width))
    area = (scale[0] + (scale[1] - scale[0]) * area) * (height * width)[:, None]
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * aspect)
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, found = fits.argmax(1), fits.any(1)
    rows = np.arange(n)
    h, w = h[rows, first], w[rows, first]
    if not found.all():  # the largest centred box whose shape is allowed
        h = np.where(found, h, np.minimum(height, np.maximum(1, np.rint(width / ratio[0]))))
        w = np.where(found, w, np.minimum(width, np.maximum(1, np.rint(height * ratio[1]))))
    free = np.stack((height - h, width - w), 1)
    corner = np.where(found[:, None], np.floor(place * (free + 1)), free // 2)
    return np.concatenate((corner, h[:, None], w[:, None]), 1).astype(np.int32)


def centre(images: Tensor, size: int) -> Tensor:
    """The centre `size` x `size` of images [..., H, W] that are larger; odd margins are split as torchvision's CenterCrop does."""
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def check_boxes(boxes: Tensor, height: int, width: int) -> None:
    """Raises ValueError for a box that is empty or leaves an image of height x width pixels."""
    top, left, h, w = boxes.unbind(1)
    wrong = (top < 0) | (left < 0) | (h < 1) | (w < 1) | (top + h > height) | (left + w > width)
    if wrong.any():
        raise ValueError(
            f"box {boxes[wrong][0].tolist()} (top, left, height, width) leaves an image of {height} x {width}"
        )


def look_at(index: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """The input coordinate of each output pixel, with `align_corners=False`, inside the box.

    So the two neighbours of a coordinate weigh 1 together, and nothing outside the box leaks in.

    Args:
        index: [n or 1, size] output pixel numbers, in the order in which they are wanted.
        start, length: [n] first pixel and extent of the box along this axis.
        size: extent of the output.
    """
    start, length = start.double()[:, None], length.double()[:, None]
    inside = (index.double() + 0.5) * (length / size) - 0.5
    return start + torch.minimum(inside.clamp(min=0), length - 1)


def axis_matrices(axes: Sequence[tuple[Tensor, Tensor]], images: Tensor) -> list[Tensor | None]:
    """The bilinear weights [n or 1, size, extent] of each axis, on the device and in the type of `images`.

    Args:
        axes: for each axis, centres [n or 1, size]: the input coordinate of each output pixel (inside the box), and
            positions [n or 1, extent]: the coordinate of each input pixel; -1 excludes it.

    Returns:
        None where every output pixel is the input pixel of the same number; one matrix where all images share it.
    """
    kind = torch.promote_types(images.dtype, torch.float32)  # coordinates need more bits than bf16 has
    needed = [None if _is_plain(*axis) else [_shared(rows.double()).to(kind) for rows in axis] for axis in axes]
    there = iter(together([rows for axis in needed if axis for rows in axis], images.device))
    return [axis and _weights(next(there), next(there)).to(images.dtype) for axis in needed]


def _is_plain(centres: Tensor, positions: Tensor) -> bool:
    """Whether every output pixel is the input pixel of the same number."""
    plain = torch.arange(centres.shape[1])
    return centres.shape[1] == positions.shape[1] and bool((centres == plain).all() & (positions == plain).all())


def _shared(rows: Tensor) -> Tensor:
    """One row where all are equal."""
    return rows[:1] if bool((rows == rows[:1]).all()) else rows


def _weights(centres: Tensor, positions: Tensor) -> Tensor:
    return (centres[:, :, None] - positions[:, None, :]).abs_().neg_().add_(1).clamp_(min=0)


def resample(images: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Multiplies every channel of every image by a row matrix from the left and a column matrix from the right.

    Args:
        images: float [n or 1, C, H, W].
        rows: [n or 1, height, H], or None to leave the rows as they are.
        columns: [n or 1, width, W], or None.

    Raises:
        ValueError: the images are not floating point.
    """
    if not images.is_floating_point():
        raise ValueError(f"images of type {images.dtype} cannot be resized: divide uint8 pixels by 255 first")
    n = max(len(x) for x in (images, rows, columns) if x is not None)
    c, h = images.shape[1], images.shape[2]
    if len(images) != n:
        images = images.expand(n, *images.shape[1:])
    # matrix products, not grid_sample: exact at whole pixels, nothing leaks across a box's edge, and no atomic adds
    # in the gradient (on GPUs with TF32 products allowed, pixels are good to 3 digits instead of 7)
    with autocast(images.device, False):
        if columns is not None:
            if len(columns) == 1:
                images = images @ columns[0].mT
            else:
                images = (images.reshape(n, c * h, -1) @ columns.mT).view(n, c, h, -1)
        if rows is not None:
            if len(rows) == 1:
                images = rows[0] @ images
            else:  # a channel at a time: the batched product would copy the matrices for each channel
                images = torch.stack([rows @ images[:, i] for i in range(c)], 1)
    return images
