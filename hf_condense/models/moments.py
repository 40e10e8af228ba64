"""First and second moments of the inputs of all layers of a network, from their sums: layers of one shape together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_condense.data.upload import to_device
from hf_condense.models.sums import Sums, cell_means


class Moments(NamedTuple):
    """E[z] and E[z²] of a layer's input: of its channels [2, G, C], and of its cells [2, G, cells] where it has some."""

    channels: Tensor
    cells: Tensor | None


def moments(layers: Sequence[Sums]) -> list[Moments]:
    """The moments of every layer. Layers of equal shape are worked on together."""
    if not layers:
        return []
    forms = tuple((sums.groups, sums.last, sums.patch) for sums in layers)
    found = iter(Reduce.apply(forms, *(sums.totals for sums in layers)))
    channels = [next(found) for _ in layers]
    cells = [next(found) if sums.patch else sums.resized for sums in layers]
    return [Moments(*pair) for pair in zip(channels, cells)]


class Reduce(torch.autograd.Function):
    """Totals of all layers to their channel moments, then their cell moments where they have a patch.

    Layers of one shape are stacked, so that the number of operations is that of shapes, not of layers.
    """

    @staticmethod
    def forward(ctx, forms: tuple, *totals: Tensor):
        ctx.stacks = _stacks(forms, [t.shape for t in totals])
        pairs = [tuple(pair) for pair in totals]
        if totals[0].device.type != "cpu":
            roots = [root for _, root in pairs]
            pairs = [(first, second) for (first, _), second in zip(pairs, torch._foreach_mul(roots, roots))]
        channels, cells = [], []
        for stack in ctx.stacks:
            maps = torch.stack([part for i in stack.layers for part in pairs[i]]).unflatten(0, (-1, 2))
            channels.append(maps.mean((-3, -2) if stack.last else (-2, -1)))
            if stack.celled:
                rows = maps[: stack.celled].mean(-1 if stack.last else -3)
                cells.append(cell_means(rows, stack.patch))
        divided = _over([*channels, *cells], [s.groups for s in (*ctx.stacks, *_with_cells(ctx.stacks))])
        return (*_in_order(ctx.stacks, divided), *_in_order(_with_cells(ctx.stacks), divided[len(ctx.stacks) :]))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        of_channels = grads[: sum(len(s.layers) for s in ctx.stacks)]
        numbers = sorted(i for s in ctx.stacks for i in s.layers[: s.celled])
        of_cells = dict(zip(numbers, grads[len(of_channels) :]))
        celled = _with_cells(ctx.stacks)
        above = [torch.stack([of_channels[i] for i in s.layers]) for s in ctx.stacks]
        above += [torch.stack([of_cells[i] for i in s.layers[: s.celled]]) for s in celled]
        above = _over(above, [s.groups for s in (*ctx.stacks, *celled)])
        channels = torch._foreach_div(above[: len(ctx.stacks)], [s.pixels for s in ctx.stacks])
        cells = {}
        if celled:
            each = torch._foreach_div(above[len(ctx.stacks) :], [s.channels for s in celled])
            cells = dict(zip(map(id, celled), torch._foreach_div(each, [s.patch**2 for s in celled])))
        maps = {}
        for stack, gradient in zip(ctx.stacks, channels):
            maps.update(zip(stack.layers, _spread(gradient, cells.get(id(stack)), stack)))
        return None, *(maps[i] for i in range(len(maps)))


class _Stack(NamedTuple):
    """Layers of one shape, by number: the `celled` first of them have cells."""

    layers: tuple[int, ...]
    celled: int
    groups: tuple[int, ...]
    last: bool
    patch: int | None
    map: tuple[int, int, int]  # of one group, in memory order

    @property
    def channels(self) -> int:
        return self.map[2 if self.last else 0]

    @property
    def pixels(self) -> int:
        return math.prod(self.map) // self.channels


def _stacks(forms: Sequence[tuple], shapes: Sequence[torch.Size]) -> list[_Stack]:
    found: dict[tuple, list[int]] = {}
    for number, ((groups, last, _), shape) in enumerate(zip(forms, shapes)):
        found.setdefault((groups, last, tuple(shape[2:])), []).append(number)
    stacks = []
    for (groups, last, shape), numbers in found.items():
        celled = [i for i in numbers if forms[i][2]]
        order = (*celled, *(i for i in numbers if not forms[i][2]))
        stacks.append(_Stack(order, len(celled), groups, last, forms[order[0]][2], shape))
    return stacks


def _with_cells(stacks: Sequence[_Stack]) -> list[_Stack]:
    return [stack for stack in stacks if stack.celled]


def _in_order(stacks: Sequence[_Stack], values: Sequence[Tensor]) -> list[Tensor]:
    """The layers of every stack (or those with cells), in the order of their numbers."""
    found = {i: value for stack, parts in zip(stacks, values) for i, value in zip(stack.layers, parts)}
    return [found[i] for i in sorted(found)]


def _over(sums: Sequence[Tensor], groups: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
    """Sums [layers, 2, G, ...] of each stack divided by the images of their group."""
    if all(len(set(counts)) == 1 for counts in groups):
        return torch._foreach_div(sums, [counts[0] for counts in groups])
    counts = (to_device(torch.tensor(c, dtype=s.dtype), s.device).view(-1, 1) for c, s in zip(groups, sums))
    return [part / images for part, images in zip(sums, counts)]


def _spread(channels: Tensor, cells: Tensor | None, stack: _Stack) -> list[Tensor]:
    """The gradients of channels [layers, 2, G, C] and cells [layers, 2, G, cells] as maps, a layer after another."""
    shape = (*channels.shape[1:3], *stack.map)
    plain = channels[..., None, None, :] if stack.last else channels[..., None, None]
    if cells is None:
        return list(plain.expand(-1, *shape))
    h, w = stack.map[:2] if stack.last else stack.map[1:]
    side = stack.patch
    shown = cells.unflatten(-1, (h // side, 1, w // side, 1)).expand(-1, -1, -1, -1, side, -1, side)
    if stack.last:
        both = channels[: stack.celled, ..., None, None, None, None, :] + shown[..., None]
    else:
        both = channels[: stack.celled, ..., None, None, None, None] + shown.unsqueeze(3)
    return [*both.reshape(-1, *shape), *plain[stack.celled :].expand(-1, *shape)]
