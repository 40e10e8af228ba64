"""What torch's profiler counts of a piece of work: the same numbers on every machine, however busy it is."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

MEMORY = "[memory]"  # the name of the profiler's events of allocation


def _events(work: Callable[[], None]) -> list:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    return sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())


def peak_bytes_of_tensors(work: Callable[[], None]) -> int:
    """Most bytes that CPU tensors made by `work` take at once."""
    now = peak = 0
    for event in _events(work):
        if event.name() == MEMORY:
            now += event.nbytes()  # below zero where something is freed
            peak = max(peak, now)
    return peak


def operations(work: Callable[[], None]) -> int:
    """How many operations torch is asked for, those inside of others included."""
    return sum(event.name().startswith("aten::") for event in _events(work))
