"""RandAugment (Cubuk et al. 2020) with given operations: those of torchvision, batched over the images that share one.

torchvision and kornia draw from global state, and theirs treat a batch alike (torchvision) or loop over it and read
values back from the device (kornia's posterize, solarize, sharpness, equalize); so they are implemented here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device

MAX_MAGNITUDE = 30
LUMA = (0.2989, 0.587, 0.114)


def draw_ops(key: Key, n: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws `slots` operations an image, with replacement: numbers in OPS and directions (+1, -1), int32 [n, slots] each."""
    stream = key.numpy()
    ops = stream.integers(0, len(OPS), (n, slots), dtype=np.int32)
    return ops, 2 * stream.integers(0, 2, (n, slots), dtype=np.int32) - 1


def apply_rand_augment(images: Tensor, ops: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """Applies the operations of every image in turn. Pixels from outside the image are black.

    Differentiable in the images, except that posterize and equalize pass no gradient.

    Args:
        images: float [n, C, H, W] in unit pixels; colour is left alone unless C is 3.
        ops: integer [n, slots] on the CPU, numbers in OPS.
        signs: integer [n, slots] on the CPU, +1 or -1 for operations that have a direction.
        magnitude: 0 (weakest) to 30.

    Raises:
        ValueError: the operations are not those of this many images.
    """
    n = len(images)
    if len(ops) != n:  # one draw for a whole batch fits a batch of any size
        if not bool((ops == ops[:1]).all() and (signs == signs[:1]).all()):
            raise ValueError(f"{n} images do not fit the operations of {len(ops)}")
        ops, signs = ops[:1].expand(n, -1), signs[:1].expand(n, -1)
    level, device = magnitude / MAX_MAGNITUDE, images.device
    held = torch.arange(n)  # image at each place: images with the same operation are made contiguous
    for slot in range(ops.shape[1]):
        order = ops[held, slot].argsort(stable=True)
        images, held = images.index_select(0, to_device(order, device)), held[order]
        counts = torch.bincount(ops[:, slot], minlength=len(OPS)).tolist()
        directions = to_device(signs[held, slot].to(images.dtype), device)
        parts = zip(OPS.values(), images.split(counts), directions.split(counts))
        images = torch.cat([apply(group, level, sign) for apply, group, sign in parts if len(group)])
    return images.index_select(0, to_device(held.argsort(), device))


# Operations: images [k, C, H, W], level in [0, 1], sign [k] on the device of the images


def identity(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return images


def warp(images: Tensor, entries: dict[tuple[int, int], Tensor | float]) -> Tensor:
    """The nearest pixel under an affine map, from output to input pixels about the image centre: identity plus `entries`.

    Args:
        images: [k, C, H, W].
        entries: (row, column) of the 2 x 3 matrix, x before y -> value added there: a number, or one per image [k].
    """
    k, _, h, w = images.shape
    to = {"dtype": images.dtype, "device": images.device}
    x = (torch.arange(w, **to) - (w - 1) / 2).expand(1, h, w)
    y = (torch.arange(h, **to) - (h - 1) / 2).view(1, h, 1).expand(1, h, w)
    grid = torch.empty(
        k, h, w, 2, **to
    )  # not affine_grid, whose products of 3 x 2 matrices cost more than the sampling
    for row, (seen, side) in enumerate(((x, w), (y, h))):
        for column, across in enumerate((x, y, 1.0)):
            value = entries.get((row, column))
            if value is not None:
                seen = seen + (value.view(-1, 1, 1) if isinstance(value, Tensor) else value) * across
        grid[..., row] = seen * (2 / side)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def shear_x(images: Tensor, level: float, sign: Tensor) -> Tensor:
    slope = 0.3 * level * sign
    return warp(images, {(0, 1): slope, (0, 2): slope * (images.shape[-2] / 2)})  # the top edge stays


def shear_y(images: Tensor, level: float, sign: Tensor) -> Tensor:
    slope = 0.3 * level * sign
    return warp(images, {(1, 0): slope, (1, 2): slope * (images.shape[-1] / 2)})  # the left edge stays


def translate_x(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return warp(images, {(0, 2): -sign * int(150 / 331 * images.shape[-1] * level)})


def translate_y(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return warp(images, {(1, 2): -sign * int(150 / 331 * images.shape[-2] * level)})


def rotate(images: Tensor, level: float, sign: Tensor) -> Tensor:
    angle = math.radians(30 * level)
    cos, sin = math.cos(angle) - 1, math.sin(angle) * sign
    return warp(images, {(0, 0): cos, (0, 1): -sin, (1, 0): sin, (1, 1): cos})


def blend(images: Tensor, other: Tensor | float, level: float, sign: Tensor) -> Tensor:
    """`other` at factor 0, the images at 1, further away from `other` above 1."""
    factor = (1 + 0.9 * level * sign).view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma [k, 1, H, W]; images that are not RGB are averaged over their channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return sum(weight * images[:, i : i + 1] for i, weight in enumerate(LUMA))


def brightness(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return blend(images, 0.0, level, sign)


def color(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return blend(images, grey(images), level, sign) if images.shape[1] == 3 else images


def contrast(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return blend(images, grey(images).mean((1, 2, 3), keepdim=True), level, sign)


def sharpness(images: Tensor, level: float, sign: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    inner = images[..., 1:-1, 1:-1]
    three = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    inner = blend(inner, (nine + 4 * inner) / 13, level, sign)  # each pixel weighs 5, its neighbours 1
    images = images.clone()
    images[..., 1:-1, 1:-1] = inner  # border pixels have no full neighbourhood and stay as they are
    return images


def posterize(images: Tensor, level: float, sign: Tensor) -> Tensor:
    step = 2 ** round(4 * level)  # 8 bits down to 4
    return (images * 255).round().div(step, rounding_mode="floor") * (step / 255)


def solarize(images: Tensor, level: float, sign: Tensor) -> Tensor:
    return torch.where(images >= 1 - level, 1 - images, images)


def autocontrast(images: Tensor, level: float, sign: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, 1.0, high - low))


@torch.no_grad()
def equalize(images: Tensor, level: float, sign: Tensor) -> Tensor:
    k, c, h, w = images.shape
    pixels = (images * 255).round().clamp(0, 255).long().view(k * c, h * w)
    counts = torch.zeros(k * c, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, pixels, torch.ones_like(pixels))
    brightest = counts.gather(1, pixels.amax(1, keepdim=True))
    step = (h * w - brightest) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step == 0, pixels, table.gather(1, pixels)).view(k, c, h, w).to(images.dtype) / 255


OPS: dict[str, Callable[[Tensor, float, Tensor], Tensor]] = {
    f.__name__: f
    for f in (
        identity,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        rotate,
        brightness,
        color,
        contrast,
        sharpness,
        posterize,
        solarize,
        autocontrast,
        equalize,
    )
}
"""Name -> operation. The order numbers them in stored views: append, never reorder."""
