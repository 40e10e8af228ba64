"""Copies from the host to the device that the host does not wait for, through one page-locked buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

ALIGNED = 16  # bytes: the widest load of a GPU, and a multiple of every element
BUFFER = 32 << 20  # bytes of the page-locked buffer: the draws of many steps


class Event(Protocol):
    """A point in the work of the device, as `torch.cuda.Event`."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Ring:
    """A buffer that host tensors are put into one after another, while the device still reads earlier ones.

    It is used half by half: before a half is written over, the host waits for the copies out of it. So the host can be
    half a buffer ahead of the device, and page-locked memory is asked for once.

    Args:
        buffer: uint8 [2 * half].
        event: makes an event of the device.
    """

    def __init__(self, buffer: Tensor, event: Callable[[], Event]) -> None:
        self.buffer, self.half = buffer, len(buffer) // 2 // ALIGNED * ALIGNED
        self._events = [event(), event()]
        self._filled = [False, False]
        self._now, self._at = 0, 0

    def place(self, size: int) -> Tensor | None:
        """uint8 [size] of the buffer, free to be written and then copied from; None where `size` is above a half."""
        if size > self.half:
            return None
        if self._at + size > self.half:
            self._events[self._now].record()  # after the copies out of this half
            self._filled[self._now] = True
            self._now, self._at = 1 - self._now, 0
            if self._filled[self._now]:
                self._events[self._now].synchronize()
        begin = self._now * self.half + self._at
        self._at += -(-size // ALIGNED) * ALIGNED
        return self.buffer[begin : begin + size]


@cache
def _ring(device: torch.device) -> Ring:
    """That of the copies to a GPU; they are all made by the main thread, in its current stream."""
    return Ring(torch.empty(BUFFER, dtype=torch.uint8, pin_memory=True), torch.cuda.Event)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. On its way to a GPU it goes through page-locked memory, from which the device reads by
    itself; torch frees memory of its own only when it has been read."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.is_pinned():
        return tensor.to(device, non_blocking=True)
    place = _ring(device).place(tensor.nbytes)
    staged = tensor.pin_memory() if place is None else part(place, tensor).copy_(tensor)
    return staged.to(device, non_blocking=True)


def together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on `device`, by one copy of one buffer: a copy costs as much as a small kernel."""
    if device.type == "cpu":
        return list(tensors)
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + -(-tensor.nbytes // ALIGNED) * ALIGNED)
    place = _ring(device).place(starts[-1]) if device.type == "cuda" else None
    if place is None:
        place = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, there in zip(tensors, parts(place, tensors, starts)):
        there.copy_(tensor)
    return parts(place.to(device, non_blocking=True), tensors, starts)


def parts(buffer: Tensor, like: Sequence[Tensor], starts: Sequence[int]) -> list[Tensor]:
    """Views of `buffer` with the types and shapes of `like`, which begin at these bytes."""
    return [part(buffer[start:], t) for t, start in zip(like, starts)]


def part(buffer: Tensor, like: Tensor) -> Tensor:
    """The first bytes of `buffer` with the type and shape of `like`."""
    return buffer[: like.nbytes].view(like.dtype).view(like.shape)
