"""Statistics matching of images that join one group after another (arXiv:2411.19946)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.objectives.base import Term
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import Shard


class JoiningStatistics(FeatureStatistics):
    """`FeatureStatistics` of the images that have joined: group j of each class does at step j * every, and then stays.

    An image that has not joined has no gradient, and Adam, whose moments of it are zero, does not move it. Steps are
    counted for all images together, so the first move of a late one is longer than the rate of its step.

    Args:
        groups: into which the images of each class are parted, by `groups_of`.
        every: steps from one group to the next.

    Raises:
        ValueError: the settings have targets of classes or averaged images, which belong to all rows.
    """

    def __init__(self, *parts: Any, groups: int, every: int, **more: Any) -> None:
        super().__init__(*parts, **more)
        s = self.settings
        if s.alpha != 1 or s.class_matching != "aggregated" or s.flatness_weight:
            raise ValueError("images that join late are matched to the statistics of all data only")
        self.groups, self.every = groups, every

    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        super().start(shard, images, labels, key)
        group = groups_of(labels, self.groups)
        joined = [torch.nonzero(group <= j)[:, 0] for j in range(self.groups)]
        self._joined = [to_device(rows, images.device) for rows in joined]
        if self.diversity:
            self._class_rows = [self.diversity.groups(labels[rows], images.device) for rows in joined]

    def joined(self, step: int) -> Tensor:
        """The rows of the shard that have joined, int64 [m], ascending."""
        return self._joined[self._round(step)]

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        rows = self.joined(step)
        if len(rows) < len(images):
            images, labels = images[rows], labels[rows]
        if self.diversity:
            self.class_rows = self._class_rows[self._round(step)]
        yield from super().terms(images, labels, step, key)

    def _round(self, step: int) -> int:
        return min(step // self.every, self.groups - 1)


def groups_of(labels: Tensor, groups: int) -> Tensor:
    """The group of each row, int64 [n]: the images of a class in their order, in parts whose first ones are larger by one.

    A class of fewer images than groups has none in the last ones. `labels` int64 [n] are on the CPU.
    """
    counts = labels.unique(return_counts=True)[1]
    sizes = counts[:, None] // groups + (torch.arange(groups) < counts[:, None] % groups)  # [classes, groups]
    found = torch.empty_like(labels)
    found[labels.argsort(stable=True)] = torch.arange(groups).repeat(len(counts)).repeat_interleave(sizes.flatten())
    return found
