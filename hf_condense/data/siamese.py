"""Siamese augmentation: one draw of random numbers that real and synthetic images of a class share.

Differentiable siamese augmentation (DSA, arXiv:2102.08259, section 3) and the variant of IDC (arXiv:2205.14959). Numbers
are drawn on the CPU by name, one row a group of images, and applied to all groups of a step at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.config import check, check_choices
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.precision import autocast

if TYPE_CHECKING:
    from hf_condense.data.spaces import PixelSpace

FAMILIES = ("flip", "color", "crop", "scale", "rotate", "cutout")  # in the order in which they act


@dataclass(frozen=True)
class SiamesePolicy:
    """The families of augmentation in use and how they are combined.

    The families: "flip" (horizontal, probability 1/2), "color" (brightness, saturation, contrast), "crop" (a shift with
    zeros for what comes in), "scale" (each axis alone), "rotate" (about the centre) and "cutout" (a square of zeros).
    Zero is the mean pixel, because images are normalised. The defaults are the published ranges.

    Args:
        families: those in use.
        mode: "single" applies one family, drawn uniformly (DSA). "combined" applies flip, colour and cutout always, and
            one of the others, drawn uniformly, between colour and cutout (IDC).
        family_per: "group" draws the family for each group; "call" once for all groups, whose other numbers still
            differ (the mini-batch of a network that is trained on augmented images).
        shift: largest shift of "crop", a share of the side, rounded to pixels.
        scale: smallest and largest step between looked-at pixels; above 1 an object shrinks.
        angle: largest rotation in degrees, either way.
        cutout: side of the square, a share of the image's side, rounded to pixels.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    families: tuple[str, ...]
    mode: Literal["single", "combined"] = "single"
    family_per: Literal["group", "call"] = "group"
    shift: float = 0.125
    scale: tuple[float, float] = (1 / 1.2, 1.2)
    angle: float = 15.0
    cutout: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("families", "scale"):  # lists, as they come back from JSON and YAML
            object.__setattr__(self, name, tuple(getattr(self, name)))
        wrong = [f for f in self.families if f not in FAMILIES or self.families.count(f) > 1]
        check(len(self.families) > 0, "families", self.families, f"one or more of {', '.join(FAMILIES)}")
        check(not wrong, "families", wrong, f"each at most once, of {', '.join(FAMILIES)}")
        check(0 <= self.shift <= 1, "shift", self.shift, "a share of the side")
        check(len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1], "scale", self.scale, "(smallest, largest)")
        check(0 <= self.angle <= 180, "angle", self.angle, "0 to 180 degrees")
        check(0 < self.cutout <= 1, "cutout", self.cutout, "a share of the side, above 0")

    @property
    def drawn(self) -> tuple[str, ...]:
        """The families of which one is drawn per call; the others always act."""
        listed = [f for f in FAMILIES if f in self.families]
        return tuple(f for f in listed if self.mode == "single" or f in ("crop", "scale", "rotate"))


@dataclass
class SiameseDraw:
    """The drawn augmentation of each of g groups: tensors on the CPU with a row a group, None for families not in use.

    Args:
        family: int64 [g] which of `policy.drawn` acts, or None where there is no choice to make.
        flips: bool [g].
        color: float64 [g, 3] in [0, 1): brightness, saturation, contrast.
        shifts: int64 [g, 2] rows and columns from which pixels come: output i shows input i + shift.
        scales: float64 [g, 2] step between looked-at rows and columns.
        angles: float64 [g] in degrees; above 0 the image turns counter-clockwise.
        corners: int64 [g, 2] first row and column of the cut-out square, which may begin outside.
    """

    groups: int
    family: Tensor | None = None
    flips: Tensor | None = None
    color: Tensor | None = None
    shifts: Tensor | None = None
    scales: Tensor | None = None
    angles: Tensor | None = None
    corners: Tensor | None = None


def pixels(share: float, side: int) -> int:
    """A share of a side in whole pixels, halves rounded up."""
    return int(share * side + 0.5)


def draw_siamese(policy: SiamesePolicy, key: Key, groups: int, height: int, width: int) -> SiameseDraw:
    """Draws for `groups` groups of images of height x width pixels. Equal keys give equal draws on every machine."""
    sides, found = (height, width), {}
    if policy.drawn:
        rows = groups if policy.family_per == "group" else 1
        family = (key / "family").numpy().integers(0, len(policy.drawn), rows)
        found["family"] = np.broadcast_to(family, (groups,)).copy()
    if "flip" in policy.families:
        found["flips"] = (key / "flip").uniform(groups) < 0.5
    if "color" in policy.families:
        found["color"] = (key / "color").uniform(groups, 3)
    if "crop" in policy.families:
        most = np.array([pixels(policy.shift, side) for side in sides])
        found["shifts"] = (key / "crop").numpy().integers(-most, most + 1, (groups, 2))
    if "scale" in policy.families:
        found["scales"] = (key / "scale").uniform(groups, 2, low=policy.scale[0], high=policy.scale[1])
    if "rotate" in policy.families:
        found["angles"] = (key / "rotate").uniform(groups, low=-policy.angle, high=policy.angle)
    if "cutout" in policy.families:
        cut = np.array([pixels(policy.cutout, side) for side in sides])
        # a square of even side has its centre between pixels: one more place for it, both borders included
        centres = (key / "cutout").numpy().integers(0, np.array(sides) + 1 - cut % 2, (groups, 2))
        found["corners"] = centres - cut // 2
    return SiameseDraw(groups, **{name: torch.from_numpy(value) for name, value in found.items()})


