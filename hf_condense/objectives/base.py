"""The interface of an objective, which the engine calls while it optimises the images of a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.models.graphs import Recorder
from hf_condense.plan import Shard


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


class Objective(ABC):
    """State of one shard; owns no optimiser and no outer loop.

    `share` is (this process, processes): where all of them work on one shard, each yields the terms of its own classes.
    Images are unit pixels, float [n, C, H, W]; labels int64 [n]; a step's key already names the step. Where
    `needs_sources` is set, `sources` are the real images that the shard's first images were made of, uint8
    [n, cells, C, H, W], before `start` is called. `earlier_labels` are the probabilities [m, K] of the first m images, where
    these are of earlier PDD stages, which gave them labels that stay as they are. `recorder`, where there is one,
    captures parts of fixed shape.
    """

    share: tuple[int, int] = (0, 1)
    needs_sources: bool = False
    sources: Tensor
    earlier_labels: Tensor | None = None
    recorder: Recorder | None = None

    @abstractmethod
    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        """Called before the first step of a shard (or before `load_state_dict`, when it is resumed).

        Here `labels` are on the CPU, so that nothing has to be read back from the device.
        """

    def begin(self, images: Tensor) -> Tensor:
        """What optimisation begins with, of any side, after `start` has seen the first images."""
        return images

    @abstractmethod
    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """The parts of the loss, one at a time."""

    def learnables(self) -> dict[str, Tensor]:
        """Tensors that are learned in addition to pixels, by name.

        Two names mean labels, of all images or of the shard's own: "soft_labels" probabilities [n, K], "soft_logits" logits,
        which are published as their softmax. Others are scalars: a learning rate.
        """
        return {}

    def after(self, images: Tensor, step: int, key: Key) -> None:
        """Called after the update, with the images that the step's terms have seen."""
        return

    def revises(self, step: int) -> bool:
        """Whether `revise` is called after this step."""
        return False

    def revise(self, images: Tensor, step: int, key: Key) -> Tensor:
        """The images from now on, of any side, in place of those that the step has left; the optimiser begins again.

        Args:
            images: as the step's update has left them.
        """
        return images

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed shard needs to continue exactly: tensors under flat names."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores a state of `state_dict`."""
        return
