"""The views of a student's training with the labels that a teacher gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, Views
from hf_condense.data.randomness import Key
from hf_condense.labels.regeneration import Labelled
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import batch_sizes, view_batches
from hf_condense.models.training import Batch


@dataclass(frozen=True, eq=False)
class LabelledViews:
    """Epoch number -> (rows int64 [b], views, logits [b, K]) of its batches.

    Args:
        images: decoded ones [N, C, S, S], on the device of the teacher; `labels` int64 [N].
        policy, key, limit: as of `labels.views.view_batches`.
        part: most images that the teacher labels together.
        number: as which logits are stored; they have to be finite as such.
        first_few: whether only the first batches are asked for, so that each of them is checked and not the epoch.

    Raises:
        ModelError: labels are not finite; the message names the network.
    """

    images: Tensor
    labels: Tensor
    teacher: Ensemble
    policy: ViewPolicy
    key: Key
    batch_size: int
    part: int
    limit: int | None
    number: torch.dtype
    first_few: bool

    def __call__(self, epoch: int) -> Iterator[Labelled]:
        finite = torch.ones((), dtype=torch.bool, device=self.images.device)
        for rows, views, batch in self._views(epoch):
            logits = self.teacher.logits(batch.images, batch_sizes(len(rows), self.part))
            finite &= self._finite(logits)  # read once an epoch: each read waits for the device
            if self.first_few and not finite:
                self._refuse(epoch)
            yield rows, views, logits
        if not finite:
            self._refuse(epoch)

    def _views(self, epoch: int) -> Iterator[tuple[Tensor, Views, Batch]]:
        return view_batches(self.images, self.labels, self.policy, self.key, epoch, self.batch_size, limit=self.limit)

    def _finite(self, logits: Tensor) -> Tensor:
        return logits.to(self.number).isfinite().all()

    def _refuse(self, epoch: int) -> None:
        for _, _, batch in self._views(epoch):
            if not self._finite(self.teacher.logits(batch.images)):
                self.teacher.refuse(batch.images)
