"""Gradient matching: training on the images should move a network as training on the real data does.

DC (arXiv:2006.05929, Eq. 9-10, Alg. 1) and, with siamese augmentation, DSA (arXiv:2102.08259, Eq. 3). Classes are
matched one at a time, so that memory is that of one class however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import siamese_pixels
from hf_condense.data.upload import to_device
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.image_model import ImageModel
from hf_condense.models.recalibration import recalibrate
from hf_condense.objectives.base import Objective, Term
from hf_condense.objectives.gradients import Distance, gradient_distance, parameter_gradients
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.sampler import Sampler, real_images

NORM_IMAGES = 16  # real images a class that batch norms are set from


@dataclass(frozen=True)
class Loops:
    """Settings of the two inner loops of gradient matching.

    Args:
        outer: image steps with each network (O).
        inner: epochs that the network is trained on the images between two of them (I).
        network_lr: rate of that training: plain SGD, without momentum or decay.
        train_batch: its batch size.
        real_batch: real images of a class whose gradient is matched.
        distance: see `gradient_distance`.
    """

    outer: int
    inner: int
    network_lr: float = 0.01
    train_batch: int = 256
    real_batch: int = 256
    distance: Distance = "rows"


class GradientMatching(Objective):
    """Loss = sum over classes of d(gradient of its images, gradient of a real batch of it), in new networks.

    Every `outer` steps there is a new untrained network; between the steps it is trained on the images. Where several
    processes share a step, each trains the same network with the same draws and matches classes of its own.

    Args:
        fresh: gives the networks. Batch norms are set from real images before each step and held fixed in it.
        views: real batches and shared augmentation; the network is trained under draws for each image.
        sampler: chooses the real batches; independent random ones where there is none.
    """

    without: tuple[int, ...] = ()  # numbers of dimensions of weights that are not matched

    def __init__(self, fresh: FreshNetworks, views: PairedViews, loops: Loops, sampler: Sampler | None = None) -> None:
        self.fresh, self.views, self.loops, self.sampler = fresh, views, loops, sampler
        self.dims = 2 if loops.distance == "rows" else 0  # weights with this many dimensions or more are matched
        self._network: ImageModel | None = None

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self._key = key
        rank, world = self.share
        mine = labels.unique().tolist()[rank::world]
        # rows of each class of this process
        self._rows = {c: to_device((labels == c).nonzero()[:, 0], images.device) for c in mine}

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for each class."""
        number, turn = divmod(step, self.loops.outer)
        if turn == 0:
            self._network = self._begun(number)
        else:
            self._train(images.detach(), labels, step, key / "train")
        self._fix_norms(key / "norms")
        if self.sampler is not None:
            self.sampler.begin(step, turn, self._network, list(self._rows))
        draw = self.views.draw(key / "siamese")
        for c, rows in self._rows.items():
            # the real gradient first: it needs no graph while that of the images exists
            target = self._gradients(
                *real_images(self.views, c, self.loops.real_batch, key / "real", self.sampler), c, draw
            )
            shown = self._shown(images[rows], key / "shown" / c)
            loss = gradient_distance(
                self._gradients(shown, None, c, draw, create_graph=True), target, self.loops.distance
            )
            yield Term(loss, "gradient", {"gradient": loss.detach()})

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights; plain SGD has no state. Empty if every step has a new network."""
        if self._network is None or self.loops.outer == 1:
            return {}
        found = {f"network.{name}": value.detach() for name, value in self._network.state_dict().items()}
        sampled = self.sampler.state_dict() if self.sampler is not None else {}
        return found | {f"sampler.{name}": value for name, value in sampled.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            self._network = self.fresh(self._key / "network" / 0)  # any network: its weights are restored
            if self.sampler is not None:
                frozen = self._network.eval().requires_grad_(False)
                self.sampler.load_state_dict(part_of(state, "sampler"), frozen, list(self._rows))
            self._network.load_state_dict(part_of(state, "network"))

    def _begun(self, number: int) -> ImageModel:
        """Network `number`, as it is in its first step."""
        return self.fresh(self._key / "network" / number)

    def _shown(self, images: Tensor, key: Key) -> Tensor:
        """The input of networks for a class's images."""
        return images

    def _gradients(
        self, images: Tensor, weights: Tensor | None, c: int, draw, create_graph: bool = False
    ) -> list[Tensor]:
        classes = torch.full((len(images),), c)
        seen = self.views.seen(images, draw, classes)
        target = torch.full((len(images),), c, device=seen.device)
        return parameter_gradients(self._network, seen, target, create_graph, self.dims, self.without, weights)

    def _train(self, images: Tensor, labels: Tensor, step: int, key: Key) -> None:
        """`inner` epochs of plain SGD on the images."""
        network, views = self._network.train().requires_grad_(True), self.views
        policy = replace(views.policy, family_per="call") if views.policy else None
        optimiser = torch.optim.SGD(network.parameters(), self.loops.network_lr)
        for epoch in range(self.loops.inner):
            order = to_device(torch.from_numpy((key / "order" / epoch).permutation(len(images))), images.device)
            for number, rows in enumerate(order.split(self.loops.train_batch)):
                batch = images[rows]
                if policy:
                    batch = siamese_pixels(batch, policy, key / epoch / number, views.space)
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(network(batch), labels[rows]).backward()
                optimiser.step()
        network.zero_grad(set_to_none=True)

    def _fix_norms(self, key: Key) -> None:
        """Freezes the network for a step; batch norms then use statistics of real images of all classes together."""
        network, source = self._network.requires_grad_(False), self.views.source
        recalibrate(network, source, None, key, self.views.device, NORM_IMAGES * source.num_classes)


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state whose names begin with `prefix` and a dot, without both."""
    return {n.removeprefix(f"{prefix}."): value for n, value in state.items() if n.startswith(f"{prefix}.")}
