"""Sums over the images of one layer's feature maps, from two reads, and their gradient in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_condense.precision import autocast

LOOP_FROM = 2**14  # elements of one image's feature map from which a loop over images (which stays in cache) pays


class Sums(NamedTuple):
    """What is read of a layer's input z [n, C, H, W], whose rows are cut into G groups.

    Args:
        totals: [2, G, C, H, W], sums over the images of a group of z and of z²; [2, G, H, W, C] where it is `last`. On
            devices other than a CPU the second is the root of the sum, as its reduction gives it, and is squared for
            all layers at once; gradients are those of the sum.
        resized: [2, G, cells], the cell moments, where the map does not divide into cells and is resized; else None.
        groups: images of each group.
        last: whether z is channels-last in memory.
        patch: side of the cells that `totals` are averaged in; None where they give channels alone.
    """

    totals: Tensor
    resized: Tensor | None
    groups: tuple[int, ...]
    last: bool
    patch: int | None


def read(z: Tensor, patch: int | None, groups: tuple[int, ...]) -> tuple[Tensor | None, Sums]:
    """The sums of z [n, C, H, W] for consecutive groups of rows, and z as the next layer has to take it.

    Returns:
        (z that carries the gradient of all that is computed from the sums, or None where there is none; the sums)
    """
    divided = patch if patch and divides(z, patch) else None
    resize = patch if patch and not divided else None
    last = _in_memory_order(z)[1]
    if torch.is_grad_enabled() and z.requires_grad:
        tapped, totals, resized = Tap.apply(z, resize, groups)
        return tapped, Sums(totals, resized, groups, last, divided)
    return None, Sums(_totals(z, groups), _resized_cells(z, resize, groups), groups, last, divided)


class Tap(torch.autograd.Function):
    """Passes z through and gives its sums. All of their gradient is one update: grad + A + B * z, with A and B of the
    shape of one image's map, whatever the batch."""

    @staticmethod
    def forward(ctx, z: Tensor, resize: int | None, groups: tuple[int, ...]):
        ctx.save_for_backward(z)
        ctx.resize, ctx.groups = resize, groups
        ctx.set_materialize_grads(False)
        return z, _totals(z, groups), _resized_cells(z, resize, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, grad_totals: Tensor | None, grad_resized: Tensor | None):
        (z,) = ctx.saved_tensors
        if grad_resized is not None:
            through = _resized_gradient(z, grad_resized, ctx.resize, ctx.groups)
            grad = through if grad is None else grad + through.to(grad.dtype)
        if grad_totals is None:
            return grad, None, None
        out = torch.empty_like(z)
        parts = (t.split(list(ctx.groups)) for t in (z, out))
        grads = repeat(None) if grad is None else grad.split(list(ctx.groups))
        for rows, target, above, shift, scale in zip(*parts, grads, *grad_totals):
            _backward_rows(rows, above, shift, scale, target)
        return out, None, None


