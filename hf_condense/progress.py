"""Progress with time left for everything a person waits for."""

from __future__ import annotations

from tqdm.auto import tqdm


class Progress:
    """One bar: what is done, what is left, the newest values.

    Args:
        title: what is being done.
        total: units of work.
        show: off on all processes but one.
        log_every: how often, in units, a caller should fetch values from the device to show them.
    """

    def __init__(self, title: str, total: int, show: bool = True, log_every: int = 20) -> None:
        self.log_every = log_every
        self.bar = tqdm(total=total, desc=title, disable=None if show else True, dynamic_ncols=True, leave=True)

    def advance(self, units: int = 1) -> None:
        self.bar.update(units)

    def say(self, values: dict[str, float]) -> None:
        """Shows numbers at the end of the bar."""
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
