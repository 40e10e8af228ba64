"""Views: augmentations are drawn on the CPU with named keys, then applied to a whole batch on its device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.crops import axis_matrices, check_boxes, look_at, random_boxes, resample
from hf_condense.data.formation import tile_bounds
from hf_condense.data.rand_augment import apply_rand_augment, draw_ops
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device

VIEW_VERSION = 1  # raised when an equal key no longer gives equal views
ROW_BLOCK = 256  # rows of a dataset whose views are drawn together in `row_views`


@dataclass(frozen=True)
class ViewPolicy:
    """Augmentation settings of views.

    The order of operations is: RandAugment, patch shuffle, pad-and-crop, crop and resize, flip, roll, mix.

    Args:
        size: output side in pixels.
        tiles: tiles per side of an image that is made of several (f): the crop is drawn inside one of the f x f tiles, so
            that a view shows one of them. Not together with `pad` and `shuffle`, which move the borders.
        tile_share: probability that it is drawn inside a tile; otherwise in the whole image.
        crop: smallest and largest area of a random resized crop (a share of the image), or None for the whole image.
        ratio: smallest and largest width / height of that crop.
        flip: probability of a horizontal flip.
        pad: pixels of padding of a pad-and-crop (the crop has the size of the input).
        fill: value of the padding in unit pixels, one for each channel; defaults to black.
        roll: largest cyclic shift in pixels; drawn from -roll_back..roll for rows and for columns (SRe2L, G-VBSM).
        roll_back: largest cyclic shift the other way.
        shuffle: strips into which columns, then rows are cut and shuffled (RDED); 1 leaves the image as it is.
        rand_augment: (operations an image, magnitude 0..30), or None.
        mix: "none", "cutmix" or "mixup"; one partner order, weight and box for the batch.
        mix_alpha: of the Beta distribution of the mixing weight.
        mix_probability: share of batches that are mixed.
        per: "image" draws for every image, "batch" draws once and treats all images alike.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    size: int
    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    pad: int = 0
    fill: tuple[float, ...] | None = None
    roll: int = 0
    roll_back: int = 0
    shuffle: int = 1
    tiles: int = 1
    tile_share: float = 1.0
    rand_augment: tuple[int, int] | None = None
    mix: str = "none"
    mix_alpha: float = 1.0
    mix_probability: float = 1.0
    per: str = "image"

    def __post_init__(self) -> None:
        for name in ("crop", "ratio", "fill", "rand_augment"):  # lists, as they come back from JSON and YAML
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        check(self.size >= 1, "size", self.size, "1 pixel or more")
        crop = self.crop is None or (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1)
        check(crop, "crop", self.crop, "(smallest, largest) share of the area, above 0 and up to 1")
        ratio = len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]
        check(ratio, "ratio", self.ratio, "(smallest, largest) width / height, above 0")
        check(0 <= self.flip <= 1, "flip", self.flip, "a probability")
        for name, least in (("pad", 0), ("roll", 0), ("roll_back", 0), ("shuffle", 1), ("tiles", 1)):
            check(getattr(self, name) >= least, name, getattr(self, name), f"{least} or more")
        still = self.tiles == 1 or (self.pad == 0 and self.shuffle == 1)
        check(still, "tiles", self.tiles, "1 with pad or shuffle, which move the borders of tiles")
        check(0 <= self.tile_share <= 1, "tile_share", self.tile_share, "a probability")
        rand = self.rand_augment is None or (
            len(self.rand_augment) == 2 and self.rand_augment[0] >= 1 and 0 <= self.rand_augment[1] <= 30
        )
        check(rand, "rand_augment", self.rand_augment, "(operations, magnitude): 1 or more, and 0 to 30")
        check(self.mix in ("none", "cutmix", "mixup"), "mix", self.mix, "none, cutmix, mixup")
        check(self.mix_alpha > 0, "mix_alpha", self.mix_alpha, "above 0")
        check(0 <= self.mix_probability <= 1, "mix_probability", self.mix_probability, "a probability")
        check(self.per in ("image", "batch"), "per", self.per, "image, batch")


