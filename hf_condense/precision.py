"""The floating-point precision of networks: resolved once, written into the configuration, entered by autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" to "fp32" or "bf16": bf16 on an accelerator that supports it, fp32 on a CPU, where runs are bit-equal.

    On CPUs with bf16 instructions bf16 is faster too (benchmarks/observer_step.py), but has to be requested.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager:
    """Autocast to bf16 on `device`, or none where `enabled` is false; nothing on devices without autocast (meta)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
