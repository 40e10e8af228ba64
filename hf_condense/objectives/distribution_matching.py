"""Distribution matching: the mean feature of a class's images matches that of real ones in new untrained networks.

DM (arXiv:2110.04181, Eq. 6). No network is trained and nothing is differentiated twice; all classes go through a network
together, each under its own draw of augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hf_condense.config import check
from hf_condense.data.formation import decode
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiameseDraw
from hf_condense.data.upload import to_device
from hf_condense.models.convnet import fused
from hf_condense.models.embedding import embed
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.base import Objective, Term
from hf_condense.precision import autocast
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.sampler import Sampler, real_images

# real images in one forward pass: those of all classes at once take a CPU longer, 256 do not, 64 need least memory
# (benchmarks/matching_step.py)
CHUNK = {"cpu": 64}
LARGE_CHUNK = 512  # elsewhere
TERM = 32  # synthetic images in one term, as far as whole classes allow: their activations are most of a step's memory


class DistributionMatching(Objective):
    """Loss = sum over classes of ||mean feature of a real batch - mean feature of its images||².

    Every step has its own network, the same for all shards: a class's images depend on no other class.

    Args:
        fresh: gives the networks.
        views: real batches and shared augmentation.
        key: determines the networks and batches of a step, in all shards.
        real_batch: real images a class and step.
        precision: "bf16" computes features in bf16 where that is allowed; means are always taken in float32.
        sampler: chooses the real batches; independent random ones where there is none. Rows chosen in the network
            of one step may be reused in the next steps.
        factor: training images per side of a stored one (`data.formation`).
    """

    def __init__(
        self,
        fresh: FreshNetworks,
        views: PairedViews,
        key: Key,
        real_batch: int = 256,
        precision: str = "fp32",
        sampler: Sampler | None = None,
        factor: int = 1,
    ) -> None:
        self.fresh, self.views, self.key, self.real_batch, self.precision = fresh, views, key, real_batch, precision
        self.sampler, self.factor = sampler, factor

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self._labels = labels
        self._classes, self._place = self._labels.unique(return_inverse=True)

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """A term for every few classes of the shard; one for all of them where batch norms tie them together."""
        key = self.key / "step" / step  # not the shard's
        network = self._network(step)
        if self.sampler is not None:
            # batch norms are in eval mode: the selection must not depend on the composition of batches
            self.sampler.begin(step, step, network.eval(), self._classes.tolist())
            network.train()
        draw = self.views.draw(key / "siamese")
        together = tied(network)
        aims, groups = self._real_means(network, draw, key / "real", together), len(self._classes)
        for places in [range(groups)] if together else self._few():
            seen, place = self._seen(images, draw, places)
            mean = self._means(place, self.features(network, seen))
            loss = self._distance(aims[places[0] : places[-1] + 1], mean)
            # logs are averaged over terms, and are the mean over classes
            yield Term(loss, "distribution", {"distribution": loss.detach() / len(places)})

    def state_dict(self) -> dict[str, Tensor]:
        """The sampler's; networks and random batches follow from the step."""
        return self.sampler.state_dict() if self.sampler is not None else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.sampler is not None:
            self.sampler.load_state_dict(state, self._network(0).eval(), self._classes.tolist())

    def features(self, network: ImageModel, images: Tensor) -> Tensor:
        """float32 [n, d] (float64 for float64 images) of unit pixels [n, C, H, W]."""
        with fused(network), autocast(images.device, self.precision == "bf16"):
            found = embed(network, images)
        return found.to(images.dtype)

    def _seen(self, images: Tensor, draw: SiameseDraw | None, places: range) -> tuple[Tensor, Tensor]:
        """The training images of the classes at these places as networks see them, and the place of each among them."""
        chosen = (self._place >= places[0]) & (self._place <= places[-1])
        rows = chosen.nonzero()[:, 0]
        shown = images if len(rows) == len(images) else images.index_select(0, to_device(rows, images.device))
        labels, place = (of.repeat(self.factor**2) for of in (self._labels[rows], self._place[rows] - places[0]))
        return self.views.seen(decode(shown, self.factor), draw, labels), place

    def _means(self, place: Tensor, found: Tensor, weights: Sequence[Tensor | None] = ()) -> Tensor:
        """[groups, d] of features [n, d]; arguments as of `averaging`."""
        return averaging(place, found, weights) @ found

    def _distance(self, aims: Tensor, found: Tensor) -> Tensor:
        """Of the means [groups, d] of images from those of real ones, summed over groups."""
        return (aims - found).square().sum()

    def _network(self, step: int) -> ImageModel:
        return self.fresh(self.key / "network" / step).requires_grad_(False)

    def _few(self) -> list[range]:
        """The classes, by their places, as they share terms: alike many in each."""
        groups, images = len(self._classes), len(self._labels) * self.factor**2
        terms = min(groups, -(-images // TERM))
        while groups % terms:
            terms += 1
        size = groups // terms
        return [range(first, first + size) for first in range(0, groups, size)]

    @torch.no_grad()
    def _real_means(self, network: ImageModel, draw, key: Key, together: bool) -> Tensor:
        """Mean feature [classes, d] of a real batch of each class, all in one pass where they go `together`."""
        batches, weights = zip(
            *(real_images(self.views, c, self.real_batch, key, self.sampler) for c in self._classes.tolist())
        )
        place = torch.arange(len(batches)).repeat_interleave(torch.tensor([len(b) for b in batches]))
        images, classes = torch.cat(batches), self._classes[place]
        size = len(images)
        if together:  # statistics are those of all classes
            number = self.views.source.num_classes
            allowed = f"{number}, all classes, for a network with batch norms"
            whole, step = len(self._classes) == number, f"give --classes_per_shard {number}"
            check(whole, "classes_per_shard", len(self._classes), allowed, step)
        else:
            size = CHUNK.get(images.device.type, LARGE_CHUNK)
        # augmented as they pass: all at once they would take more memory than the network
        passes = zip(images.split(size), classes.split(size))
        found = torch.cat([self.features(network, self.views.seen(part, draw, own)) for part, own in passes])
        return self._means(place, found, weights)


def tied(network: ImageModel) -> bool:
    """Whether the features of an image depend on the other images of a pass (batch norms)."""
    return any(isinstance(m, _BatchNorm) for m in network.modules())


def averaging(place: Tensor, like: Tensor, weights: Sequence[Tensor | None] = ()) -> Tensor:
    """[groups, n], of which a row times features [n, d] is the mean of a group. A product, because it sums in one order.

    Args:
        place: int64 [n] group of each feature, on the CPU.
        like: of the device and kind of the features.
        weights: of the features of each group, in their order, where these differ; groups then lie one after another.
    """
    shares = to_device(F.one_hot(place).T.to(like.dtype), like.device)
    ends = place.bincount().cumsum(0).tolist()
    for row, mine in enumerate(weights):
        if mine is not None:
            shares[row, ends[row] - len(mine) : ends[row]] = mine.to(like)
    return shares / shares.sum(1, keepdim=True)
