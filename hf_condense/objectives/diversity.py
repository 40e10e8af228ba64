"""DiRe: features of the images of a class, apart from one another and near those of its real images (arXiv:2512.13083)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.upload import to_device


class Diversity:
    """weight * sum over classes of (mean |cosine| of two images + mean (1 - cosine) + distance_weight * mean distance).

    The latter two are between images and real images. The mean over pairs counts that of an image with itself as 0.

    Args:
        real: features [K, R, d] of R real images of each class, one tensor for each observer.
        weight: of the whole beside cross-entropy, which is a mean over images.
        distance_weight: of Euclidean distances beside cosines.
    """

    def __init__(self, real: Sequence[Tensor], weight: float, distance_weight: float) -> None:
        self.real, self.weight, self.distance_weight = real, weight, distance_weight

    def start(self, labels: Tensor, like: Tensor) -> None:
        """Brings the real features of a shard's classes to the device of `like`; `labels` int64 [n] are on the CPU."""
        self.classes = labels.unique()
        self.known = [to_device(real[self.classes].to(like.dtype), like.device) for real in self.real]
        self.directions = [F.normalize(known, dim=2).mean(1) for known in self.known]  # [classes, d]

    def groups(self, labels: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """For each number m of images: the places of the classes that have it, int64 [c], and their rows [c, m]."""
        found = class_groups(labels, least=1)
        places = [torch.searchsorted(self.classes, labels[rows[:, 0]]) for rows in found]
        return [(to_device(place, device), to_device(rows, device)) for place, rows in zip(places, found)]

    def __call__(self, observer: int, features: Tensor, groups: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """A scalar, of features [n, d] in the observer of this number."""
        total = features.new_zeros(())
        for places, rows in groups:
            members = features[rows]  # [classes, images of one, d]
            units = F.normalize(members, dim=2)
            cosines = units @ units.mT
            others = cosines - torch.diag_embed(cosines.diagonal(dim1=1, dim2=2))
            near = 1 - (units * self.directions[observer][places, None]).sum(2)
            far = torch.cdist(members, self.known[observer][places])
            total = total + others.abs().mean((1, 2)).sum() + near.mean(1).sum()
            total = total + self.distance_weight * far.mean((1, 2)).sum()
        return self.weight * total


def class_groups(labels: Tensor, least: int = 2) -> list[Tensor]:
    """Rows of the classes that have `least` images or more: int64 [classes, images] for each number of images.

    `labels` int64 [n] and rows are on the CPU.
    """
    counts = labels.unique(return_counts=True)[1]
    members = labels.argsort(stable=True).split(counts.tolist())
    return [torch.stack([rows for rows in members if len(rows) == n]) for n in counts.unique().tolist() if n >= least]
