"""Untrained networks, one for each key, for methods that draw new ones repeatedly."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key, keyed
from hf_condense.data.upload import together
from hf_condense.files import fingerprint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_untrained

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening


class FreshNetworks:
    """Gives a network with new initial weights for each key: equal keys, equal weights.

    Building a network costs more than drawing its weights, so one network is reused and reinitialised if the result
    equals that of building it. Weights are drawn on the CPU, because devices have other generators, and go to the device
    in one copy. The network returned before is overwritten.

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
        self._drawn: ImageModel | None = None  # on the CPU; untouched by whoever trains the network
        self._kept: ImageModel | None = None  # on the device
        self._redraws: bool | None = None  # not known before the second network

    def __call__(self, key: Key) -> ImageModel:
        """The network of this key, in training mode, with weight gradients, on the device."""
        if self._drawn is None or self._redraws is False:
            self._drawn = self._build(key)
        else:
            self._draw(key)
            if self._redraws is None:
                built = self._build(key)
                pairs = zip(self._drawn.state_dict().values(), built.state_dict().values(), strict=True)
                self._redraws = all(torch.equal(a, b) for a, b in pairs)
                self._drawn = built
        return self._on_device().train().requires_grad_(True)

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
        return load_untrained("base_model", self.name, self.images, key=key, whitening=self.whitening)

    def _draw(self, key: Key) -> None:
        with keyed(key), torch.no_grad():
            for module in self._drawn.modules():
                if hasattr(module, "reset_parameters") and not isinstance(module, nn.ModuleList):
                    module.reset_parameters()

    @torch.no_grad()
    def _on_device(self) -> ImageModel:
        """The network on the device with the drawn weights."""
        if self.device.type == "cpu":
            return self._drawn
        if self._kept is None:
            self._kept = copy.deepcopy(self._drawn).to(self.device)
        else:
            put_weights(self._drawn.state_dict(), self._kept)
        return self._kept


@torch.no_grad()
def put_weights(state: Mapping[str, Tensor], network: nn.Module) -> None:
    """`network.load_state_dict(state)`, with one copy to the network's device for all of the weights."""
    own = network.state_dict()
    device = next(iter(own.values())).device
    if device.type == "cpu" or own.keys() != state.keys():  # torch names the keys that differ
        network.load_state_dict(state)
    else:
        torch._foreach_copy_(list(own.values()), together([state[name] for name in own], device))
