"""The plain formulations that figures and tests compare with: one layer, one statistic, one image at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_patches(z: Tensor, patch: int) -> Tensor:
    """[n, C, H, W] to [cells, n * C * patch * patch], the map resized first where it does not divide."""
    n, c, h, w = z.shape
    size = [-(-side // patch) * patch for side in (h, w)]
    if size != [h, w]:
        z = F.interpolate(z, size, mode="bilinear", align_corners=False)
    rows, columns = size[0] // patch, size[1] // patch
    z = z.reshape(n, c, rows, patch, columns, patch).permute(2, 4, 0, 1, 3, 5)
    return z.reshape(rows * columns, -1)


def plain_statistics(z: Tensor, patch: int | None) -> list[Tensor]:
    """Channel mean and variance [C] and, with a patch size, cell mean and variance [cells] of a batch."""
    found = [z.mean((0, 2, 3)), z.permute(1, 0, 2, 3).reshape(z.shape[1], -1).var(1, correction=0)]
    if patch is not None:
        cells = plain_patches(z, patch)
        found += [cells.mean(1), cells.var(1, correction=0)]
    return found


class PlainHook:
    """Statistic matching of one layer, its norms added one by one; momentum starts at the first batch's statistics."""

    def __init__(self, module: nn.Module, patch: int, targets: list[list[Tensor]], alpha: float, momentum: float):
        self.patch = patch if isinstance(module, nn.Conv2d) else None
        self.targets, self.shares, self.momentum = targets, (alpha, 1 - alpha), momentum
        self.running: list[Tensor] | None = None
        self.loss: Tensor | None = None
        self.handle = module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple) -> None:
        now = plain_statistics(args[0], self.patch)
        if self.running is None:
            self.running = [a.detach() for a in now]
        else:
            self.running = [self.momentum * r + (1 - self.momentum) * a.detach() for r, a in zip(self.running, now)]
        through = [r + a - a.detach() for r, a in zip(self.running, now)]
        self.loss = sum(
            share * sum(torch.linalg.vector_norm(t - a) for t, a in zip(targets, through))
            for share, targets in zip(self.shares, self.targets)
        )


def plain_targets(layout, mean: Tensor, var: Tensor, layer: str) -> list[Tensor]:
    """Flat targets [D] as the list of `plain_statistics` for one layer."""
    found = []
    for s in layout.segments:
        if s.layer == layer:
            found += [mean[s.start : s.stop], var[s.start : s.stop]]
    return found


class PlainClassSums:
    """Class sums over the real data, image by image: n, E[z] and E[z²] of every channel and cell of one layer.

    Each image gives mean and variance (as published), whose second moment is variance + mean². With `squares` it gives
    mean and mean square instead, which is quicker on a CPU.
    """

    def __init__(self, module: nn.Module, patch: int, squares: bool = False) -> None:
        self.patch, self.squares = patch if isinstance(module, nn.Conv2d) else None, squares
        self.counts: dict[int, int] = {}
        self.sums: dict[int, list[Tensor]] = {}
        self.labels: Tensor | None = None
        self.handle = module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple) -> None:
        for image, label in zip(args[0], self.labels):
            c = label.item()
            found = self._moments(image)
            self.counts[c] = self.counts.get(c, 0) + 1
            self.sums[c] = [a + b for a, b in zip(self.sums[c], found)] if c in self.sums else found

    def _moments(self, image: Tensor) -> list[Tensor]:
        if not self.squares:
            found = [f.double() for f in plain_statistics(image[None], self.patch)]
            return [f for mean, var in zip(found[::2], found[1::2]) for f in (mean, var + mean.square())]
        found = [image.mean((1, 2)), image.square().mean((1, 2))]
        if self.patch is not None:
            cells = plain_patches(image[None], self.patch)
            found += [cells.mean(1), cells.square().mean(1)]
        return [f.double() for f in found]
