"""Training on a set that was made in stages: the images of each stage of a student's training.

PDD (arXiv:2310.06982): a student trains on the first stage's images, goes on with those of two, and so on.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["cumulative", "new_only", "last_only"]


def stage_rows(stages: Tensor, mode: Mode = "cumulative") -> list[Tensor]:
    """The rows (int64, CPU) that each stage of the training sees, in the order of the stages.

    Args:
        stages: int64 [N], the stage in which each image was made.
        mode: "cumulative" shows a stage's images and all earlier ones, "new_only" those of the stage, "last_only" has
            one stage with all images.
    """
    stages = stages.cpu()
    if mode == "last_only":
        return [torch.arange(len(stages))]
    seen = torch.le if mode == "cumulative" else torch.eq
    return [seen(stages, stage).nonzero().flatten() for stage in stages.unique().tolist()]
