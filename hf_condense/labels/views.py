"""Training views of a set, determined by (key, epoch, batch): equal arguments give equal batches on any process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, Views, apply_views, draw_views, mixed_targets
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.training import Batch

# students of one seed see the same views in every row and regime: one after another, they are drawn once
_drawn = lru_cache(maxsize=4096)(draw_views)


def leaves_one(images: int, batch_size: int) -> bool:
    """Whether the last batch would be one image, on which batch norms cannot train, and another can join it."""
    return images % batch_size == 1 and images > batch_size > 2


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Images in each batch of an epoch, or in each part of a batch.

    The last may be short, but does not have one image if the batch before can give it another.
    """
    whole, left = divmod(images, batch_size)
    if leaves_one(images, batch_size):
        return [batch_size] * (whole - 1) + [batch_size - 1, 2]
    return [batch_size] * whole + [left] * (left > 0)


def epoch_batches(key: Key, epoch: int, images: int, batch_size: int, limit: int | None = None) -> list[Tensor]:
    """Row numbers (int64, CPU) of each batch of an epoch: a new order every epoch, sizes as in `batch_sizes`.

    Args:
        images: how many there are.
        limit: most batches an epoch; the rest of the order is left out.
    """
    order = torch.from_numpy((key / "order" / epoch).permutation(images))
    if limit is not None:
        order = order[: limit * batch_size]
    return list(order.split(batch_sizes(len(order), batch_size)))


def epoch_views(
    policy: ViewPolicy,
    key: Key,
    epoch: int,
    images: int,
    height: int,
    width: int,
    batch_size: int,
    limit: int | None = None,
) -> Iterator[tuple[Tensor, Views]]:
    """(rows int64 [b], views) of each batch of an epoch, on the CPU, for `images` images of height x width pixels."""
    for number, rows in enumerate(epoch_batches(key, epoch, images, batch_size, limit)):
        yield rows, _drawn(policy, key / "views" / epoch / number, len(rows), height, width)


def view_batches(
    images: Tensor,
    labels: Tensor,
    policy: ViewPolicy,
    key: Key,
    epoch: int,
    batch_size: int,
    *,
    device: torch.device | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Tensor, Views, Batch]]:
    """One epoch of augmented batches.

    Args:
        images: uint8, or float unit pixels, [N, C, S, S], on `device` or on the CPU.
        labels: int64 [N], on the device of the images.
        policy: how views are drawn.
        key: determines order and views; teachers and students with the same key see the same batches.
        device: where views are made; defaults to that of the images.
        limit: most batches an epoch.

    Yields:
        (rows int64 [b] on the CPU, their views, the batch without soft labels)
    """
    for rows, views in epoch_views(policy, key, epoch, len(images), *images.shape[-2:], batch_size, limit):
        yield rows, views, render(images, labels, rows, views, policy, device)


def render(
    images: Tensor, labels: Tensor, rows: Tensor, views: Views, policy: ViewPolicy, device: torch.device | None = None
) -> Batch:
    """The batch of these `views`: rows of `images` augmented and mixed on `device`."""
    device = device or images.device
    here = to_device(rows, images.device)
    pixels = apply_views(unit_pixels(images.index_select(0, here), device), views, policy)
    partner, lam = mixed_targets(views)
    if partner is not None:
        partner = to_device(partner, device)
    return Batch(pixels, to_device(labels.index_select(0, here), device), partner, lam)


def part_size(batch_size: int, accumulation: int) -> int:
    """Images that pass a network at once where a batch of `batch_size` is cut for gradient accumulation."""
    return -(-batch_size // accumulation)


def slices(batch: Batch, size: int) -> Iterator[Batch]:
    """`batch` in parts of at most `size` images (`batch_sizes`). Those of a mixed batch have no partners: only soft
    labels fit them."""
    if size >= len(batch.labels):
        yield batch
        return
    sizes = batch_sizes(len(batch.labels), size)
    soft = batch.soft.split(sizes) if batch.soft is not None else [None] * len(sizes)
    for images, labels, part in zip(batch.images.split(sizes), batch.labels.split(sizes), soft):
        yield replace(batch, images=images, labels=labels, partner=None, soft=part)
