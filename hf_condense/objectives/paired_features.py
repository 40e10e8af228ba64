"""Each tile of an image, enlarged, has the features of the real image that it was made of (CIM, arXiv:2607.00916).

No statistics and no classes: what scaling down lost is put back. Tiles are independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from hf_condense.data.formation import enlarged
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.data.spaces import PixelSpace
from hf_condense.errors import ModelError
from hf_condense.models.frozen import forward, freeze
from hf_condense.models.heads import find
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.base import Objective, Term

CHUNK = 64  # tiles in one forward and backward pass


class PairedFeatures(Objective):
    """Loss = sum over tiles of d(features of the real image, features of the tile), both under one draw of augmentation.

    Args:
        observer: frozen here.
        space: in which images are augmented; what is filled in is its zero, the mean of the dataset.
        policy: siamese augmentation, one draw a step for all images; None for none.
        factor: tiles per side of an image.
        layer: path of the module whose input are the features; None: the head's.
        distance: "l2" is the squared length of the difference (Eq. 7), "l1" the mean absolute difference (its code).
    """

    needs_sources = True

    def __init__(
        self,
        observer: ImageModel,
        space: PixelSpace,
        policy: SiamesePolicy | None,
        *,
        factor: int = 2,
        layer: str | None = None,
        distance: Literal["l1", "l2"] = "l2",
        precision: str = "fp32",
    ) -> None:
        self.observer, self.precision = freeze(observer, precision), precision
        self.space, self.policy, self.factor, self.distance = space, policy, factor, distance
        self.module = feature_layer(self.observer, layer)

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self._real = self.sources.to(images) / 255

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for some images at a time; those of earlier stages, which come first, have none."""
        draw = None
        if self.policy is not None:
            draw = draw_siamese(self.policy, key / "siamese", 1, *images.shape[-2:])
        some = max(1, CHUNK // self.factor**2)
        for mine, real in zip(images[-len(self._real) :].split(some), self._real.split(some)):
            with torch.no_grad():
                wanted = self.features(self._seen(real.transpose(0, 1).flatten(0, 1), draw))  # as tiles are ordered
            apart = self.features(self._seen(enlarged(mine, self.factor), draw)) - wanted
            loss = apart.abs().mean(1).sum() if self.distance == "l1" else apart.square().sum()
            yield Term(loss, "paired_features", {"distance": loss.detach() / len(wanted)})

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d], float32 (float64 for float64 images), of unit pixels [n, C, H, W]."""
        entered: list[Tensor] = []
        handle = self.module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            forward(self.observer, images, self.precision)
        finally:
            handle.remove()
        return entered[0].flatten(1).to(images.dtype)

    def _seen(self, images: Tensor, draw) -> Tensor:
        if draw is None:
            return images
        return self.space.decode(apply_siamese(self.space.encode(images), draw, self.policy))


def feature_layer(model: ImageModel, layer: str | None) -> nn.Module:
    """The module of a network whose input are the features: its head, or the one at a path such as `layer3`.

    Raises:
        ModelError: the network has no such module; some that it has are named.
    """
    if layer is None:
        return find(model.backbone, model.num_classes, model.name)[0]
    modules = dict(model.backbone.named_modules())
    if not layer or layer not in modules:
        offered = ", ".join(name for name in modules if name and name.count(".") <= 1)
        raise ModelError(
            "layer", layer, f"a module of {model.name}: {offered}", "choose one of these, or none for its head"
        )
    return modules[layer]
