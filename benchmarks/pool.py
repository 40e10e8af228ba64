"""The pool and the images that statistic benchmarks run on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model

POOL = ("convnet_d1", "convnet_w32", "cifar_wrn16_2")
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def small_pool(device: torch.device) -> list[ImageModel]:
    """ConvNet-D1, ConvNet-W32 and WRN-16-2 at 32 px with keyed weights; the same in every call."""
    return [
        load_model(name, ImageSpec(num_classes=10, image_size=32, mean=CIFAR_MEAN, std=CIFAR_STD), key=Key(0, "pool", name)).freeze().to(device)
        for name in POOL
    ]  # fmt: skip


class GeneratedSource:
    """Smooth random colour images of classes that differ in tint."""

    def __init__(self, n: int, num_classes: int = 10, image_size: int = 32) -> None:
        self.image_size, self.num_classes = image_size, num_classes
        generator = torch.Generator().manual_seed(0)
        self.labels = np.arange(n) % num_classes
        coarse = F.interpolate(torch.rand(n, 3, 8, 8, generator=generator), image_size, mode="bicubic")
        tint = torch.rand(num_classes, 3, 1, 1, generator=generator)[torch.from_numpy(self.labels)]
        self.pixels = ((0.7 * coarse + 0.3 * tint).clamp(0, 1) * 255).to(torch.uint8)

    def images(self, rows: np.ndarray) -> Tensor:
        return self.pixels[torch.as_tensor(rows)]
