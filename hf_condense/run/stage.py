"""A stage: what its outputs are made from, how they are made and read, and what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from hf_condense.run.base import Run
from hf_condense.run.probe import Probe

Out = TypeVar("Out")
Outputs = Mapping[type["Stage"], Any]  # stage -> its output, read or made once


@dataclass(frozen=True)
class Cost:
    """What a stage is expected to take.

    Args:
        seconds: of work.
        memory: bytes beside libraries, weights and real images.
        disk: bytes written.
    """

    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0


class Stage(ABC, Generic[Out]):
    """One stage of every run that uses it. It has no state: what it needs stands in the run and in earlier outputs.

    Subclasses set:
        name: for messages and records; place: its folder in the run folder.
        version: raised by hand when the outputs of equal settings change.
        after: stages whose outputs it is made from; those that a run does not use do not count.
        by_content: whether its files are named by all that decides them, so that others leave them alone.
    """

    name: ClassVar[str]
    place: ClassVar[str]
    version: ClassVar[int] = 1
    after: ClassVar[tuple[type[Stage], ...]] = ()
    by_content: ClassVar[bool] = False

    def used(self, run: Run) -> bool:
        """Whether this run has the stage."""
        return True

    def version_in(self, run: Run) -> int:
        """The version of its outputs in this run."""
        return self.version

    @abstractmethod
    def settings(self, run: Run) -> dict[str, Any]:
        """Everything, beside earlier stages, that its outputs depend on: setting -> value."""

    def after_in(self, run: Run) -> tuple[type[Stage], ...]:
        """The stages that it is made from in this run."""
        return self.after

    @abstractmethod
    def make(self, run: Run, done: Outputs, folder: Path) -> Out | None:
        """Makes what is not there yet, on all processes; returns the output where it has it at hand.

        Args:
            done: outputs of the stages of `after`.
            folder: of the stage.
        """

    def clear(self, folder: Path) -> None:
        """Deletes what a killed run has left of parts that are finished; called when a run takes its folder."""
        return

    @abstractmethod
    def load(self, run: Run, done: Outputs, folder: Path) -> Out:
        """Reads what `make` has made. An output of `done` is made or read when it is asked for."""

    @abstractmethod
    def cost(self, run: Run, probe: Probe) -> Cost:
        """What it is expected to take from the beginning."""
