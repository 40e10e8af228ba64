"""Norm, ReLU and 2x2 average pooling as one operation on the CPU, for ConvNets that are differentiated once at most.

Torch goes over the maps of a block some fourteen times each step, and is bound by memory. `torch.compile` halves that
after 20 s of compilation; the C functions behind this take a tenth, after half a second.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_condense.models.native import library

WIDEST = 1024  # columns of a map, as in the C file


@lru_cache
def _functions() -> Any:  # a CDLL, or None
    """`forward`, `backward` and `affine` of the C file, or None where there is no compiler."""
    found = library("norm_relu_pool")
    if found is not None:
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        found.forward.argtypes = [*[pointer] * 6, *[whole] * 4, ctypes.c_float, ctypes.c_int]
        found.backward.argtypes = [*[pointer] * 9, *[whole] * 4, ctypes.c_int]
        found.affine.argtypes = [*[pointer] * 4, *[whole] * 4, ctypes.c_int]
        found.forward.restype = found.backward.restype = found.affine.restype = None
    return found


def available() -> bool:
    """Whether this machine has the operation; the first call compiles it."""
    return _functions() is not None


def norm_relu_pool(x: Tensor, norm: nn.GroupNorm | nn.BatchNorm2d) -> Tensor | None:
    """`norm`, ReLU and pooling of maps [n, c, h, w] -> float32 [n, c, h / 2, w / 2]; equal to torch's up to rounding.

    Args:
        x: float32, or bfloat16, which is computed in float32.
        norm: a group norm of one group a channel, or a batch norm that uses the statistics it has.

    Returns:
        None where torch has to compute it: for other devices, kinds and sides, for the gradient of a batch norm, and for
        a batch norm of bfloat16 in channels-last, which is faster as it is. Group norms of torch are slowest there.
    """
    h, w = x.shape[-2:]
    plain = x.is_contiguous() or isinstance(norm, nn.GroupNorm)
    kind = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and plain)
    if not kind or norm.weight.dtype != torch.float32 or x.device.type != "cpu" or h % 2 or w % 2 or w > WIDEST:
        return None
    if isinstance(norm, nn.GroupNorm):
        return NormReluPool.apply(x.float(), norm.weight, norm.bias, norm.eps)
    if norm.training or (torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)):
        return None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift, x = norm.bias - norm.running_mean * scale, x.float().contiguous()
    y = _halved(x)
    _functions().affine(*_pointers(x, scale, shift, y), *x.shape, torch.get_num_threads())
    return y


class NormReluPool(torch.autograd.Function):
    """float32 maps [n, c, h, w], weight and bias [c] of an instance norm -> [n, c, h / 2, w / 2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        y, moments = _halved(x), x.new_empty(2, *x.shape[:2])
        call, threads = _functions().forward, torch.get_num_threads()
        call(*_pointers(x, weight, bias, y, *moments), *x.shape, eps, threads)
        ctx.save_for_backward(x, weight, bias, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, moments = ctx.saved_tensors
        dy, dx, of_weight, of_bias = dy.contiguous(), *map(torch.empty_like, (x, weight, bias))
        call, threads = _functions().backward, torch.get_num_threads()
        call(*_pointers(dy, x, weight, bias, *moments, dx, of_weight, of_bias), *x.shape, threads)
        return dx, of_weight, of_bias, None


def _halved(x: Tensor) -> Tensor:
    """Room for the pooled maps of `x`."""
    n, c, h, w = x.shape
    return x.new_empty(n, c, h // 2, w // 2)


def _pointers(*tensors: Tensor) -> list[int]:
    return [t.data_ptr() for t in tensors]
