"""Training of networks on real images between the matching steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, draw_views, mix_images, mixed_targets
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import siamese_pixels
from hf_condense.data.upload import to_device
from hf_condense.models.image_model import ImageModel
from hf_condense.selection.paired import PairedViews


@dataclass(frozen=True)
class RealLoop:
    """How a network is trained on real images.

    Args:
        images: smallest number of images between two steps; whole batches are used.
        batch: batch size; all images where there are fewer.
        lr, momentum, weight_decay: of SGD, on all parameters.
        cutmix: share of batches that are mixed.
        pretrain_epochs: passes over all real images before a network's first step.
    """

    images: int
    batch: int
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    cutmix: float = 0.5
    pretrain_epochs: int = 0


class RealTraining:
    """Trains one network after another, each with an optimiser of its own, in passes over the real images.

    The passes go on from call to call and from network to network, so that all images have their turn. The position
    of a call follows from its number, so the optimiser's momentum is the only state.

    Args:
        views: real images, and their augmentation: families are drawn for a batch, numbers for an image. Cutout is left
            out where batches are mixed.
        key: determines order and augmentation.
    """

    def __init__(self, views: PairedViews, loop: RealLoop, key: Key) -> None:
        self.views, self.loop, self.key = views, loop, key
        source, policy = views.source, views.policy
        families = tuple(f for f in policy.families if f != "cutout" or not loop.cutmix) if policy else ()
        self.policy = replace(policy, families=families, family_per="call") if families else None
        size = source.image_size
        self._mix = ViewPolicy(size, flip=0.0, mix="cutmix", mix_probability=loop.cutmix) if loop.cutmix else None
        self._labels = torch.from_numpy(source.labels).to(views.device)
        self._batch = min(loop.batch, len(source))
        self._order: tuple[int, np.ndarray] | None = None
        self._network: ImageModel | None = None

    def begin(self, network: ImageModel, number: int) -> None:
        """Starts with a new network, the `number`-th, and trains it for the epochs before its first step."""
        self._take(network)
        for epoch in range(self.loop.pretrain_epochs):
            key = self.key / "before" / number / epoch
            order = (key / "order").permutation(len(self.views.source))
            for place in range(len(order) // self._batch):
                self._step(key / place, order[place * self._batch : (place + 1) * self._batch])

    def go_on(self, call: int) -> None:
        """Trains the network on the images of this call, the first of which is number 0."""
        for number, rows in self.batches(call):
            self._step(self.key / "batch" / number, rows)

    def batches(self, call: int) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the batch in all calls, its rows) of one call. A rest too small for a batch is left out."""
        each, total = self._batch, len(self.views.source)
        needed, whole = -(-self.loop.images // each), total // each
        for number in range(call * needed, (call + 1) * needed):
            epoch, place = divmod(number, whole)
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, (self.key / "order" / epoch).permutation(total)
            yield number, self._order[1][place * each : (place + 1) * each]

    def _step(self, key: Key, rows: np.ndarray) -> None:
        images, labels = self.views.at(rows), self._labels[to_device(torch.from_numpy(rows), self._labels.device)]
        if self.policy is not None:
            images = siamese_pixels(images, self.policy, key, self.views.space)
        partner, own = None, 1.0
        if self._mix is not None:
            drawn = draw_views(self._mix, key, len(rows), *images.shape[-2:])
            images, (partner, own) = mix_images(images, drawn), mixed_targets(drawn)
        network = self._network.train().requires_grad_(True)
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        if own < 1:
            loss = own * loss + (1 - own) * F.cross_entropy(logits, labels[to_device(partner, labels.device)])
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        network.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The optimiser's momentum."""
        state = self._optimiser.state_dict()["state"]
        return {str(i): value["momentum_buffer"] for i, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor], network: ImageModel) -> None:
        """Resumes with `network`, whose weights are restored."""
        self._take(network)
        groups = self._optimiser.state_dict()["param_groups"]
        buffers = {int(i): {"momentum_buffer": value} for i, value in state.items()}
        self._optimiser.load_state_dict({"state": buffers, "param_groups": groups})

    def _take(self, network: ImageModel) -> None:
        loop, self._network = self.loop, network
        self._optimiser = torch.optim.SGD(
            network.parameters(), loop.lr, momentum=loop.momentum, weight_decay=loop.weight_decay
        )
