"""Real images of a class beside its synthetic ones, under one draw of siamese augmentation that both share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiameseDraw, SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.data.source import ImageSource
from hf_condense.data.spaces import NormalisedPixels
from hf_condense.data.upload import to_device

DEVICE_BYTES = 4 << 30  # real images up to this size are kept on the device; of more, batches are fetched


class PairedViews:
    """Gives real batches by class, and augments them and the synthetic images.

    Draws are numbered by class, so that the draws of a class do not depend on the other classes of a step.

    Args:
        source: the real images.
        policy: siamese augmentation (arXiv:2102.08259), or None for no augmentation.
    """

    def __init__(self, source: ImageSource, policy: SiamesePolicy | None, device: torch.device) -> None:
        self.source, self.policy, self.device = source, policy, device
        here = source.fits_in_memory and math.prod(source.shape) <= DEVICE_BYTES
        self.pixels = source.decoded().to(device) if here else None
        self.space = NormalisedPixels(source.mean, source.std, device)

    def real(self, c: int, count: int, key: Key) -> Tensor:
        """`count` real images of class `c`, or all where it has fewer, no image twice: float unit pixels [n, C, S, S]."""
        rows = self.source.rows_of(c)
        return self.at(rows[(key / c).permutation(len(rows))[:count]])

    def at(self, rows: np.ndarray | Tensor) -> Tensor:
        """Real images of these rows of the source, which lie on the device where the images do: float unit pixels
        [n, C, S, S]."""
        if self.pixels is None:
            pixels = self.source.images(rows)
        else:
            pixels = self.pixels.index_select(0, to_device(torch.as_tensor(rows), self.device))
        return unit_pixels(pixels, self.device, self.source.image_size)

    def draw(self, key: Key) -> SiameseDraw | None:
        """The drawn augmentation of each class of a step."""
        size = self.source.image_size
        return draw_siamese(self.policy, key, self.source.num_classes, size, size) if self.policy else None

    def seen(self, images: Tensor, draw: SiameseDraw | None, classes: Tensor | None = None) -> Tensor:
        """Augments unit pixels [n, C, S, S] for networks, differentiably. Empty areas are filled with the mean.

        Args:
            draw: from `draw`, or one with one row per image.
            classes: int64 [n] class of each image, on the CPU.
        """
        if draw is None:
            return images
        return self.space.decode(apply_siamese(self.space.encode(images), draw, self.policy, classes))
