"""A network as a function of one weight vector, for expert trajectories and their differentiation."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from hf_condense.errors import ConfigError
from hf_condense.models.image_model import ImageModel


class Encoded(nn.Module):
    """A network that takes images already normalised by its `normalise`, so that they are normalised only once."""

    def __init__(self, network: ImageModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.classify(images)


class FlatNetwork:
    """All weights of a network in one vector [P], in the order of its `parameters()`.

    Args:
        network: runs on the weights it is called with; its stored ones are read by `flatten` and
            written by `load_`. Its mode is not changed.

    Attributes:
        table: (name, shape) of each parameter.
        size: P.

    Raises:
        ConfigError: training changes more than its weights (batch norms have running statistics).
    """

    def __init__(self, network: ImageModel) -> None:
        for name, module in network.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                raise ConfigError(
                    "base_model",
                    f"{network.name} with {type(module).__name__} ({name})",
                    "a network that training changes in its weights only: batch norms remember statistics as well",
                    "choose a ConvNet with instance norms: convnet_d1 to convnet_d4, convnet_w32, convnet_w128",
                )
        self.network, self._encoded = network, Encoded(network)
        self.table = [(name, tuple(p.shape)) for name, p in network.named_parameters()]
        self._sizes = [prod(shape) for _, shape in self.table]
        self.size = sum(self._sizes)

    def flatten(self) -> Tensor:
        """A copy [P] of the network's present weights."""
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])

    @torch.no_grad()
    def load_(self, flat: Tensor) -> None:
        """Writes weights [P] into the network."""
        for p, part in zip(self.network.parameters(), flat.split(self._sizes), strict=True):
            p.copy_(part.view_as(p))

    def __call__(self, flat: Tensor, images: Tensor) -> Tensor:
        """Logits [n, K] of images [n, C, H, W] as the network's `normalise` gives them, under weights `flat` [P].

        Differentiable in both, more than once.
        """
        parts = zip(self.table, flat.split(self._sizes), strict=True)
        weights = {f"network.{name}": part.view(shape) for (name, shape), part in parts}
        return functional_call(self._encoded, weights, (images,))