def apply_siamese(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, group_of: Tensor | None = None) -> Tensor:
    """Augments a batch in which each image follows the draw of its group. Differentiable in the images.

    Args:
        images: float [n, C, H, W], normalised (zero is the mean pixel), of the size the draw was made for.
        draw: from `draw_siamese` with this policy.
        group_of: int64 [n] row of the draw for each image, best on the CPU. By default image i has row i, or all
            images have the only row.

    Returns:
        float [n, C, H, W] on the device of the images.

    Raises:
        ValueError: images and rows do not fit.
    """
    rows = _rows(len(images), draw.groups, group_of)
    drawn = policy.drawn
    always = [f for f in FAMILIES if f in policy.families and f not in drawn]
    for family in (f for f in always if f != "cutout"):
        images = _apply(family, images, draw, policy, rows)
    if drawn and len(rows):
        images = _apply_drawn(images, draw, policy, rows)
    return _apply("cutout", images, draw, policy, rows) if "cutout" in always else images


def siamese_pixels(images: Tensor, policy: SiamesePolicy, key: Key, space: PixelSpace) -> Tensor:
    """Unit pixels float [n, C, H, W] augmented with numbers for each image: how networks are trained on them.

    Args:
        space: in which they are augmented; what is filled in is its zero, the mean of the dataset.
    """
    draw = draw_siamese(policy, key, len(images), *images.shape[-2:])
    return space.decode(apply_siamese(space.encode(images), draw, policy))


def _rows(n: int, groups: int, group_of: Tensor | None) -> Tensor:
    """int64 [n] on the CPU: the row of the draw that each image follows."""
    if group_of is None:
        if groups not in (1, n):
            raise ValueError(f"{n} images do not fit the draws of {groups} groups: say which is whose (group_of)")
        return torch.arange(n) if groups == n else torch.zeros(n, dtype=torch.int64)
    rows = group_of.cpu()
    if rows.shape != (n,) or (n and not 0 <= int(rows.min()) <= int(rows.max()) < groups):
        raise ValueError(f"group_of {tuple(rows.shape)} must give {n} images a group below {groups}")
    return rows


def _apply(family: str, images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    return _ACTIONS[family](images, draw, policy, rows)


def _apply_drawn(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    """Sorts the images by family, applies each family to its images, and restores the order: two copies in all."""
    family = draw.family[rows]
    order = family.argsort(stable=True)
    counts = family.bincount(minlength=len(policy.drawn)).tolist()
    if len(rows) in counts:
        return _apply(policy.drawn[counts.index(len(rows))], images, draw, policy, rows)
    parts = images.index_select(0, to_device(order, images.device)).split(counts)
    parts = [
        _apply(name, part, draw, policy, mine)
        for name, part, mine in zip(policy.drawn, parts, rows[order].split(counts))
        if len(mine)
    ]
    return torch.cat(parts).index_select(0, to_device(order.argsort(), images.device))


def _flip(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    return torch.where(_column(draw.flips[rows], images, torch.bool), images.flip(-1), images)


def _color(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    brightness, saturation, contrast = (_column(r, images) for r in draw.color[rows].unbind(1))
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:  # the mean of one channel is the channel
        images = torch.lerp(images.mean(1, keepdim=True), images, 2 * saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast + 0.5)


def _crop(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    shifts, (height, width) = to_device(draw.shifts[rows], images.device), images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None] + shifts[:, 0, None, None]
    x = torch.arange(width, device=images.device) + shifts[:, 1, None, None]
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    # pixels that share an index are outside, where gradients are zero: the sum has one order on every device
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None]
    shifted = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
    return shifted.masked_fill(outside[:, None], 0.0)


def _scale(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    return _look(images, torch.diag_embed(draw.scales.flip(1)), rows)


def _rotate(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    angle = torch.deg2rad(draw.angles)
    cos, sin = angle.cos(), angle.sin()
    return _look(images, torch.stack((cos, -sin, sin, cos), -1).view(-1, 2, 2), rows)


def _look(images: Tensor, turns: Tensor, rows: Tensor) -> Tensor:
    """Samples each output pixel at its position under its group's matrix [g, 2, 2] (of x and y about the centre).

    Bilinear, zeros outside. Versions of torch differ in `align_corners`; about the centre of a square image both mean
    the same. On GPUs the gradient sums in no fixed order.
    """
    with autocast(images.device, False):
        shared = len(turns) < len(rows)  # then one grid per group, else one per image
        theta = to_device(F.pad(turns if shared else turns[rows], (0, 1)).to(images.dtype), images.device)
        grid = F.affine_grid(theta, [len(theta), 1, *images.shape[-2:]], align_corners=False)
        if shared:
            grid = grid.index_select(0, to_device(rows, images.device))
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _cutout(images: Tensor, draw: SiameseDraw, policy: SiamesePolicy, rows: Tensor) -> Tensor:
    corners, inside = to_device(draw.corners[rows], images.device), []
    for axis, side in enumerate(images.shape[-2:]):
        away = torch.arange(side, device=images.device) - corners[:, axis, None]
        inside.append((away >= 0) & (away < pixels(policy.cutout, side)))
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


def _column(values: Tensor, images: Tensor, kind: torch.dtype | None = None) -> Tensor:
    """A number an image, [n, 1, 1, 1], on its device."""
    return to_device(values.to(kind or images.dtype), images.device).view(-1, 1, 1, 1)


_ACTIONS = {"flip": _flip, "color": _color, "crop": _crop, "scale": _scale, "rotate": _rotate, "cutout": _cutout}
