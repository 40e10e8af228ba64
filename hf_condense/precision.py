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


def settle_arithmetic(device: torch.device) -> None:
    """Settles how a GPU computes in float32, for the whole process; nothing on other devices.

    "fp32" is float32: TF32, which keeps 10 of 23 bits of the factors of products, is off for matrix products (torch's
    default) and for convolutions (where torch's default is on). Statistics and matched gradients are differences of
    nearly equal numbers, so those bits count; "bf16" is the fast choice, and says so in the record. Convolutions
    measure which algorithm is fastest for a shape when they first see it, because shapes of a run seldom change.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"
        torch.backends.cudnn.benchmark = True


def autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager:
    """Autocast to bf16 on `device`, or none where `enabled` is false; nothing on devices without autocast (meta)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
