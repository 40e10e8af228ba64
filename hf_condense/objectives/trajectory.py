"""Trajectory matching: a student trained on the images should reach the weights of an expert trained on real data.

MTT (arXiv:2203.11932, section 3) and TESLA (arXiv:2211.10586). The three gradients are defined in `inner_loop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.data.upload import to_device
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.flat import FlatNetwork
from hf_condense.objectives.base import Objective, Term
from hf_condense.objectives.inner_loop import Batch, Gradient, InnerLoop, end_distance


@dataclass(frozen=True)
class TrajectorySegments:
    """Settings of the matched segments of experts' trajectories, and of the student's training on one.

    Args:
        first_epochs: a segment begins after 0 to first_epochs - 1 epochs (T+), each as likely.
        skipped_epochs: but not before this number of epochs.
        grow_from, grow_steps: the bound in the first image step, which grows to `first_epochs` in this number of steps.
        span: epochs of the expert that it covers (M).
        steps: steps of the student (N).
        batch: images in one of them; all where there are fewer. A pass over the images ends with a short batch where
            they do not divide (the authors' script begins with it).
        pairs: segments in one step of the images; their distances are averaged.
        gradient: see `end_distance`.
        threshold: segments in which the student ends farther away than this pull nothing; None for no limit.
    """

    first_epochs: int
    span: int
    steps: int
    batch: int
    pairs: int = 1
    gradient: Gradient = "adjoint"
    skipped_epochs: int = 0
    grow_from: int | None = None
    grow_steps: int = 1
    threshold: float | None = None

    def starts(self, step: int) -> range:
        """The epochs after which a segment of this image step may begin (DATM, arXiv:2310.05773)."""
        last = self.first_epochs
        if self.grow_from is not None and step < self.grow_steps:
            last = self.grow_from + (last - self.grow_from) * step // self.grow_steps
        return range(self.skipped_epochs, last)


class TrajectoryMatching(Objective):
    """Loss = |where the student ends - where the expert ends|^2 as a share of |start - end of the expert|^2.

    The student's learning rate is learned with the images. Where several processes share a step, each has segments of
    its own.

    Args:
        network: architecture of experts and students.
        experts: their trajectories.
        rate: first value of the student's learning rate.
        policy: augmentation of the student's batches, one family for each, with numbers for each image; None for none.
        assigns: give each image the probabilities that the target of the segment gives it, as its label (TESLA).
            Published are those of the last step's first segment, of the images as that step saw them.
    """

    def __init__(
        self,
        network: FlatNetwork,
        experts: ExpertBuffer,
        segments: TrajectorySegments,
        rate: float,
        policy: SiamesePolicy | None,
        assigns: bool = False,
    ) -> None:
        self.network, self.experts, self.segments = network, experts, segments
        self.rate, self.policy, self.assigns = rate, policy, assigns

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self._rate = torch.tensor(self.rate, dtype=images.dtype, device=images.device, requires_grad=True)
        self._assigned = to_device(F.one_hot(labels, self.network.network.num_classes).to(images.dtype), images.device)

    def learnables(self) -> dict[str, Tensor]:
        """The student's learning rate "lr", and "soft_labels" [n, K] where labels are assigned."""
        return {"lr": self._rate} | ({"soft_labels": self._assigned} if self.assigns else {})

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for each segment."""
        rank, world = self.share
        for number in range(self.segments.pairs)[rank::world]:
            name = key / "stretch" / number
            start, target = (weights.to(images.dtype) for weights in self._segment(step, name, images.device))
            seen = self.network.network.normalise(images)
            said = self._said(labels, target, seen.detach(), number)
            loop = InnerLoop(self.network, start, target, self._batches(seen, name))
            distance = end_distance(loop, seen, said, self._rate, self.segments.gradient)
            logs = {"distance": distance.detach(), "student_lr": self._rate.detach().clone(), **self._logs(labels)}
            if self.segments.threshold is not None:  # a product, because the host does not wait for the distance
                distance = distance * (distance.detach() <= self.segments.threshold)
            yield Term(distance / self.segments.pairs, "trajectory", logs)

    def _said(self, labels: Tensor, target: Tensor, images: Tensor, number: int) -> Tensor:
        """What the student of segment `number` learns of the images: classes int64 [n], or probabilities [n, K]."""
        if not self.assigns:
            return labels
        found = self.network.logits(target, images).softmax(1)
        if number == 0:  # of the main process, which publishes them
            self._assigned.copy_(found)
        return found

    def _logs(self, labels: Tensor) -> dict[str, Tensor]:
        """Further scalars of a step for trackers, on the device."""
        return {}

    def _segment(self, step: int, key: Key, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights [P] of an expert where the student starts, and where it should end."""
        expert = int((key / "expert").numpy().integers(self.experts.experts))
        starts = self.segments.starts(step)
        epoch = int((key / "epoch").numpy().integers(starts.start, starts.stop))
        span = self.segments.span
        return self.experts.placed(expert, epoch, device), self.experts.placed(expert, epoch + span, device)

    def _batches(self, images: Tensor, key: Key) -> list[Batch]:
        """The batches of the student: consecutive passes over the images, each in a new order."""
        found: list[Batch] = []
        while len(found) < self.segments.steps:
            order = torch.from_numpy((key / "order" / len(found)).permutation(len(images)))
            for rows in order.split(self.segments.batch):
                found.append(
                    Batch(to_device(rows, images.device), self._view(images, len(rows), key / "view" / len(found)))
                )
        return found[: self.segments.steps]

    def _view(self, images: Tensor, count: int, key: Key):
        """The augmentation of `count` images in one step."""
        if self.policy is None:
            return lambda batch: batch
        draw = draw_siamese(self.policy, key, count, *images.shape[-2:])
        return partial(apply_siamese, draw=draw, policy=self.policy)