def cell_means(mean: Tensor, patch: int) -> Tensor:
    """[..., H, W] to the means of its patch x patch cells, row by row: [..., cells]."""
    h, w = mean.shape[-2:]
    return mean.view(*mean.shape[:-2], h // patch, patch, w // patch, patch).mean((-3, -1)).flatten(-2)


def divides(z: Tensor, patch: int) -> bool:
    """Whether maps [n, C, H, W] divide into cells of `patch` x `patch` pixels."""
    return z.shape[-2] % patch == 0 and z.shape[-1] % patch == 0


def _in_memory_order(z: Tensor) -> tuple[Tensor, bool]:
    """[n, C, H, W] in its memory layout: unchanged, or [n, H, W, C] (reducing across strides is ten times slower)."""
    last = z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
    return (z.permute(0, 2, 3, 1), True) if last else (z, False)


def _precise(z: Tensor) -> torch.dtype:
    """The type of sums: a mean in half precision would be lost."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def _totals(z: Tensor, groups: Sequence[int]) -> Tensor:
    """Sums over the images of each group of z and of z², in memory order. Everything after these reads is small."""
    rows = _in_memory_order(z)[0]
    found = torch.empty(2, len(groups), *rows.shape[1:], dtype=_precise(z), device=z.device)
    with autocast(z.device, False):
        for part, first, second in zip(rows.split(list(groups)), *found):
            _add_up(part, first, second)
    return found


def _add_up(rows: Tensor, first: Tensor, second: Tensor) -> None:
    """Writes the sums over rows of z and of z² to `first` and `second`; the root of the latter, as `Sums` says."""
    dtype = first.dtype
    if rows.device.type != "cpu":
        torch.sum(rows, 0, dtype=dtype, out=first)
        torch.linalg.vector_norm(rows, dim=0, dtype=dtype, out=second)
    elif rows[0].numel() < LOOP_FROM:
        rows = rows.to(dtype)
        torch.sum(rows, 0, out=first)
        torch.sum(rows * rows, 0, out=second)
    else:
        first.zero_()
        second.zero_()
        for row in rows.unbind(0) if rows.dtype == dtype else (row.to(dtype) for row in rows.unbind(0)):
            first.add_(row)
            second.addcmul_(row, row)


def _backward_rows(z: Tensor, grad: Tensor | None, shift: Tensor, scale: Tensor, out: Tensor) -> None:
    """Writes grad + shift + 2 * scale * z of one group of rows to `out`; shift and scale are maps in memory order."""
    rows, last = _in_memory_order(z)
    if last:
        out, grad = out.permute(0, 2, 3, 1), None if grad is None else grad.permute(0, 2, 3, 1)
    if z.device.type == "cpu" and shift.numel() >= LOOP_FROM and z.dtype == shift.dtype:
        shift, scale = shift.contiguous(), scale.contiguous()
        for row, target, above in zip(rows.unbind(0), out.unbind(0), repeat(0) if grad is None else grad.unbind(0)):
            torch.addcmul(shift, scale, row, value=2, out=target).add_(above)
        return
    total = torch.addcmul(shift, scale, rows.to(shift.dtype), value=2)
    if grad is None:
        out.copy_(total)
    else:
        torch.add(total, grad, out=out)


def _resize(z: Tensor, patch: int) -> Tensor:
    size = [-(-side // patch) * patch for side in z.shape[-2:]]
    return F.interpolate(z.to(_precise(z)), size, mode="bilinear", align_corners=False)


def _resized_cells(z: Tensor, patch: int | None, groups: Sequence[int]) -> Tensor | None:
    """Cell moments [2, G, cells] of maps that do not divide: their squares are not in the totals."""
    if patch is None:
        return None
    found = []
    with autocast(z.device, False):
        for rows in z.split(list(groups)):
            resized = _resize(rows, patch)
            n = resized.shape[0] * resized.shape[1]
            found.append(torch.stack([cell_means(p.sum((0, 1)) / n, patch) for p in (resized, resized * resized)]))
    return torch.stack(found, 1)


def _spread_cells(gradient: Tensor, h: int, w: int, patch: int) -> Tensor:
    """The adjoint of `_cells`: [cells] to [H, W]."""
    cells = (gradient / patch**2).view(h // patch, 1, w // patch, 1)
    return cells.expand(-1, patch, -1, patch).reshape(h, w)


def _resized_gradient(z: Tensor, gradient: Tensor, patch: int, groups: Sequence[int]) -> Tensor:
    """The gradient in z of `_resized_cells`."""
    found = []
    for rows, *parts in zip(z.split(list(groups)), *gradient):
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_(True)
            resized = _resize(leaf, patch)
        n, c, h, w = resized.shape
        shift, scale = (_spread_cells(part / n / c, h, w, patch) for part in parts)
        above = torch.addcmul(shift, scale, resized.detach(), value=2)
        found.append(torch.autograd.grad(resized, leaf, above)[0])
    return torch.cat(found) if len(found) > 1 else found[0]
