"""Progress with the time left: a bar on a terminal, otherwise a log line every minute."""

from __future__ import annotations

import logging
import time

from tqdm.auto import tqdm

log = logging.getLogger(__name__)
SAY_EVERY = 60.0  # seconds between lines where no terminal shows the bar
LONG = 5.0  # seconds after which a part of a longer work shows a bar of its own


class Progress:
    """A progress bar with the newest values. Without a terminal (nohup, Slurm) it is a log line every minute.

    Args:
        title: name of the work.
        total: units of work.
        show: True on one process, False on all others.
        log_every: how often, in units, a caller should fetch values from the device to show them.
        part: of what another bar counts as one unit: its own bar comes only where it takes long, and goes at the end.
    """

    def __init__(self, title: str, total: int, show: bool = True, log_every: int = 20, part: bool = False) -> None:
        self.log_every = log_every
        self.bar = tqdm(
            total=total,
            desc=title,
            disable=None if show else True,
            dynamic_ncols=True,
            leave=not part,
            delay=LONG if part else 0.0,
        )
        self.title, self.total, self.done = title, total, 0
        self._lines = show and self.bar.disable
        self._began = self._said = time.monotonic()

    def advance(self, units: int = 1) -> None:
        self.bar.update(units)
        self.done += units
        now = time.monotonic()
        if self._lines and self.done and now - self._said >= SAY_EVERY:
            self._said = now
            left = tqdm.format_interval((now - self._began) / self.done * (self.total - self.done))
            log.info("%s: %d of %d, about %s left", self.title, self.done, self.total, left)

    def say(self, values: dict[str, float]) -> None:
        """Shows numbers at the end of the bar."""
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
