"""Images as a pyramid of small pictures: what is learned is coarse first, and the finest level has the side of the image."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.data.spaces import PixelSpace
from hf_condense.data.upload import to_device

# rows are red, green, blue; columns are the axes along which colours of natural images vary most, the largest one first
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))


class PyramidPixels(PixelSpace):
    """unit = sigmoid(2 M (up(p_1) + ... + up(p_L))), levels p_l of side 1, 2, 4 ... (Linear Gradient Matching, arXiv:2511.16674).

    `up` enlarges bilinearly to the side of the image, M mixes colours (the identity for grey images). z [n, C, m] holds the
    levels one after the other, flattened, so that its length says how many there are. It begins with the level of side 1,
    and grows until the last level has the side of the image.

    Args:
        channels: 1 or 3.
        side: of the images in pixels.
        grow_every: steps from one new level to the next.
    """

    def __init__(self, channels: int, side: int, grow_every: int, device: torch.device) -> None:
        self.side, self.grow_every = side, grow_every
        self.sides = [2**level for level in range(math.ceil(math.log2(side)))] + [side]
        matrix = torch.tensor(COLOURS, dtype=torch.float64)
        matrix = matrix / matrix.norm(dim=0).max() if channels == 3 else torch.eye(channels, dtype=torch.float64)
        self.colours, self.without_colours = (to_device(m, device) for m in (matrix, torch.linalg.inv(matrix)))
        self.axes = {small: to_device(axis(small, side), device) for small in self.sides}

    def initial(self, first: Tensor) -> Tensor:
        """The level of side 1, which gives each picture the mean colour of its first image."""
        return self._before_colours(first.mean((2, 3), keepdim=True)).flatten(2)

    def encode(self, unit: Tensor) -> Tensor:
        """A pyramid whose last level holds all of the image, the others being zero."""
        last = self._before_colours(unit).flatten(2)
        return torch.cat([last.new_zeros(*last.shape[:2], sum(s * s for s in self.sides[:-1])), last], 2)

    def decode(self, z: Tensor) -> Tensor:
        field = sum(self.enlarge(level) for level in self.levels(z))
        return torch.sigmoid(2 * torch.einsum("rc,ncij->nrij", self.colours.to(z.dtype), field))

    def vjp(self, z: Tensor, gradient: Tensor) -> Tensor:
        picture = self.decode(z)
        inner = 2 * gradient * picture * (1 - picture)
        inner = torch.einsum("rc,nrij->ncij", self.colours.to(z.dtype), inner)
        axes = [self.axes[level.shape[-1]].to(z.dtype) for level in self.levels(z)]
        # by products, which are deterministic on a GPU too
        return torch.cat([(axis.mT @ inner @ axis).flatten(2) for axis in axes], 2)

    def clamp_(self, z: Tensor) -> None:
        """Every z decodes into [0, 1]."""

    def grown(self, z: Tensor, step: int, key: Key) -> Tensor | None:
        """With one level more after every `grow_every` steps: of L + 1 levels, noise is one part and what is there L."""
        count = len(self.levels(z))
        if (step + 1) % self.grow_every or count == len(self.sides):
            return None
        side = self.sides[count]
        noise = (key / "level" / count).numpy().standard_normal((*z.shape[:2], side * side))
        return torch.cat([z * count, to_device(torch.from_numpy(noise).to(z.dtype), z.device)], 2) / (count + 1)

    def levels(self, z: Tensor) -> list[Tensor]:
        """The levels [n, C, s, s] of z [n, C, m]."""
        sizes, left = [], z.shape[2]
        while left > 0:
            sizes.append(self.sides[len(sizes)] ** 2)
            left -= sizes[-1]
        sides = [self.sides[i] for i in range(len(sizes))]
        return [part.unflatten(2, (s, s)) for part, s in zip(z.split(sizes, 2), sides)]

    def enlarge(self, level: Tensor) -> Tensor:
        """[n, C, s, s] -> [n, C, side, side]."""
        matrix = self.axes[level.shape[-1]].to(level.dtype)
        return matrix @ level @ matrix.mT

    def _before_colours(self, unit: Tensor) -> Tensor:
        half = torch.logit(unit.clamp(1e-4, 1 - 1e-4)) / 2
        return torch.einsum("cr,nrij->ncij", self.without_colours.to(unit.dtype), half)


@cache
def axis(small: int, side: int) -> Tensor:
    """The matrix float64 [side, small] of a bilinear enlargement along one axis."""
    eye = torch.eye(small, dtype=torch.float64)[:, None, :]
    return F.interpolate(eye, size=side, mode="linear", align_corners=False)[:, 0].mT.contiguous()
