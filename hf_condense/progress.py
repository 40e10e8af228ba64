"""Progress: steps and numbers of a piece of work as events, and the callback that shows them with the time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from hf_condense.callbacks import Callback, Callbacks, Control, State, at_work

log = logging.getLogger(__name__)
SAY_EVERY = 60.0  # seconds between lines where no terminal shows the bar
LONG = 5.0  # seconds after which a part of a longer work shows a bar of its own


class Progress:
    """A piece of work whose steps and numbers callbacks get: those of the run, or bars alone outside of one.

    Args:
        title: how bars call it; name: how callbacks find it, defaults to the title.
        total: units of work.
        show: True on one process, False on all others.
        log_every: how often, in units, a caller should fetch values from the device to log them.
        part: of what another bar counts as one unit: its own bar comes only where it takes long, and goes at the end.
        parent: longer work whose units these are too.
    """

    def __init__(
        self,
        title: str,
        total: int,
        show: bool = True,
        log_every: int = 20,
        part: bool = False,
        name: str = "",
        parent: Progress | None = None,
    ) -> None:
        self.log_every = log_every
        self.callbacks, stage = at_work() or (Callbacks([ProgressCallback()]), "")
        self.state = self.callbacks.state(stage, name or title, title, total=total, shown=show, brief=part)
        self.state.parent = parent.state if parent else None

    def part(self, name: str, total: int) -> Progress:
        """Work whose units are units of this one as well; the bar is this one's."""
        return Progress(name, total, show=False, log_every=self.log_every, parent=self)

    def advance(self, units: int = 1) -> None:
        self.state.step += units
        if self.state.parent is not None:
            self.state.parent.step += units
        self.callbacks.emit("on_step_end", self.state)

    def log(self, values: Mapping[str, float]) -> None:
        """Losses, rates and scores after the steps so far."""
        self.callbacks.emit("on_log", self.state, logs=dict(values))

    def images(self, name: str, images: Mapping[str, Any], labels: Any, class_names: Any) -> None:
        """Images to look at; see `Callback.on_images`."""
        self.callbacks.emit("on_images", self.state, images=images, labels=labels, class_names=class_names, name=name)

    @property
    def stopping(self) -> bool:
        """Whether a callback wants the run to stop: a checkpoint should be written now."""
        return self.callbacks.control.should_stop

    def stop_if_asked(self) -> None:
        """Raises Stopped where a callback has asked for it; to be called when nothing is lost by that."""
        self.callbacks.stop_if_asked(self.state)

    def __enter__(self) -> Progress:
        self.callbacks.emit("on_work_begin", self.state)
        return self

    def __exit__(self, *_) -> None:
        self.callbacks.emit("on_work_end", self.state)


class ProgressCallback(Callback):
    """A progress bar with the newest values. Without a terminal (nohup, Slurm) it is a log line every minute."""

    def __init__(self) -> None:
        self._bars: dict[int, _Bar] = {}  # by the identity of the work, while it goes on

    def on_work_begin(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        if state.shown:
            self._bars[id(state)] = _Bar(state)

    def on_step_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        for shown in (state, state.parent):
            if id(shown) in self._bars:
                self._bars[id(shown)].show(shown)

    def on_log(self, config: Any, state: State, control: Control, logs: Any = None, **kwargs: Any) -> None:
        bar = self._bars.get(id(state)) or self._bars.get(id(state.parent))
        if bar:
            bar.bar.set_postfix({k: f"{v:.3g}" for k, v in logs.items()}, refresh=False)

    def on_work_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        if bar := self._bars.pop(id(state), None):
            bar.bar.close()


class _Bar:
    """One bar, or the lines in its place."""

    def __init__(self, state: State) -> None:
        self.bar = tqdm(
            total=state.total,
            desc=state.title,
            disable=None,
            dynamic_ncols=True,
            leave=not state.brief,
            delay=LONG if state.brief else 0.0,
        )
        self._done = 0
        self._began = self._said = time.monotonic()

    def show(self, state: State) -> None:
        self.bar.update(state.step - self._done)
        self._done = state.step
        if self.bar.disable and state.step:
            self._say(state)

    def _say(self, state: State) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            left = tqdm.format_interval((now - self._began) / state.step * (state.total - state.step))
            log.info("%s: %d of %d, about %s left", state.title, state.step, state.total, left)
