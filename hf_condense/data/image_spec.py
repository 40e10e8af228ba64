"""The input specification of networks: size, channels, classes, mean and standard deviation of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ImageSpec:
    """The images of a dataset as input of a network.

    Args:
        image_size: side in pixels.
        mean, std: of unit pixels, one value a channel or one for all.
        channels: 1 or 3.
        class_names: in label order; None where they are not known, or not to be compared with those of weights.
    """

    num_classes: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    channels: int = 3
    class_names: Sequence[str] | None = None

    def with_channels(self, channels: int) -> ImageSpec:
        """The same for images of this many channels, each with a mean and a standard deviation."""
        mean, std = ([*v] * channels if len(v) == 1 else v for v in (self.mean, self.std))
        return replace(self, channels=channels, mean=mean, std=std)
