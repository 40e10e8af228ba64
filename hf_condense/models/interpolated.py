"""Networks between the untrained and the trained end of stored trainings (NCFM, arXiv:2502.20653)."""

from __future__ import annotations

import copy

from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.image_model import ImageModel


class InterpolatedNetworks:
    """Gives a network for each key: one of the trainings, and a share of its first weights, are drawn by it.

    Stands in for `FreshNetworks`. The network that was returned before is overwritten. Buffers are those of `network`.

    Args:
        network: architecture of the trainings, on the device.
        trainings: of which the first and the last snapshot are read.
    """

    def __init__(self, network: ImageModel, trainings: ExpertBuffer) -> None:
        self.trainings = trainings
        self._between, self._trained = FlatNetwork(network), FlatNetwork(copy.deepcopy(network))

    def __call__(self, key: Key) -> ImageModel:
        """In training mode, with weights l * first + (1 - l) * last, l uniform in [0, 1)."""
        return self.at(self._number(key), float((key / "share").uniform(1)[0]))

    def at(self, number: int, share: float) -> ImageModel:
        """The network with this share of the first weights of a training."""
        return _with(
            self._between, share * self._end(number, 0) + (1 - share) * self._end(number, self.trainings.epochs)
        )

    def trained(self, key: Key) -> ImageModel:
        """The trained end of the training of a key; a network of its own."""
        return _with(self._trained, self._end(self._number(key), self.trainings.epochs))

    def _number(self, key: Key) -> int:
        return int((key / "training").numpy().integers(self.trainings.experts))

    def _end(self, number: int, epoch: int) -> Tensor:
        return self.trainings.placed(number, epoch, self._between.network.mean.device)


def _with(flat: FlatNetwork, weights: Tensor) -> ImageModel:
    flat.load_(weights)
    return flat.network.train().requires_grad_(True)
