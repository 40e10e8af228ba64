"""Copies from the host to the device that the host does not wait for, and several small tensors in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 16  # bytes: the widest load of a GPU, and a multiple of every element


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. On its way to a GPU it goes through page-locked memory, from which the device reads by
    itself; torch frees that memory only when it has been read."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on `device`, by one copy of one buffer: a copy costs as much as a small kernel."""
    if device.type == "cpu":
        return list(tensors)
    raw = [t.contiguous().flatten().view(torch.uint8) for t in tensors]
    ends = torch.tensor([0, *(-(-len(part) // ALIGNED) * ALIGNED for part in raw)]).cumsum(0).tolist()
    buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for part, start in zip(raw, ends):
        buffer[start : start + len(part)] = part
    there = to_device(buffer, device)
    return [there[start : start + len(part)].view(t.dtype).view(t.shape) for t, part, start in zip(tensors, raw, ends)]
