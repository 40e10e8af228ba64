"""A network as a function of one weight vector, for expert trajectories and their differentiation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

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

    Batch norms use the statistics of the images at hand, as in training, and do not update their running ones: what the
    network computes then depends on its weights alone, and so does the path that training takes.

    Args:
        network: runs on the weights it is called with; its stored ones are read by `flatten` and
            written by `load_`. Its mode is not changed.

    Attributes:
        table: (name, shape) of each parameter.
        size: P.
    """

    def __init__(self, network: ImageModel) -> None:
        self._norms = [m for m in network.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
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
        with self._batch_statistics():
            return functional_call(self._encoded, weights, (images,))

    @torch.no_grad()
    def logits(self, flat: Tensor, images: Tensor) -> Tensor:
        """As a call of the network, in parts and without a graph."""
        return torch.cat([self(flat, part) for part in images.split(256)])

    @contextmanager
    def _batch_statistics(self) -> Iterator[None]:
        before = [(norm.training, norm.momentum) for norm in self._norms]
        for norm in self._norms:
            norm.training, norm.momentum = True, 0.0  # a step of 0 towards the new statistics
        try:
            yield
        finally:
            for norm, (mode, momentum) in zip(self._norms, before):
                norm.training, norm.momentum = mode, momentum
