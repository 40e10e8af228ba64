"""The floating-point precision of frozen networks, resolved once and written into the configuration."""

from __future__ import annotations

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" to "fp32" or "bf16": bf16 on an accelerator that supports it, fp32 on a CPU, where runs are bit-equal.

    On CPUs with bf16 instructions bf16 is faster too (benchmarks/observer_step.py), but has to be requested.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
