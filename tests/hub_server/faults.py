"""Faults that a test arms: a route then refuses, breaks the connection, or lets something else happen first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Fault:
    """What goes wrong at a route.

    Args:
        route: the name in the decorator of its function in routes.py.
        status: answered instead of doing anything (401, 403, 409, 412, 500, ...).
        drop_after: the connection breaks after so many bytes of the request's body, and nothing is done.
        lose_answer: everything is done, and the connection breaks before the answer.
        page: a page of HTML is answered instead of doing anything, as a network does that wants a login.
        meanwhile: called before the request is handled, as another user would come between.
        times: how many requests meet it. Clients ask again after 500 and broken connections (six requests in all for
            most routes; a commit is sent once), so one is healed and six are not.
        hits: how many met it so far.
    """

    route: str
    status: int | None = None
    drop_after: int | None = None
    lose_answer: bool = False
    page: bool = False
    meanwhile: Callable[[], object] | None = None
    times: int = 1
    hits: int = 0


class Faults:
    """The armed faults, in the order of arming."""

    def __init__(self):
        self._armed: list[Fault] = []
        self._lock = threading.Lock()

    @contextmanager
    def armed(self, fault: Fault) -> Iterator[Fault]:
        """Arms it for the block, and sees to it that it happened: a fault that no request met proves nothing."""
        self._armed.append(fault)
        try:
            yield fault
        finally:
            self._armed.remove(fault)
        assert fault.hits, f"no request came to {fault.route}"

    def take(self, route: str) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            for fault in self._armed:
                if fault.route == route and fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None
