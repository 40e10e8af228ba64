"""IDC's objective: gradients of decoded images match real ones, in networks that are trained on real data (arXiv:2205.14959)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_condense.data.formation import Formation, decode_as
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.gradient_matching import GradientMatching, Loops, part_of
from hf_condense.objectives.gradients import Distance
from hf_condense.objectives.real_training import RealTraining
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.sampler import Sampler

KERNEL_DIMS = 3  # kernels of convolutions have three dimensions or more, classifiers two, biases and norms one


class FormationMatching(GradientMatching):
    """Loss = sum over classes of d(gradient of its decoded images, gradient of real images of it) in convolution kernels.

    Args:
        steps: image steps with each network.
        training: between two steps the network is trained on real images.
        factor, kind: how images are decoded, see `data.formation`.
        most: decoded images of a class in a step; of more, random ones.
        distance: between gradients, summed over all entries.
        fc, bias: match the classifier's weights too; match biases and norms too.
    """

    def __init__(
        self,
        fresh: FreshNetworks,
        views: PairedViews,
        sampler: Sampler,
        training: RealTraining,
        *,
        steps: int,
        factor: int = 2,
        kind: Formation = "single",
        most: int = 128,
        distance: Distance = "mse",
        fc: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(fresh, views, Loops(outer=steps, inner=0, distance=distance), sampler)
        self.training, self.factor, self.kind, self.most = training, factor, kind, most
        self.dims = 1 if bias else 2 if fc else KERNEL_DIMS
        self.without = (2,) if bias and not fc else ()

    def _begun(self, number: int) -> ImageModel:
        network = super()._begun(number)
        self.training.begin(network, number)
        return network

    def _train(self, images: Tensor, labels: Tensor, step: int, key: Key) -> None:
        """Trains on real images, never on synthetic ones."""
        number = step // self.loops.outer
        self.training.go_on(step - number - 1)  # no training before the first step with a network

    def _shown(self, images: Tensor, key: Key) -> Tensor:
        decoded = decode_as(images, self.factor, self.kind, self.most)
        if len(decoded) <= self.most:
            return decoded
        drawn = torch.from_numpy(key.permutation(len(decoded))[: self.most])
        return decoded[to_device(drawn, decoded.device)]

    def state_dict(self) -> dict[str, Tensor]:
        found = super().state_dict()
        return found | {f"training.{name}": v for name, v in self.training.state_dict().items()} if found else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        if state:
            self.training.load_state_dict(part_of(state, "training"), self._network)
