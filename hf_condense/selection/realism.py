"""RDED's choice of crops: those that an observer finds easiest to tell the class of (arXiv:2312.03526)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hf_condense.data.crops import random_boxes
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.errors import DataError
from hf_condense.models.loading import ImageModel

SCORE_BATCH = 256


def realistic_crops(
    source: ImageSource,
    label: int,
    count: int,
    observer: ImageModel,
    *,
    size: int,
    factor: int,
    candidates: int,
    crops: int,
    key: Key,
    device: torch.device,
) -> tuple[torch.Tensor, np.ndarray]:
    """`count` images of a class, each tiled from `factor` x `factor` crops of as many different real images.

    Of every candidate image `crops` random square crops are scored and the easiest is kept; the easiest
    `count * factor**2` images are tiled, cell k of image j holding rank k * count + j (rded.md section 2).

    Returns:
        images uint8 [count, C, size, size] and the source row of the first cell of each.

    Raises:
        DataError: the class has too few images.
    """
    rows = source.rows_of(label)
    needed = count * factor**2
    if needed > len(rows):
        raise DataError(
            "ipc", count, f"at most {len(rows) // factor**2} at rded_factor {factor}: class "
            f"{source.class_names[label]!r} has {len(rows)} images", "choose a smaller --ipc or --rded_factor",
        )  # fmt: skip
    rows = rows[(key / "pool").permutation(len(rows))[: max(candidates, needed)]]
    side = -(-size // factor)
    pieces = torch.empty(len(rows), crops, source.channels, side, side, dtype=torch.uint8)
    for i, row in enumerate(rows):
        pieces[i] = _crops(source.native(int(row)), crops, side, key / "crop" / int(row))
    scores = cross_entropy_of(pieces.flatten(0, 1), label, observer, size, device).view(len(rows), crops)
    best, which = scores.min(1)
    order = torch.from_numpy(np.argsort(best.numpy(), kind="stable"))[:needed]
    return tile(pieces[order, which[order]], count, factor, size), rows[order[:count].numpy()]


def _crops(image: Image.Image, count: int, side: int, key: Key) -> torch.Tensor:
    """`count` random square crops [count, C, side, side] of one image, decoded once."""
    boxes = random_boxes(key, count, image.height, image.width, scale=(0.08, 1.0), ratio=(1.0, 1.0))
    pieces = [
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)))
        for top, left, height, width in boxes.tolist()
    ]
    stack = torch.from_numpy(np.stack(pieces))
    return stack.unsqueeze(1) if stack.ndim == 3 else stack.permute(0, 3, 1, 2)


@torch.inference_mode()
def cross_entropy_of(
    pieces: torch.Tensor, label: int, observer: ImageModel, size: int, device: torch.device
) -> torch.Tensor:
    """Cross-entropy [n] to `label` of uint8 pieces, each shown in the middle of a canvas of the mean colour."""
    observer = observer.to(device)
    edge = (size - pieces.shape[-1]) // 2
    losses = []
    for batch in pieces.split(SCORE_BATCH):
        canvas = observer.mean.view(1, -1, 1, 1).expand(len(batch), -1, size, size)
        if canvas.shape[1] != batch.shape[1]:  # grey pieces before an RGB observer's adapter
            canvas = canvas.mean(1, keepdim=True)
        canvas = canvas.clone()
        end = edge + batch.shape[-1]
        canvas[..., edge:end, edge:end] = batch.to(device).float() / 255
        target = torch.full((len(batch),), label, device=device)
        losses.append(F.cross_entropy(observer(canvas).float(), target, reduction="none").cpu())
    return torch.cat(losses)


def tile(pieces: torch.Tensor, count: int, factor: int, size: int) -> torch.Tensor:
    """Sorted pieces [count * factor**2, C, s, s] to images [count, C, size, size]; cell k (row-major) of image j is
    piece k * count + j. Where `size` does not divide, the first cells are one pixel larger."""
    extra = size % factor
    sizes = [size // factor + (i < extra) for i in range(factor)]
    bounds = np.cumsum([0, *sizes])
    images = pieces.new_empty(count, pieces.shape[1], size, size)
    for k in range(factor**2):
        top, left = bounds[k // factor], bounds[k % factor]
        height, width = sizes[k // factor], sizes[k % factor]
        cell = pieces[k * count : (k + 1) * count]
        if cell.shape[-2:] != (height, width):
            cell = F.interpolate(cell, (height, width), mode="nearest")
        images[..., top : top + height, left : left + width] = cell
    return images
