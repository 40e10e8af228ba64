"""Data densification: images of a class are kept apart by the spectrum of their Gram matrix (G-VBSM, arXiv:2311.17950)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.objectives.base import Term
from hf_condense.objectives.diversity import class_groups
from hf_condense.objectives.feature_statistics import FeatureStatistics

log = logging.getLogger(__name__)
SIDE = 32  # images are compared at this side in pixels
INACTIVE = 1e-6  # nats; a smaller term is negligible beside other parts of the loss


def densification(images: Tensor, groups: Sequence[Tensor], temperature: float, normalised: bool = False) -> Tensor:
    """Sum over classes of KL(softmax(s / temperature), held fixed, || softmax(s)), s the eigenvalues of the Gram matrix.

    The spectrum is pulled towards a flatter one of itself, so images of a class become less alike. The eigenvalues of
    32 x 32 pixels are mostly so large that both sides put everything on the first one, and then the term is zero.

    Args:
        images: [n, C, H, W], normalised as networks see them; they are pooled to 32 x 32 pixels first.
        groups: rows of each class, from `class_groups`.
        temperature: of the flatter spectrum.
        normalised: divides the eigenvalues of a class by their mean, which keeps the term at work (not in the paper).

    Returns:
        A scalar in nats, 0 where no class has two images.
    """
    rows = F.adaptive_avg_pool2d(images, SIDE).flatten(1)
    total = rows.new_zeros(())
    for group in groups:
        members = rows[group]  # [classes, images of one, C * 32 * 32]
        spectrum = torch.linalg.eigvalsh(members @ members.mT)
        if normalised:
            spectrum = spectrum / spectrum.mean(-1, keepdim=True).clamp_min(torch.finfo(spectrum.dtype).tiny)
        own, flatter = F.log_softmax(spectrum, -1), F.log_softmax(spectrum.detach() / temperature, -1)
        total = total + F.kl_div(own, flatter, reduction="sum", log_target=True)
    return total


@dataclass(frozen=True)
class Densification:
    """Settings of the densification term.

    Args:
        weight: beside cross-entropy.
        temperature, normalised: as in `densification`.
        every: steps from one evaluation to the next. The eigenvalue solver makes the host wait for the device.
        mean, std: of the dataset in unit pixels, one value a channel.
        steps: of a shard; at its end the share of inactive evaluations is logged.
    """

    weight: float
    temperature: float
    normalised: bool
    every: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int


class DensifiedStatistics(FeatureStatistics):
    """Statistic matching and densification of the same views.

    Classes keep the rows that the labels of `start` give them, so matching is of the whole batch, never per class.

    Args:
        densification: settings of the term.
        others: as in `FeatureStatistics`.
    """

    def __init__(self, *args, densification: Densification, **others) -> None:
        super().__init__(*args, extra=self._densify, **others)
        self.densification = densification

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        """Also groups the rows by class and resets the counts."""
        super().start(shard, images, labels, key)
        self._shard, self._groups = shard, [to_device(rows, images.device) for rows in class_groups(labels)]
        like = {"dtype": images.dtype, "device": images.device}
        self._mean, self._std = (
            torch.tensor(v, **like).view(1, -1, 1, 1) for v in (self.densification.mean, self.densification.std)
        )
        self.value = torch.zeros((), **like)
        self.tally = torch.zeros(2, device=images.device)  # evaluations, and those in which the term was inactive

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """Logs the term without its weight, as of its last evaluation, and the share of inactive ones so far."""
        for term in super().terms(images, labels, step, key):
            term.logs["densification"] = self.value
            term.logs["densification_inactive"] = self.tally[1] / self.tally[0].clamp_min(1)
            yield term

    def after(self, images: Tensor, step: int, key: Key) -> None:
        """Logs at the end of a shard how often the term was inactive."""
        super().after(images, step, key)
        if step + 1 == self.densification.steps:
            log.info("%s: %s", self._shard.id, self.summary())

    def summary(self) -> str:
        """Message with the share of evaluations in which densification was inactive."""
        evaluations, inactive = self.tally.tolist()
        share = 100 * inactive / max(1, evaluations)
        said = f"densification was inactive in {share:.0f} % of {evaluations:.0f} steps"
        if not self._groups:
            return f"{said}: no class has two images in this shard"
        if share < 50 or self.densification.normalised:
            return said
        return f"{said}: one eigenvalue outweighs the others (--densification_normalised divides them by their mean)"

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "densification": self.tally}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        if "densification" in state:
            # before the first `start` there is no device yet, and `start` resets the counts
            device = self.matching[0].device if self.matching else "cpu"
            self.tally = state["densification"].to(device, copy=True)

    def _densify(self, views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        settings = self.densification
        if self.counter % settings.every:
            return {}
        normalised = (views - self._mean) / self._std
        value = densification(normalised, self._groups, settings.temperature, settings.normalised)
        self.value = value.detach()
        self.tally = self.tally + torch.stack([torch.ones_like(self.value), self.value < INACTIVE])
        return {"densification": settings.weight * value}
