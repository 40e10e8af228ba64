"""One network trained by all processes at once, each on its part of every batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from hf_condense.processes import Processes

LARGE = 10_000_000  # images that pass in a training; below, a network is trained whole on one process


class DataParallel:
    """The parts of a batch, and the sum of gradients over all processes.

    A step has the gradient of the whole batch but for rounding, which is why the weights are not those that one process
    would make, bit by bit. Batch norms see the images of their own process alone.

    Args:
        accelerator: an `accelerate.Accelerator` with two or more processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.processes = Processes(accelerator)

    def part(self, count: int) -> slice:
        """The images of a batch of `count` that this process takes: equal parts, so up to world - 1 images are left out."""
        each = count // self.processes.world
        return slice(self.processes.rank * each, (self.processes.rank + 1) * each)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces the gradients of this process's mean loss by their mean over all processes, in one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = self.total(torch.cat([g.flatten() for g in gradients])) / self.processes.world
        torch._foreach_copy_(
            gradients, [g.view_as(like) for g, like in zip(whole.split([g.numel() for g in gradients]), gradients)]
        )

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on each of them."""
        return self._accelerator.reduce(value, reduction="sum")

    def decided(self, value: bool) -> bool:
        """What the first process says."""
        answer = [value]
        broadcast_object_list(answer)
        return answer[0]


def pays(epochs: int, images: int) -> bool:
    """Whether a training is long enough to give up bit-equality with one process for its speed."""
    return epochs * images >= LARGE


def whole_batch(count: int, parallel: DataParallel | None) -> slice:
    """The rows of a batch that this process trains on: all of them where it trains alone."""
    return slice(0, count) if parallel is None else parallel.part(count)


def mean_loss(total: Tensor, count: int, parallel: DataParallel | None) -> float:
    """Mean loss of an epoch over the images of all processes; `total` is the sum of this one's."""
    if parallel is None:
        return float(total) / count
    loss, images = parallel.total(torch.stack([total, total.new_tensor(float(count))])).tolist()
    return loss / images
