"""The contract of an objective: what the engine asks of it while it optimises the images of a shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from hf_condense.data.randomness import Key

if TYPE_CHECKING:
    from hf_condense.methods.base import Shard


@dataclass
class Term:
    """A part of the loss, back-propagated by itself.

    Args:
        loss: scalar with a graph to the images (or other learnables).
        name: which part it is.
        logs: detached scalars on the device, for trackers; nothing reads them inside a step.
    """

    loss: Tensor
    name: str
    logs: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """State of one shard; owns no optimiser and no outer loop.

    `share` is (this process, processes): where all of them work on one shard, each yields the terms of its own classes.
    Images are unit pixels, float [n, C, H, W]; labels int64 [n]; a step's key already names the step.
    """

    share: tuple[int, int] = (0, 1)

    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        """Called before the first step of a shard (or before `load_state_dict`, when it is resumed)."""

    def learnables(self) -> dict[str, Tensor]:
        """What is learned beside pixels: soft labels, a learning rate."""

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """The parts of the loss, one at a time."""

    def after(self, images: Tensor, step: int, key: Key) -> None:
        """Called after the update, with the images that the step's terms have seen."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed shard needs to go on exactly: tensors under flat names."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state_dict` gave."""
