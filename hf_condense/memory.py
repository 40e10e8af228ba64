"""Memory: the peak of a piece of work, and how freed memory is kept."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Starts a new measurement. On Linux the process's high-water mark is reset; elsewhere it only grows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or not allowed: the figure is then the peak of the whole run, an upper bound
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Most memory in use at once since `reset_peak`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def current_bytes(device: torch.device) -> int:
    """Memory in use now, in bytes; where the system does not say it, the most so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_bytes(device)


def keep_freed_memory() -> None:
    """Lets the C library reuse freed memory instead of handing it back to the system.

    On Linux, mapping the pages of every large activation again takes up to a third of a forward pass on the CPU. The
    settings below are glibc's mmap threshold, trim threshold and top pad; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for option, value in ((-3, 32 * 2**20), (-1, 2**31 - 1), (-2, 256 * 2**20)):
        mallopt(option, value)
