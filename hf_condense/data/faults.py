"""Finds faults of a set of images that can still be written: saturated, of one colour, copies of each other."""

from __future__ import annotations

import hashlib

from torch import Tensor

SATURATED = 0.99  # share of values that are 0 or 255 in images that have left the range of pixels


def image_faults(images: Tensor) -> list[str]:
    """Describes the faults of uint8 images [N, C, H, W], one sentence each; empty if there are none."""
    count, flat = len(images), images.flatten(1)
    found = []
    extreme = sum(int(((part == 0) | (part == 255)).sum()) for part in flat.split(1024)) / max(flat.numel(), 1)
    plain = int((images.flatten(2).amax(-1) == images.flatten(2).amin(-1)).all(1).sum())
    distinct = len({hashlib.sha256(image.numpy()).digest() for image in flat.cpu()})
    if plain:
        found.append(f"{plain} of {count} images are of one colour")
    if extreme >= SATURATED:
        found.append(f"{extreme:.1%} of all values are 0 or 255: the images are saturated")
    if distinct < count:
        found.append(f"{count - distinct} of {count} images are copies of others")
    return found
