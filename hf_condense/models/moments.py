"""First and second moments of a batch of feature maps, and their gradient: two reads forward, one pass back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOOP_FROM = 2**14  # elements of one image's feature map from which a loop over images (which stays in cache) pays


def moments(z: Tensor, patch: int | None, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
    """E[z] and E[z²] of z [n, C, H, W] for consecutive groups of rows: [groups, C (+ cells)] each."""
    first, second = [], []
    with torch.autocast(z.device.type, enabled=False):  # a mean in half precision would be lost
        for rows in z.split(list(groups)):
            for total, out in zip(_sums(rows), (first, second)):
                out.append(_reduce(total, patch) / len(rows))
            if patch and not _divides(z, patch):  # patches of the resized map: its squares are not in the sums
                resized = _resize(rows, patch)
                n = resized.shape[0] * resized.shape[1]
                for power, out in ((resized, first), (resized * resized, second)):
                    out[-1] = torch.cat([out[-1], _cells(power.sum((0, 1)) / n, patch)])
    return torch.stack(first), torch.stack(second)


def _divides(z: Tensor, patch: int) -> bool:
    return z.shape[-2] % patch == 0 and z.shape[-1] % patch == 0


def _resize(z: Tensor, patch: int) -> Tensor:
    size = [-(-side // patch) * patch for side in z.shape[-2:]]
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return F.interpolate(z.to(dtype), size, mode="bilinear", align_corners=False)


def _in_memory_order(z: Tensor) -> tuple[Tensor, bool]:
    """[n, C, H, W] in its memory layout: unchanged, or [n, H, W, C] (reducing across strides is ten times slower)."""
    last = z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
    return (z.permute(0, 2, 3, 1), True) if last else (z, False)


def _sums(z: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the images of z and of z²: [C, H, W] each. Everything after these two reads is small."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    rows, last = _in_memory_order(z)
    if z.device.type != "cpu":
        first, second = rows.sum(0, dtype=dtype), torch.linalg.vector_norm(rows, dim=0, dtype=dtype).square()
    elif rows[0].numel() < LOOP_FROM:
        rows = rows.to(dtype)
        first, second = rows.sum(0), (rows * rows).sum(0)
    else:
        first, second = torch.zeros(2, *rows.shape[1:], dtype=dtype).unbind(0)
        for row in rows.unbind(0) if rows.dtype == dtype else (row.to(dtype) for row in rows.unbind(0)):
            first.add_(row)
            second.addcmul_(row, row)
    return (first.permute(2, 0, 1), second.permute(2, 0, 1)) if last else (first, second)


def _reduce(mean: Tensor, patch: int | None) -> Tensor:
    """A map [C, H, W] to channel means and, where the map divides, cell means: [C (+ cells)]."""
    channels = mean.mean((1, 2))
    if not patch or not _divides(mean, patch):
        return channels
    return torch.cat([channels, _cells(mean.mean(0), patch)])


def _cells(mean: Tensor, patch: int) -> Tensor:
    """[H, W] to the means of its patch x patch cells, row by row."""
    h, w = mean.shape
    return mean.view(h // patch, patch, w // patch, patch).mean((1, 3)).flatten()


def _spread(gradient: Tensor, shape: Sequence[int], patch: int | None) -> Tensor:
    """The adjoint of `_reduce` (and of the mean over all but rows): [C (+ cells)] to a contiguous map [C, H, W]."""
    c, h, w = shape
    spread = (gradient[:c] / (h * w)).view(c, 1, 1)
    if len(gradient) > c:
        spread = spread + _spread_cells(gradient[c:] / c, h, w, patch)
    return spread.expand(c, h, w).contiguous()


def _spread_cells(gradient: Tensor, h: int, w: int, patch: int) -> Tensor:
    """The adjoint of `_cells`: [cells] to [H, W]."""
    cells = (gradient / patch**2).view(h // patch, 1, w // patch, 1)
    return cells.expand(-1, patch, -1, patch).reshape(h, w)


class Tap(torch.autograd.Function):
    """Passes z through and gives its moments. All of their gradient is one update: grad + A + B * z, with A and B of
    the shape of one image's map, whatever the batch."""

    @staticmethod
    def forward(ctx, z: Tensor, patch: int | None, groups: tuple[int, ...]):
        ctx.save_for_backward(z)
        ctx.patch, ctx.groups = patch, groups
        ctx.set_materialize_grads(False)
        return z, *moments(z, patch, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, grad_first: Tensor | None, grad_second: Tensor | None):
        if grad_first is None and grad_second is None:
            return grad, None, None
        (z,) = ctx.saved_tensors
        like = grad_first if grad_first is not None else grad_second
        grad_first = torch.zeros_like(like) if grad_first is None else grad_first
        grad_second = torch.zeros_like(like) if grad_second is None else grad_second
        out, at = torch.empty_like(z), 0
        for i, n in enumerate(ctx.groups):
            rows = slice(at, at + n)
            _backward_rows(
                z[rows],
                None if grad is None else grad[rows],
                grad_first[i] / n,
                2 * grad_second[i] / n,
                ctx.patch,
                out[rows],
            )
            at += n
        return out, None, None


def _backward_rows(
    z: Tensor, grad: Tensor | None, grad_first: Tensor, grad_second: Tensor, patch: int | None, out: Tensor
) -> None:
    """Writes the gradient of one group of rows to `out`; `grad_second` comes doubled, both divided by the rows."""
    c = z.shape[1]
    if patch and not _divides(z, patch):
        through_resize = _resized_gradient(z, grad_first[c:] / c, grad_second[c:] / c, patch)
        grad = through_resize.to(z.dtype) if grad is None else grad + through_resize.to(grad.dtype)
        grad_first, grad_second = grad_first[:c], grad_second[:c]
    shift, scale = (_spread(g, z.shape[1:], patch) for g in (grad_first, grad_second))
    rows, last = _in_memory_order(z)
    if last:
        shift, scale = (t.permute(1, 2, 0).contiguous() for t in (shift, scale))
        out, grad = out.permute(0, 2, 3, 1), None if grad is None else grad.permute(0, 2, 3, 1)
    if z.device.type == "cpu" and shift.numel() >= LOOP_FROM and z.dtype == shift.dtype:
        for row, target, more in zip(rows.unbind(0), out.unbind(0), grad.unbind(0) if grad is not None else repeat(0)):
            torch.addcmul(shift, scale, row, out=target).add_(more)
    else:
        total = torch.addcmul(shift, scale, rows.to(shift.dtype))
        out.copy_(total if grad is None else total.add_(grad))


def _resized_gradient(z: Tensor, grad_first: Tensor, grad_second: Tensor, patch: int) -> Tensor:
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        resized = _resize(leaf, patch)
    h, w = resized.shape[-2:]
    shift, scale = (_spread_cells(g, h, w, patch) for g in (grad_first, grad_second))
    return torch.autograd.grad(resized, leaf, torch.addcmul(shift, scale, resized.detach()))[0]
