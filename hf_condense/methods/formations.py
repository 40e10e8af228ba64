"""First images from whole real ones: which ones, and several in each as tiles that students enlarge (IDC, arXiv:2205.14959)."""

from __future__ import annotations

import numpy as np

from hf_condense.config import check
from hf_condense.data.crops import centre
from hf_condense.methods.base import Context
from hf_condense.plan import Shard, Start
from hf_condense.selection.centres import medoids
from hf_condense.selection.features import features_of
from hf_condense.selection.real import need_images, random_rows
from hf_condense.selection.realism import cell_rows, realistic_images, scaled_down, tile


def check_divides(field: str, factor: int, size: int) -> None:
    """Raises ConfigError for tiles that students would not cut as they were laid."""
    check(size % factor == 0, field, factor, f"a divisor of {size}, the side of the images in pixels")


def medoid_rows(shard: Shard, context: Context, each: int = 1) -> np.ndarray:
    """Rows of real images of a shard's class, those nearest to k-means centres in features of the first observer.

    Args:
        each: real images in one of the shard's; the class has enough of them.
    """
    rows = context.train.rows_of(shard.labels[0])
    known = features_of(context.observers[0].model, context.train, rows, context.image_size, context.device)
    return rows[medoids(known, len(shard.labels) * each, context.key / shard.id).numpy()]


def easy_rows(shard: Shard, context: Context, each: int, candidates: int) -> np.ndarray:
    """Rows of real images of a shard's class, those that the first observer is surest of; the surest come first.

    Args:
        each: real images in one of the shard's; the class has enough of them.
        candidates: random images of the class that are looked at.
    """
    return realistic_images(
        context.train,
        shard.labels[0],
        len(shard.labels) * each,
        context.observers[0].model,
        size=context.image_size,
        candidates=candidates,
        key=context.key / shard.id,
        device=context.device,
        precision=context.precision,
    )


def tiles_of_rows(rows: np.ndarray, context: Context, factor: int = 1, nearest: bool = False) -> Start:
    """The real images of these rows, `factor` x `factor` in a first image; cell k of image j is row k * images + j.

    Args:
        nearest: they are scaled down to the nearest pixel, without smoothing.
    """
    size, count = context.image_size, len(rows) // factor**2
    images = centre(context.train.images(rows), size).contiguous()
    if factor > 1:
        images = tile(scaled_down(images, factor, size, nearest=nearest), count, factor, size)
    return Start(images, cell_rows(rows, count))


def tiles_of_random(shard: Shard, context: Context, factor: int, remedy: str, antialias: bool = False) -> Start:
    """`factor` x `factor` random real images of its class in each image of a shard, no image twice.

    Args:
        remedy: advice to the user where a class has too few images.
        antialias: how they are scaled down: smoothed, or to the nearest pixel.

    Raises:
        DataError: a class has too few images.
    """
    train, size, count, each = context.train, context.image_size, len(shard.labels), factor**2
    need_images(train, count, each, shard.labels[0], remedy)
    rows = random_rows(train, shard.labels * each, context.key / shard.id)
    if antialias:
        return tiles_of_rows(rows, context, factor)
    images = centre(train.images(rows), size).contiguous()  # of which `tile` takes the nearest pixels
    return Start(tile(images, count, factor, size), cell_rows(rows, count))
