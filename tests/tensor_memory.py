"""Memory of tensors, counted allocation by allocation: the same number on every machine, whatever its heap looks like."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes_of_tensors(work: Callable[[], None]) -> int:
    """Most bytes that CPU tensors made by `work` take at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = (e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]")
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()  # below zero where something is freed
        peak = max(peak, now)
    return peak
