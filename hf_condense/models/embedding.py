"""The features of an image before a network's last layer, in which selections measure distances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hf_condense.models.heads import find
from hf_condense.models.image_model import ImageModel


def embed(model: ImageModel, images: Tensor) -> Tensor:
    """Features [n, d] of float unit pixels [n, channels, H, W]; gradients flow through them.

    They are the input of the layer that computes the logits, for networks of every library: the
    flattened last pooling of a ConvNet, the pooled map or token of timm's networks. For a head that is a convolution,
    its input map is averaged over pixels.

    Raises:
        ModelError: no layer of the network computes its logits.
    """
    with entering(model) as seen:
        model(images)
    return seen.features()


@torch.no_grad()
def feature_count(model: ImageModel, size: int) -> int:
    """d of `embed`, for images of `size` pixels."""
    return embed(model, torch.zeros(1, model.channels, size, size, device=model.mean.device)).shape[1]


class Entered:
    """The inputs of a network's last layer, while `entering`."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def features(self) -> Tensor:
        """[n, d] of the first forward pass."""
        features = self.inputs[0]
        return features.mean((2, 3)) if features.ndim == 4 and features.shape[-1] > 1 else features.flatten(1)


@contextmanager
def entering(model: ImageModel) -> Iterator[Entered]:
    """Notes what enters the last layer, for those who need logits and features of one forward pass. Raises as `embed`."""
    seen, head = Entered(), find(model.backbone, model.num_classes, model.name)[0]
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.inputs.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
