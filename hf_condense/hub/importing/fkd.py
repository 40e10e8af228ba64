"""Official soft-label folders (`epoch_*/batch_*.tar` of FKD and its descendants) as a label store with explicit views.

SRe2L, CDA and LPLD leave it to the sampler which image a label belongs to: it is drawn again here, with their seed.
G-VBSM and EDC write it into the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, Views
from hf_condense.errors import ArtefactError
from hf_condense.files import check_inside
from hf_condense.hub.importing.restricted import read_untrusted
from hf_condense.labels.store import LabelStore, write_given

SEED = 42  # of the sampler in the official scripts
PROBED = 3  # epochs whose labels are compared with the classes of the images before anything is written
SURE = 4.0  # standard deviations above chance
COPY, GIVE = "copy the folder again", "give the images that these labels were made for"


@dataclass
class FkdEpoch:
    """The views of one epoch and the teacher's logits [b, K] for each batch; `order`: rows of the images, int64 [N],
    where the files say so."""

    batches: list[tuple[Views, Tensor]]
    order: Tensor | None


@dataclass(frozen=True)
class FkdFolder:
    """Label files for `count` images of `side` pixels and `classes` classes, with numbers that run from 0 on."""

    path: Path
    count: int
    classes: int
    side: int

    @property
    def epochs(self) -> list[Path]:
        """A folder for each epoch."""
        return _numbered(self.path, "epoch_*")

    def files(self, epoch: Path) -> list[Path]:
        """A file for each batch."""
        return _numbered(epoch, "batch_*.tar")

    def read(self, epoch: Path) -> FkdEpoch:
        """One epoch, checked.

        Raises:
            ArtefactError: a file that is missing, damaged or unsafe, or labels of other images.
        """
        found = [self._batch(file) for file in self.files(epoch)]
        lengths = [views.count for views, _, _ in found]
        _need(sum(lengths) == self.count, epoch, "labels", f"of {sum(lengths)} images", f"of {self.count} images")
        _need(set(lengths[:-1]) <= {lengths[0]}, epoch, "batches", lengths, "batches of one size, the last one short")
        _need(lengths[-1] <= lengths[0], epoch, "batches", lengths, "a last batch that is not longer")
        kinds = {_mixing(views) for views, _, _ in found}
        _need(len(kinds) == 1, epoch, "mixing", sorted(kinds), "one kind of mixing")
        indices = [index for _, _, index in found if index is not None]
        order = torch.cat(indices) if indices else None
        if order is not None:
            every = torch.equal(order.sort().values, torch.arange(self.count))
            _need(every, epoch, "rows", f"up to {int(order.max())}", f"each of the rows 0 to {self.count - 1} once")
        return FkdEpoch([(views, logits) for views, logits, _ in found], order)

    def _batch(self, file: Path) -> tuple[Views, Tensor, Tensor | None]:
        fields = read_untrusted(check_inside(self.path, file))
        try:
            return self._views(file, fields)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # text in place of numbers
            raise ArtefactError(str(file), str(error), "fields as the official scripts write them", COPY) from None

    def _views(self, file: Path, fields: Any) -> tuple[Views, Tensor, Tensor | None]:
        """(views, logits, rows or None) of one file; entries after the rows are ignored."""
        listed = isinstance(fields, (list, tuple)) and len(fields) >= 6
        _need(listed, file, "fields", type(fields).__name__, "a list of 6 or more", COPY)
        crops, flips, partner, lam, box, logits, *rest = fields
        _need(_shape(logits, 2)[1] == self.classes, file, "logits", _shape(logits, 2), f"[b, {self.classes} classes]")
        half = logits.dtype in (torch.float16, torch.float32) and bool(logits.isfinite().all())
        _need(half, file, "logits", logits.dtype, "finite numbers of half or single precision")
        b, side = len(logits), self.side
        _need(_shape(crops, 2) == [b, 4], file, "coordinates", _shape(crops, 2), [b, 4])
        _need(_shape(flips, 1) == [b], file, "flips", _shape(flips, 1), [b])
        boxes = (crops.double() * side).round().int()
        inside = (boxes >= 0).all() and (boxes[:, 2:] > 0).all() and (boxes[:, :2] + boxes[:, 2:] <= side).all()
        _need(inside, file, "coordinates", boxes.amax(0).tolist(), f"crops inside {side} x {side} pixels")
        mixed: dict[str, Any] = {}
        if partner is not None:
            each = _shape(partner, 1) == [b] and torch.equal(partner.sort().values, torch.arange(b))
            _need(each, file, "partners", _shape(partner, 1), f"each of {b} images once")
            mixed = {"partner": partner.long(), "lam": float(lam)}
        if box is not None:
            top, left, bottom, right = (int(edge) for edge in box)  # its x counts rows
            fits = partner is not None and 0 <= top <= bottom <= side and 0 <= left <= right <= side
            _need(fits, file, "box", list(map(int, box)), f"a box inside {side} x {side} pixels, and partners")
            mixed |= {"mix_box": (top, left, bottom, right), "lam": 1 - (bottom - top) * (right - left) / side**2}
        _need(0 <= mixed.get("lam", 1.0) <= 1, file, "weight", mixed.get("lam"), "0 to 1")
        index = rest[0].long() if rest and rest[0] is not None else None
        _need(index is None or _shape(index, 1) == [b], file, "rows", rest and _shape(rest[0], 1), [b])
        return Views(count=b, boxes=boxes, flips=flips.bool(), **mixed), logits, index


def write_fkd_store(source: Path, target: Path, images: Tensor, labels: Tensor, num_classes: int) -> LabelStore:
    """Writes the views and logits of `source` as a store in `target`.

    In the files crops are shares of the image; they are rounded as in the official code; views have the
    side of the images. A student sees the same views up to the resize (the official code uses PIL's).

    Args:
        images: uint8 [N, C, S, S] in the order of torchvision's ImageFolder; `labels` their classes, int64 [N].

    Raises:
        ArtefactError: a missing, damaged or unsafe file; labels of another number of images or classes; labels that agree
            with the classes of the images no better than chance, which are those of other images.
    """
    n, _, side, width = images.shape
    _need(side == width, source, "images", list(images.shape), "square images: crops are shares of one side")
    fkd = FkdFolder(source, n, num_classes, side)
    folders = fkd.epochs
    probed = [fkd.read(folder) for folder in folders[:PROBED]]
    drawn = find_orders(probed, labels, len(folders), source)
    first, logits = probed[0].batches[0]
    kind = _mixing(first)

    def given(epoch: int) -> Iterator[tuple[Tensor, Views, Tensor]]:
        found = fkd.read(folders[epoch])
        mixing = _mixing(found.batches[0][0])
        _need(mixing == kind, folders[epoch], "mixing", mixing, f"{kind}, as in the first epoch")
        return _with_rows(found, drawn[epoch] if found.order is None else found.order)

    policy = ViewPolicy(side, crop=(0.08, 1.0), mix=kind)  # replay takes only size and kind of mixing from it
    teacher = {"members": [], "average": "unknown", "bn": "unknown", "precision": "unknown"}
    dtype = str(logits.dtype).removeprefix("torch.")
    return write_given(
        target, images, policy, len(folders), first.count, num_classes, given, teacher=teacher, dtype=dtype
    )


def find_orders(probed: list[FkdEpoch], labels: Tensor, epochs: int, source: Path) -> list[Tensor]:
    """The rows (int64 [N]) of every epoch as the official sampler draws them; empty where the files contain them.

    The sampler makes two permutations an epoch and uses the first, or makes one with old versions of torch; the one
    with the better agreement of labels and classes is taken.

    Raises:
        ArtefactError: labels and classes agree no better than chance.
    """
    written = [epoch.order for epoch in probed if epoch.order is not None]
    drawn = [] if written else [sampler_orders(len(labels), epochs, draws) for draws in (2, 1)]
    found = [(agreement(probed, orders, labels), orders) for orders in drawn or [written]]
    agree, orders = max(found, key=lambda pair: pair[0])
    chance = float((torch.bincount(labels).double() / len(labels)).square().sum())
    if probed[0].batches[0][0].partner is not None:
        chance = 1 - (1 - chance) ** 2
    limit = min(0.99, chance + SURE * (chance * (1 - chance) / (len(labels) * len(probed))) ** 0.5)
    said = f"{agree:.0%} of the largest logits are of the image's class, {chance:.0%} would be by chance"
    _need(agree > limit, source, "labels", said, f"labels of these images (above {limit:.0%})")
    return [] if written else orders


def sampler_orders(count: int, epochs: int, draws: int) -> list[Tensor]:
    """Permutations of `count` rows, one an epoch, of a generator that makes `draws` of them in each."""
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randperm(count, generator=generator) for _ in range(epochs * draws)][::draws]


def agreement(epochs: list[FkdEpoch], orders: list[Tensor], labels: Tensor) -> float:
    """Share of views whose largest logit is the class of the image or, where mixed, of the one mixed in."""
    hits = []
    for epoch, order in zip(epochs, orders):
        for rows, views, logits in _with_rows(epoch, order):
            own, top = labels[rows], logits.argmax(1)
            other = own if views.partner is None else own[views.partner]
            hits.append((top == own) | (top == other))
    return float(torch.cat(hits).double().mean())


def _with_rows(epoch: FkdEpoch, order: Tensor) -> Iterator[tuple[Tensor, Views, Tensor]]:
    """(rows int64 [b], views, logits) of each batch, as `epoch_table` takes them."""
    for rows, (views, logits) in zip(order.split([views.count for views, _ in epoch.batches]), epoch.batches):
        yield rows, views, logits


def _mixing(views: Views) -> str:
    return "none" if views.partner is None else "mixup" if views.mix_box is None else "cutmix"


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Files or folders of that pattern in the order of their numbers."""
    numbers = {int(m[1]): p for p in folder.glob(pattern) if (m := re.fullmatch(r"[a-z]+_(\d+)(\.tar)?", p.name))}
    missing = next((n for n in range(max(numbers, default=0) + 1) if n not in numbers), None)
    if missing is not None:
        place = folder / pattern.replace("*", str(missing))
        raise ArtefactError(str(place), "missing", "numbers that run from 0 on without a gap", COPY)
    return [numbers[n] for n in sorted(numbers)]


def _shape(value: Any, axes: int) -> list[int]:
    """The shape of a tensor with this number of axes; zeros for anything else."""
    return list(value.shape) if isinstance(value, Tensor) and value.ndim == axes else [0] * axes


def _need(holds: Any, place: Path, field: str, found: Any, allowed: Any, next_step: str = GIVE) -> None:
    if not holds:
        raise ArtefactError(f"{place}: {field}", found, str(allowed), next_step)
