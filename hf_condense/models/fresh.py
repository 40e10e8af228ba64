"""Untrained networks, one for each key, for methods that draw new ones repeatedly."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key, keyed
from hf_condense.files import fingerprint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_untrained

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening


class FreshNetworks:
    """Gives a network with new initial weights for each key: equal keys, equal weights.

    Building a network costs more than drawing its weights, so one network is reused and reinitialised if the result
    equals that of building it. The network returned before is then overwritten.

    Args:
        name: of the architecture, as for `load_untrained`, which is asked when the first network is.
        images: those of the dataset.
        whitening: of the dataset, where networks see whitened images.
    """

    untrained = True  # the chains that replace these networks in later PDD stages are trained

    def __init__(
        self,
        name: str,
        images: ImageSpec,
        *,
        device: torch.device,
        whitening: Whitening | None = None,
    ) -> None:
        self.name, self.device, self.whitening = name, device, whitening
        self.images = replace(images, class_names=None)  # heads of untrained networks are compared with nothing
        self._kept: ImageModel | None = None
        self._redraws: bool | None = None  # not known before the second network

    def __call__(self, key: Key) -> ImageModel:
        """The network of this key, in training mode, with weight gradients, on the device."""
        if self._kept is None or self._redraws is False:
            self._kept = self._build(key)
            return self._kept
        self._draw(key)
        if self._redraws is None:
            built = self._build(key)
            pairs = zip(self._kept.state_dict().values(), built.state_dict().values(), strict=True)
            self._redraws = all(torch.equal(a, b) for a, b in pairs)
            self._kept = built
        return self._kept.train().requires_grad_(True)

    def numbered(self, number: int, key: Key) -> ImageModel:
        """Network `number` of those that are named by `key`."""
        return self(key / number)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the images that weights depend on."""
        return {name: value for name, value in asdict(self.images).items() if name != "class_names"}

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the key that the initial weights depend on, and of the encoding of images."""
        return fingerprint([self.name, self.facts, self.whitening and self.whitening.facts])

    def _build(self, key: Key) -> ImageModel:
        model = load_untrained("base_model", self.name, self.images, key=key, whitening=self.whitening)
        return model.to(self.device).train().requires_grad_(True)

    def _draw(self, key: Key) -> None:
        with keyed(key), torch.no_grad():
            for module in self._kept.modules():
                if hasattr(module, "reset_parameters") and not isinstance(module, nn.ModuleList):
                    # drawn on the CPU, as when it was built: devices have other generators
                    place = next((p.device for p in module.parameters(recurse=False)), self.device)
                    module.cpu().reset_parameters()
                    module.to(place)
