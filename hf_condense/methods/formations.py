"""First images that hold several real ones as tiles, which students enlarge again (IDC, arXiv:2205.14959, section 3.2)."""

from __future__ import annotations

from hf_condense.data.crops import centre
from hf_condense.methods.base import Context
from hf_condense.plan import Shard, Start
from hf_condense.selection.real import need_images, random_rows
from hf_condense.selection.realism import cell_rows, scaled_down, tile


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
    images = centre(train.images(rows), size).contiguous()
    pieces = scaled_down(images, factor, size) if antialias else images  # `tile` takes the nearest pixels
    return Start(tile(pieces, count, factor, size), cell_rows(rows, count))
