"""Callbacks: objects that learn of a run's stages, steps, losses and images while it works, and may stop it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Control:
    """What a callback may ask for.

    Args:
        should_stop: set it to stop the run: a checkpoint of the work is written and `Stopped` raised. The same run,
            started again, resumes there.
    """

    should_stop: bool = False


@dataclass
class State:
    """The work that an event belongs to. Callbacks read it; the library writes it.

    Args:
        stage: "squeeze", "statistics", "condense", "relabel" or "evaluate"; "" outside of stages.
        work: name of the work in it: a network, a shard, a student. Equal for equal runs, and unique within a stage.
        title: how a bar calls it.
        step: units that are done; total: all of them. Units are optimiser steps in `condense`, epochs where a network is
            trained, students in `evaluate`, images or epochs of labels elsewhere.
        shown: whether a bar shows it; one process shows bars.
        brief: whether the bar appears only where the work takes long, because it is a part of longer work.
        parent: the longer work whose steps these are as well, or None.
        is_main_process: whether this process speaks for all.
    """

    stage: str
    work: str
    title: str
    step: int = 0
    total: int = 0
    shown: bool = False
    brief: bool = False
    parent: State | None = None
    is_main_process: bool = True


class Callback:
    """Base class with empty methods, as `transformers.TrainerCallback`: override those that you need.

    Give objects to `CondensationTrainer(callbacks=[...])`. Each process of a run calls those of its own work. `config` is
    the resolved configuration (`config.run.ipc`, `config.method.iterations`; None outside of a run). Every method takes
    `**kwargs`, so that later events may say more. What callbacks do changes no result, except by stopping.
    """

    def on_run_begin(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """All stages are about to run (`CondensationTrainer.run`)."""

    def on_run_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """All stages are done, and `folder` is written; `table` holds the scores (`evaluation.report.ScoreTable`)."""

    def on_stage_begin(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """A stage that is not done yet begins; `resumed`: earlier work on it is kept. A stage that is done gives no event."""

    def on_stage_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """A stage is done; `facts` holds its "seconds" and "peak_bytes", those of earlier attempts included (on the main process)."""

    def on_work_begin(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """A part of a stage begins: the training of a network, a shard, a student."""

    def on_work_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """The part is done, or was stopped."""

    def on_step_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        """`state.step` of `state.total` units of the work are done."""

    def on_log(
        self, config: Any, state: State, control: Control, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """`logs`: losses, rates and scores (name -> number) of the work after `state.step` units."""

    def on_images(
        self,
        config: Any,
        state: State,
        control: Control,
        images: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        name: str = "",
        **kwargs: Any,
    ) -> None:
        """Images to look at: those of a shard a few times on its way, and rows to compare at the end of a run.

        Args:
            images: row -> uint8 [n, C, S, S]; `labels`: int64 [n], the class of each column.
            name: of the picture: the shard and its step, or "comparison".
        """


class Stopped(Exception):
    """A callback has set `control.should_stop`. What is done is kept: the same run, started again, goes on."""


class Callbacks:
    """Hands events to callbacks, in their order.

    Args:
        config: handed on.
        is_main_process: whether this process speaks for all.
    """

    def __init__(self, callbacks: Sequence[Callback], config: Any = None, is_main_process: bool = True) -> None:
        self.callbacks, self.config, self.is_main_process = list(callbacks), config, is_main_process
        self.control, self.stopped_by = Control(), ""

    def emit(self, event: str, state: State, **values: Any) -> None:
        """Calls the method `event` of each callback."""
        for callback in self.callbacks:
            getattr(callback, event)(self.config, state, self.control, **values)
            if self.control.should_stop and not self.stopped_by:
                self.stopped_by = type(callback).__name__

    def stop_if_asked(self, state: State) -> None:
        """Raises Stopped where a callback has asked for it."""
        if self.control.should_stop:
            self.control.should_stop = False  # a later start of the same run goes on
            place = f"{state.stage}, {state.work}, {state.step} of {state.total}" if state.work else state.stage
            asked, self.stopped_by = self.stopped_by, ""
            raise Stopped(f"{asked} has stopped the run ({place}). Start it again to resume there.")

    def state(self, stage: str = "", work: str = "", title: str = "", **facts: Any) -> State:
        """A state of this process."""
        return State(stage, work, title or work or stage, is_main_process=self.is_main_process, **facts)

    @contextmanager
    def stage(self, name: str, **facts: Any) -> Iterator[State]:
        """Work inside belongs to the stage of this name; `facts` go to `on_stage_begin`."""
        state = self.state(name)
        before = _AT_WORK.set((self, name))
        try:
            self.emit("on_stage_begin", state, **facts)
            yield state
        finally:
            _AT_WORK.reset(before)


# The work of a stage lies many calls below it, in parts that also work by themselves (a pool, a score): a context
# variable spares each of them a parameter that changes nothing of what it makes.
_AT_WORK: ContextVar[tuple[Callbacks, str] | None] = ContextVar("hf_condense_callbacks", default=None)


def at_work() -> tuple[Callbacks, str] | None:
    """The callbacks and the name of the stage that this code works for; None outside of a run."""
    return _AT_WORK.get()
