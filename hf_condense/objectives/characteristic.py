"""Distribution matching by characteristic functions of normalised features (NCFM, arXiv:2502.20653).

Frequencies are drawn, not learned: all settings that the authors have published do without their sampling network. With
equal weights of amplitude and phase this is a random-feature form of the distance with a Gaussian kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.image_model import ImageModel
from hf_condense.models.interpolated import InterpolatedNetworks
from hf_condense.objectives.base import Term
from hf_condense.objectives.distribution_matching import DistributionMatching, averaging, tied
from hf_condense.objectives.matching import root
from hf_condense.precision import autocast
from hf_condense.selection.paired import PairedViews

ROWS = 1024  # features whose sines and cosines are held at a time


@dataclass(frozen=True)
class Characteristic:
    """Settings of the loss.

    Args:
        frequencies: at which characteristic functions are compared; new ones each step, the same for all classes.
        amplitude, phase: weights of the difference in amplitude and in phase.
        weight: of the whole.
        calibration: weight of cross-entropy under a trained network.
    """

    frequencies: int = 4096
    amplitude: float = 0.5
    phase: float = 0.5
    weight: float = 300.0
    calibration: float = 1.0


class CharacteristicMatching(DistributionMatching):
    """Loss = sum over classes of the distance of characteristic functions, and of the cross-entropy of trained networks.

    Args:
        networks: give the network of each step, and the trained one that goes with it.
        factor: training images per side of a stored one.
        others: as of `DistributionMatching`.
    """

    fresh: InterpolatedNetworks

    def __init__(
        self,
        networks: InterpolatedNetworks,
        views: PairedViews,
        key: Key,
        real_batch: int,
        precision: str,
        settings: Characteristic,
        factor: int,
    ) -> None:
        super().__init__(networks, views, key, real_batch, precision, factor=factor)
        self.settings = settings

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """The matching terms, and after them those of the trained network on the same views."""
        self._name: Key = self.key / "step" / step / "frequencies"
        self._frequencies: Tensor | None = None
        yield from super().terms(images, labels, step, key)
        if self.settings.calibration:
            yield from self._calibration(images, step)

    def features(self, network: ImageModel, images: Tensor) -> Tensor:
        """Of length 1."""
        return F.normalize(super().features(network, images), dim=1)

    def _means(self, place: Tensor, found: Tensor, weights: Sequence[Tensor | None] = ()) -> Tensor:
        """Characteristic functions [groups, 2 * frequencies]: real parts, and after them imaginary ones."""
        if self._frequencies is None:
            shape = self.settings.frequencies, found.shape[1]
            drawn = torch.from_numpy(self._name.numpy().standard_normal(shape, dtype="float32"))
            self._frequencies = to_device(drawn, found.device).to(found.dtype)
        parts = zip(averaging(place, found, weights).split(ROWS, 1), found.split(ROWS))
        return sum(characteristic(part, self._frequencies, share) for share, part in parts)

    def _distance(self, aims: Tensor, found: Tensor) -> Tensor:
        s = self.settings
        return s.weight * characteristic_distance(aims, found, s.amplitude, s.phase).sum()

    def _calibration(self, images: Tensor, step: int) -> Iterator[Term]:
        """Mean cross-entropy of each class, summed over classes."""
        network = self.fresh.trained(self.key / "network" / step).requires_grad_(False)
        draw = self.views.draw(self.key / "step" / step / "siamese")
        for places in [range(len(self._classes))] if tied(network) else self._few():
            seen, place = self._seen(images, draw, places)
            with autocast(images.device, self.precision == "bf16"):
                logits = network(seen)
            classes = to_device(self._classes[place + places[0]], images.device)
            each = F.cross_entropy(logits.to(images.dtype), classes, reduction="none")
            loss = (averaging(place, each) @ each).sum()
            yield Term(self.settings.calibration * loss, "calibration", {"calibration": loss.detach() / len(places)})


def characteristic(features: Tensor, frequencies: Tensor, shares: Tensor) -> Tensor:
    """Sums over features x [n, d] of share * exp(i t x), at frequencies t [m, d]: [groups, 2 m], real and imaginary parts.

    Args:
        shares: [groups, n] of each feature in each group.
    """
    angles = features @ frequencies.T
    return torch.cat((shares @ angles.cos(), shares @ angles.sin()), 1)


def characteristic_distance(one: Tensor, other: Tensor, amplitude: float, phase: float) -> Tensor:
    """[groups]: mean over frequencies of sqrt(amplitude (|a| - |b|)^2 + phase 2 (|a| |b| - Re a conj b)).

    Since |a - b|^2 is the sum of the two brackets, it is computed from |a - b|, which is exactly 0 where a is b, with a
    gradient of 0.

    Args:
        one, other: characteristic functions as of `characteristic`.
    """
    apart = phase * _squares(one - other)
    if amplitude != phase:
        lengths = root(_squares(one)) - root(_squares(other))
        apart = (apart + (amplitude - phase) * lengths.square()).clamp(min=0)
    return root(apart).mean(1)


def _squares(values: Tensor) -> Tensor:
    """|z|^2 [groups, m] of complex numbers."""
    real, imaginary = values.chunk(2, 1)
    return real.square() + imaginary.square()
