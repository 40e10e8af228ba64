"""Which arithmetic frozen networks run in, resolved once and written into the configuration."""

from __future__ import annotations

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" to "fp32" or "bf16": bf16 where an accelerator computes in it; fp32 on a CPU, where bits are to be equal.

    bf16 pays on CPUs with bf16 instructions too (benchmarks/observer_step.py); there it is taken when asked for.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
