"""The processes that share the work of a run, or the one process that works alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


class Processes:
    """Which of the processes this one is.

    Args:
        accelerator: an `accelerate.Accelerator` or `PartialState`; None for one process alone.

    `rank` counts from 0, `world` is their number, and `main` says whether this one writes and prints.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.rank, self.world = 0, 1
        if accelerator is not None:
            self.rank, self.world = accelerator.process_index, accelerator.num_processes

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process works on: every `world`-th, from its own number on."""
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
