"""Instance norm, ReLU and 2x2 average pooling as one operation on the CPU, for ConvNets that are differentiated once.

Torch goes over the maps of a block some fourteen times each step, and is bound by memory. `torch.compile` halves that
after 20 s of compilation; the C functions behind this take a tenth, after half a second.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_condense.models.native import library

WIDEST = 1024  # columns of a map, as in the C file


@lru_cache
def _functions() -> tuple | None:
    """(forward, backward), or None where there is no compiler."""
    found = library("norm_relu_pool")
    if found is None:
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    found.forward.argtypes = [*[pointer] * 6, *[whole] * 4, ctypes.c_float, ctypes.c_int]
    found.backward.argtypes = [*[pointer] * 9, *[whole] * 4, ctypes.c_int]
    found.forward.restype = found.backward.restype = None
    return found.forward, found.backward


def available() -> bool:
    """Whether this machine has the operation; the first call compiles it."""
    return _functions() is not None


def fits(x: Tensor) -> bool:
    """Whether the operation takes these maps [n, c, h, w]."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.shape[-2] % 2 == 0 and x.shape[-1] % 2 == 0 and x.shape[-1] <= WIDEST


class NormReluPool(torch.autograd.Function):
    """maps [n, c, h, w], weight and bias [c] of the norm -> [n, c, h / 2, w / 2]; equal to torch's up to rounding."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x, (n, c, h, w) = x.contiguous(), x.shape
        y, moments = x.new_empty(n, c, h // 2, w // 2), x.new_empty(2, n, c)
        call, _ = _functions()
        call(
            *_pointers(x, weight.contiguous(), bias.contiguous(), y, moments[0], moments[1]),
            *x.shape,
            eps,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, weight, bias, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, moments = ctx.saved_tensors
        dy, dx, of_weight, of_bias = dy.contiguous(), *map(torch.empty_like, (x, weight, bias))
        _, call = _functions()
        call(
            *_pointers(dy, x, weight, bias, moments[0], moments[1], dx, of_weight, of_bias),
            *x.shape,
            torch.get_num_threads(),
        )
        return dx, of_weight, of_bias, None


def _pointers(*tensors: Tensor) -> list[int]:
    return [t.data_ptr() for t in tensors]
