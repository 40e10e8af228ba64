"""First images from real crops that an observer ranks: those of RDED, and an option of EDC and SRe2L++."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hf_condense.methods.base import Context
from hf_condense.plan import Shard, Start
from hf_condense.selection.realism import images_ranked, realistic_crops


def crops_looked_at(settings: Any, real: int, ipc: int) -> float:
    """Crops that `ranked_patches` ranks in a class of `real` images."""
    return images_ranked(settings.rded_candidates, ipc * settings.rded_factor**2, real) * settings.rded_crops


def ranked_patches(
    shard: Shard,
    context: Context,
    settings: Any,
    difficulty: Literal["easy", "medium"] = "easy",
    pool: np.ndarray | None = None,
) -> Start:
    """First images of a start shard of one class, tiled from crops that the first observer ranks.

    Args:
        settings: have `rded_factor`, `rded_candidates` and `rded_crops`.
        difficulty: take the easiest crops, or those in the middle of the ranking.
        pool: places in the class of the images that are cut; by default random ones.

    Raises:
        DataError: the class has too few images.
    """
    return Start(
        *realistic_crops(
            context.train,
            shard.labels[0],
            len(shard.labels),
            context.observers[0].model,
            size=context.image_size,
            factor=settings.rded_factor,
            candidates=settings.rded_candidates,
            crops=settings.rded_crops,
            key=context.key / shard.id,
            device=context.device,
            difficulty=difficulty,
            precision=context.precision,
            pool=pool,
        )
    )