@dataclass
class Views:
    """The drawn augmentation of each of `count` images. Tensors are on the CPU; None if the policy does not use them.

    Args:
        count: number of images.
        boxes: int32 [n, 4] crop: top, left, height, width.
        flips: bool [n] horizontal flip.
        offsets: int32 [n, 2] row and column at which the pad-and-crop starts in the padded image.
        rolls: int32 [n, 2] cyclic shift down and to the right, in pixels.
        strips: int32 [n, 2, f] for rows and columns: which strip of the image stands at each place.
        ops: int32 [n, k] RandAugment operations, numbered as `rand_augment.OPS`.
        signs: int32 [n, k] +1 or -1, the direction of the operation where it has one.
        partner: int64 [n] the image that each is mixed with.
        lam: weight of the image itself; with CutMix the share of its pixels that remain.
        mix_box: CutMix box (top, left, bottom, right) in the output, the last two exclusive.
    """

    count: int
    boxes: Tensor
    flips: Tensor
    offsets: Tensor | None = None
    rolls: Tensor | None = None
    strips: Tensor | None = None
    ops: Tensor | None = None
    signs: Tensor | None = None
    partner: Tensor | None = None
    lam: float = 1.0
    mix_box: tuple[int, int, int, int] | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dict of tensors, without what the policy does not use."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        kinds = {"count": torch.int64, "lam": torch.float64, "mix_box": torch.int32}
        return {
            name: torch.as_tensor(value, dtype=kinds.get(name)) for name, value in found.items() if value is not None
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Views:
        """The views that `to_tensors` was called on."""
        plain = {"count": int, "lam": float, "mix_box": lambda t: tuple(t.tolist())}
        return cls(**{name: plain.get(name, torch.Tensor.cpu)(value) for name, value in tensors.items()})

    def rows(self, index: Tensor) -> Views:
        """The views of some of the images, in that order. Raises ValueError for mixed views: partners would be lost."""
        if self.partner is not None:
            raise ValueError("views that mix images belong to their whole batch")
        parts = {name: value[index] for name, value in per_image(self).items()}
        return replace(self, count=len(index), **parts)


def per_image(views: Views) -> dict[str, Tensor]:
    """The tensors of `views` that have a row for each image."""
    return {f.name: v for f in fields(views) if isinstance(v := getattr(views, f.name), Tensor)}


def draw_views(policy: ViewPolicy, key: Key, n: int, height: int, width: int) -> Views:
    """Draws the views of n images of height x width pixels. Equal keys give equal views, on any process, in any order."""
    m = n if policy.per == "image" else min(n, 1)
    boxes = np.tile(np.array([0, 0, height, width], np.int32), (m, 1))
    if policy.tiles > 1:
        boxes = tile_boxes(policy, key / "tile", m, height, width)
    if policy.crop is not None:
        inside = random_boxes(key / "crop", m, boxes[:, 2], boxes[:, 3], policy.crop, policy.ratio)
        inside[:, :2] += boxes[:, :2]
        boxes = inside
    drawn: dict[str, np.ndarray] = {"boxes": boxes, "flips": (key / "flip").uniform(m) < policy.flip}
    if policy.pad:
        drawn["offsets"] = (key / "pad").numpy().integers(0, 2 * policy.pad + 1, (m, 2), dtype=np.int32)
    if policy.roll or policy.roll_back:
        low, high = -policy.roll_back, policy.roll + 1
        drawn["rolls"] = (key / "roll").numpy().integers(low, high, (m, 2), dtype=np.int32)
    if policy.shuffle > 1:
        drawn["strips"] = (key / "shuffle").uniform(m, 2, policy.shuffle).argsort(-1).astype(np.int32)
    if policy.rand_augment is not None:
        drawn["ops"], drawn["signs"] = draw_ops(key / "rand_augment", m, policy.rand_augment[0])
    tensors = {name: torch.from_numpy(np.repeat(v, n, 0) if m != n else v) for name, v in drawn.items()}
    return Views(count=n, **tensors, **draw_mix(policy, key / "mix", n))


def tile_boxes(policy: ViewPolicy, key: Key, n: int, height: int, width: int) -> np.ndarray:
    """One tile (`tile_bounds`) of each of n images, or the whole image: int32 [n, 4] top, left, height, width."""
    f, axes = policy.tiles, []
    check(f <= min(height, width), "tiles", f, f"up to {min(height, width)}, the side of the images in pixels")
    places = np.unravel_index((key / "which").numpy().integers(0, f * f, n), (f, f))
    for place, extent in zip(places, (height, width)):
        bounds = tile_bounds(extent, f)
        axes.append((bounds[place], np.diff(bounds)[place]))
    (top, h), (left, w) = axes
    tiles, whole = np.stack((top, left, h, w), 1), np.array([0, 0, height, width])
    return np.where((key / "whether").uniform(n)[:, None] < policy.tile_share, tiles, whole).astype(np.int32)


def draw_mix(policy: ViewPolicy, key: Key, n: int) -> dict:
    """Partners, weight and box of one batch, as keyword arguments of `Views`."""
    if policy.mix == "none" or n == 0:
        return {}
    if policy.mix_probability < 1 and (key / "whether").uniform() >= policy.mix_probability:
        # every image is its own partner, so that all batches of a store have the same columns
        return {"partner": torch.arange(n)} | ({"mix_box": (0, 0, 0, 0)} if policy.mix == "cutmix" else {})
    stream = key.numpy()
    lam, centre = float(stream.beta(policy.mix_alpha, policy.mix_alpha)), stream.random(2)
    partner = torch.from_numpy(stream.permutation(n))
    if policy.mix == "mixup":
        return {"partner": partner, "lam": lam}
    top, left, bottom, right = cutmix_box(lam, centre, policy.size)
    own = 1 - (bottom - top) * (right - left) / policy.size**2
    return {"partner": partner, "lam": own, "mix_box": (top, left, bottom, right)}


def cutmix_box(lam: float, centre: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """The CutMix box (top, left, bottom, right): a square of area 1 - lam around `centre` (in [0, 1)^2), cut at the border."""
    side = int(size * np.sqrt(1 - lam))
    starts = [int(c * size) - side // 2 for c in centre]
    top, left = (max(0, s) for s in starts)
    # a side of 2 * (side // 2), as the published CutMix
    bottom, right = (min(size, s + 2 * (side // 2)) for s in starts)
    return top, left, bottom, right


def row_views(policy: ViewPolicy, key: Key, rows: np.ndarray | Tensor, height: int, width: int) -> Views:
    """Draws the views of numbered rows of a dataset: each row has its own view, whatever batch it comes in.

    Args:
        rows: int64 [n] row numbers.
        height, width: sides of the images in pixels.

    Raises:
        ValueError: the policy mixes images or treats a batch alike, which ties a view to its batch.
    """
    if policy.mix != "none" or policy.per != "image":
        raise ValueError("views of rows need mix='none' and per='image'")
    rows = torch.as_tensor(rows)
    blocks, place = (rows // ROW_BLOCK).unique(return_inverse=True)
    drawn = [per_image(draw_views(policy, key / int(block), ROW_BLOCK, height, width)) for block in blocks]
    index = place * ROW_BLOCK + rows % ROW_BLOCK
    return Views(count=len(rows), **{name: torch.cat([d[name] for d in drawn])[index] for name in drawn[0]})


def views_of(views: Views, part: slice) -> Views:
    """The views of some images of a batch that is not mixed, each image with a view of its own."""
    drawn = {name: tensor[part] for name, tensor in per_image(views).items()}
    return Views(count=part.stop - part.start, **drawn)


def apply_views(images: Tensor, views: Views, policy: ViewPolicy) -> Tensor:
    """Makes the views of a batch. Differentiable in the images.

    Args:
        images: float [n, C, H, W] in unit pixels, of the size the views were drawn for. Views that treat all images
            alike and do not mix fit any number of images.
        views: the drawn augmentation of each image.
        policy: the policy the views were drawn with.

    Returns:
        float [n, C, size, size] on the device of the images; the images themselves where nothing changes.

    Raises:
        ValueError: the views do not fit the images.
    """
    return view_maker(images, views, policy)(images)


def view_maker(like: Tensor, views: Views, policy: ViewPolicy) -> Callable[[Tensor], Tensor]:
    """`apply_views` for several batches of the size, type and device of `like`; what they share is made once."""
    axes = view_axes(like, views, policy)
    n = max((len(rows) for rows in (*axes, views.partner) if rows is not None), default=1)
    fill = None
    if policy.fill is not None and views.offsets is not None:  # the matrices pad with 0
        fill = to_device(torch.tensor(policy.fill, dtype=like.dtype), like.device).view(-1, 1, 1)

    def make(images: Tensor) -> Tensor:
        if views.ops is not None:
            images = apply_rand_augment(images, views.ops, views.signs, policy.rand_augment[1])
        if n not in (1, len(images)):
            raise ValueError(f"{len(images)} images do not fit {views.count} views")
        images = resample(images, *axes) if fill is None else resample(images - fill, *axes) + fill
        return images if views.partner is None else mix_images(images, views)

    return make


def view_axes(images: Tensor, views: Views, policy: ViewPolicy) -> list[Tensor | None]:
    """Row and column matrices of everything between RandAugment and mixing: none of it mixes the two."""
    check_boxes(views.boxes, *images.shape[-2:])
    axes = []
    for axis, extent in enumerate(images.shape[-2:]):
        index = torch.arange(policy.size)[None]
        if views.rolls is not None:
            index = (index - views.rolls[:, axis, None]) % policy.size
        if axis == 1:
            index = torch.where(views.flips[:, None], policy.size - 1 - index, index)
        centres = look_at(index, views.boxes[:, axis], views.boxes[:, axis + 2], policy.size)
        positions = torch.arange(extent)[None]
        if views.strips is not None:
            positions = shuffled_positions(views.strips[:, axis], extent)
        if views.offsets is not None:
            positions = positions + policy.pad - views.offsets[:, axis, None]
        axes.append((centres, positions))
    return axis_matrices(axes, images)


def shuffled_positions(strips: Tensor, extent: int) -> Tensor:
    """Where each of `extent` pixels stands ([n, extent]) once strip strips[:, i] has moved to place i.

    Where the strips do not divide the extent, the first ones are a pixel longer.
    """
    f = strips.shape[1]
    lengths = torch.full((f,), extent // f)
    lengths[: extent % f] += 1
    strips = strips.long()
    moved = lengths[strips]
    begins = torch.empty_like(moved).scatter_(1, strips, moved.cumsum(1) - moved)
    strip_of = torch.repeat_interleave(torch.arange(f), lengths)
    inside = torch.arange(extent) - (lengths.cumsum(0) - lengths)[strip_of]
    return begins[:, strip_of] + inside


def mix_images(images: Tensor, views: Views) -> Tensor:
    """CutMix or MixUp of a batch with its own permutation."""
    partner = to_device(views.partner, images.device)
    if views.mix_box is None:
        return torch.lerp(images[partner], images, views.lam)
    top, left, bottom, right = views.mix_box
    patch = images[:, :, top:bottom, left:right].index_select(0, partner)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = patch
    return mixed


def mixed_targets(views: Views) -> tuple[Tensor | None, float]:
    """Partner (int64 [n], or None) and label weight by area: target = lam * label + (1 - lam) * partner's label."""
    return views.partner, views.lam
