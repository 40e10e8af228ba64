"""RDED's selection of crops: those of lowest cross-entropy under an observer (arXiv:2312.03526)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hf_condense.config import check
from hf_condense.data.crops import centre, random_boxes
from hf_condense.data.decoding import map_ahead, worker_count
from hf_condense.data.formation import tile_bounds
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.data.upload import to_device
from hf_condense.models.convnet import fused
from hf_condense.models.frozen import forward, freeze
from hf_condense.models.image_model import ImageModel
from hf_condense.selection.real import need_images

CHUNK = 8  # images a thread decodes and cuts at a time


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
    difficulty: Literal["easy", "medium"] = "easy",
    precision: str = "fp32",
    pool: np.ndarray | None = None,
) -> tuple[torch.Tensor, np.ndarray]:
    """`count` images of a class, each tiled from `factor` x `factor` crops of as many different real images.

    Of every candidate image `crops` random square crops are scored and the easiest is kept; `count * factor**2`
    images are tiled, cell k of image j holding rank k * count + j (rded.md section 2). Ties go to the candidate drawn
    first. The crops of an image depend on `key` and its place in the class alone, not on the other candidates or classes.

    Args:
        difficulty: which part of the ranking is tiled: its easiest images, or those in the middle (SRe2L++).
        precision: arithmetic of the observer; bf16 can change the order of crops that score nearly alike.
        pool: places in the class of the candidates, int64, in place of random ones.

    Returns:
        images uint8 [count, C, size, size] and the source rows of their cells: int64 [count], or [count, factor²].

    Raises:
        ConfigError: the crops would have no pixels.
        DataError: the class has too few images.
    """
    check(factor <= size, "rded_factor", factor, f"up to {size}, the side of the images in pixels")
    rows = source.rows_of(label)
    needed = count * factor**2
    need_images(
        source, count, factor**2, label, "a smaller --ipc or --rded_factor" if factor > 1 else "a smaller --ipc"
    )
    places = (key / "pool").permutation(len(rows)) if pool is None else pool
    places = places[: max(candidates, needed)]
    rows = rows[places]
    drawn = [(int(row), key / "crop" / int(place)) for row, place in zip(rows, places)]
    observer = freeze(observer.to(device), precision)
    scores, kept = [], []
    for pieces in _crops_of(source, drawn, crops, size // factor, least=-(-score_batch(size, device) // crops)):
        losses = cross_entropy_of(pieces.flatten(0, 1), label, observer, size, device, precision)
        best, which = losses.view(len(pieces), crops).min(1)
        scores.append(best)
        kept.append(pieces[torch.arange(len(pieces)), which])
    order = np.argsort(torch.cat(scores).numpy(), kind="stable")
    begin = (len(rows) - needed) // 2 if difficulty == "medium" else 0
    order = order[begin : begin + needed]
    return tile(torch.cat(kept)[torch.from_numpy(order)], count, factor, size), cell_rows(rows[order], count)


def images_ranked(candidates: int, needed: int, real: int) -> int:
    """How many of the `real` images of a class are looked at: `candidates`, or as many as are `needed`."""
    return min(max(candidates, needed), real)


def realistic_images(
    source: ImageSource,
    label: int,
    count: int,
    observer: ImageModel,
    *,
    size: int,
    candidates: int,
    key: Key,
    device: torch.device,
    precision: str = "fp32",
) -> np.ndarray:
    """Rows int64 [count] of the whole images of a class of lowest cross-entropy, the lowest first.

    Args:
        candidates: images that are looked at, drawn at random; at least `count`.

    Raises:
        DataError: the class has too few images.
    """
    need_images(source, count, 1, label)
    rows = source.rows_of(label)
    rows = rows[(key / "pool").permutation(len(rows))[: max(candidates, count)]]
    losses = _losses_of(source, rows, label, observer, size, device, precision)
    return rows[np.argsort(losses, kind="stable")[:count]]


def middling_images(
    source: ImageSource,
    label: int,
    count: int,
    observer: ImageModel,
    *,
    size: int,
    device: torch.device,
    precision: str = "fp32",
) -> np.ndarray:
    """Rows int64 [count] of the whole images of a class around the middle of all of them, by the probability of the class.

    The one in the middle comes first (`outwards`); fewer are the first of more. Equal probabilities keep the order of rows.

    Raises:
        DataError: the class has too few images.
    """
    need_images(source, count, 1, label)
    rows = source.rows_of(label)
    losses = _losses_of(source, rows, label, observer, size, device, precision)
    return rows[np.argsort(-losses, kind="stable")[outwards(len(rows))[:count]]]


def outwards(count: int) -> np.ndarray:
    """All places 0 to count - 1, from m = ceil(count / 2) outwards: m, m + 1, m - 1, m + 2 and so on (arXiv:2411.19946)."""
    away = np.arange(count) - -(-count // 2)
    return np.argsort(2 * np.abs(away) - (away > 0), kind="stable")


def _losses_of(
    source: ImageSource,
    rows: np.ndarray,
    label: int,
    observer: ImageModel,
    size: int,
    device: torch.device,
    precision: str,
) -> np.ndarray:
    """Cross-entropy float32 [n] of whole images to their class."""
    observer, losses = freeze(observer.to(device), precision), []
    for part in np.array_split(rows, -(-len(rows) // score_batch(size, device))):
        images = centre(source.images(part), size)
        losses.append(cross_entropy_of(images, label, observer, size, device, precision))
    return torch.cat(losses).numpy()


def score_batch(size: int, device: torch.device) -> int:
    """Batch size of canvases of side `size` in scoring: on a CPU so small that activations fit into its caches."""
    return min(1024, max(16, 2 ** (16 if device.type == "cpu" else 23) // size**2))


def _crops_of(
    source: ImageSource, drawn: list[tuple[int, Key]], crops: int, side: int, least: int
) -> Iterator[torch.Tensor]:
    """Crops uint8 [n, crops, C, side, side] of rows (each with the key of its crops) in order, `least` rows at a time.

    Threads decode and cut a little ahead of the observer; each image is decoded once and dropped at once.
    """

    def work(chunk: list[tuple[int, Key]]) -> torch.Tensor:
        pieces = torch.empty(len(chunk), crops, source.channels, side, side, dtype=torch.uint8)
        for out, (row, key) in zip(pieces, chunk):
            cut_crops(source.native(row), out, key)
        return pieces

    chunks = (drawn[a : a + CHUNK] for a in range(0, len(drawn), CHUNK))
    return _gathered(map_ahead(work, chunks, 2 * worker_count()), least)


def cut_crops(image: Image.Image, out: torch.Tensor, key: Key) -> None:
    """Fills `out`, uint8 [crops, C, side, side], with random square crops of 8 to 100 % of the image's area.

    A crop is cut first and then resized on 8 bits (bilinear with antialiasing), four times as fast as PIL and as the
    floating-point way on photos, and within a grey level of the latter. The photo is decoded at its full resolution:
    a JPEG decoder's reduced sizes are another filter, and seldom fit, as a crop can be a quarter of the side.
    """
    count, channels, side, _ = out.shape
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, channels).permute(2, 0, 1)[None]
    boxes = random_boxes(key, count, image.height, image.width, scale=(0.08, 1.0), ratio=(1.0, 1.0))
    for piece, (top, left, height, width) in zip(out, boxes.tolist()):
        cut = pixels[..., top : top + height, left : left + width]
        piece[:] = F.interpolate(cut, (side, side), mode="bilinear", antialias=True)[0]


def _gathered(parts: Iterable[torch.Tensor], least: int) -> Iterator[torch.Tensor]:
    """Consecutive parts joined until they have `least` rows; the last one may be short."""
    held: list[torch.Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= least:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)


@torch.inference_mode()
def cross_entropy_of(
    pieces: torch.Tensor, label: int, observer: ImageModel, size: int, device: torch.device, precision: str = "fp32"
) -> torch.Tensor:
    """Cross-entropy [n] to `label` of uint8 pieces, each shown in the middle of a canvas of the mean colour.

    Args:
        observer: from `freeze`, on `device`, in the same precision.
    """
    batch, channels, side = min(len(pieces), score_batch(size, device)), pieces.shape[1], pieces.shape[-1]
    colour = observer.mean.view(1, -1, 1, 1)
    if colour.shape[1] != channels:  # grey pieces before an RGB observer's adapter
        colour = colour.mean(1, keepdim=True)
    edge, losses = (size - side) // 2, []
    with fused(observer) as whole:
        # one canvas for all batches: its border never changes. Channels-last: convolutions are faster, on CPUs too, but
        # fused blocks go over one channel after another
        layout = torch.contiguous_format if whole else torch.channels_last
        canvas = torch.empty(batch, channels, size, size, device=device, memory_format=layout).copy_(colour)
        middle = canvas[..., edge : edge + side, edge : edge + side]
        for part in pieces.split(batch):
            torch.div(to_device(part, device), 255, out=middle[: len(part)])
            logits = forward(observer, canvas[: len(part)], precision)
            target = torch.full((len(part),), label, device=device)
            losses.append(F.cross_entropy(logits.float(), target, reduction="none"))
    return torch.cat(losses).cpu()


def cell_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows int64 [count * cells] in the order of `tile`'s pieces, as the rows of each image: [count], or [count, cells]."""
    return rows if len(rows) == count else rows.reshape(-1, count).T.copy()


def scaled_down(images: torch.Tensor, factor: int, size: int, nearest: bool = False) -> torch.Tensor:
    """Whole images [n, C, S, S] as pieces for `tile` [n, C, s, s]: smoothed, or to the nearest pixel."""
    side = -(-size // factor)
    return F.interpolate(images, (side, side), mode="nearest" if nearest else "bilinear", antialias=not nearest)


def tile(pieces: torch.Tensor, count: int, factor: int, size: int) -> torch.Tensor:
    """Sorted pieces [count * factor**2, C, s, s] to images [count, C, size, size]; cell k (row-major) of image j is
    piece k * count + j. Cells have the sides of `tile_bounds`."""
    bounds = tile_bounds(size, factor)
    sizes = np.diff(bounds).tolist()
    images = pieces.new_empty(count, pieces.shape[1], size, size)
    for k in range(factor**2):
        top, left = bounds[k // factor], bounds[k % factor]
        height, width = sizes[k // factor], sizes[k % factor]
        cell = pieces[k * count : (k + 1) * count]
        if cell.shape[-2:] != (height, width):
            cell = F.interpolate(cell, (height, width), mode="nearest")
        images[..., top : top + height, left : left + width] = cell
    return images
