"""Herding: the images whose running mean stays closest to the mean of the class (arXiv:1611.07725, algorithm 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def herding(features: torch.Tensor, count: int, normalise: bool = False) -> torch.Tensor:
    """Indices int64 [count] of distinct rows of `features` [n, d]; fewer are the first of more.

    Pick k is the free row i with the smallest ||k mu - (sum of picks so far + f_i)||, mu the mean of all rows. Sums
    are taken in float64. Ties go to the row that comes first.

    Args:
        normalise: put every row on the unit sphere first, as iCaRL does; condensation papers do not.
    """
    features = features.double()
    if normalise:
        features = F.normalize(features)
    mean, squares = features.mean(0), features.square().sum(1)
    total, taken = torch.zeros_like(mean), torch.zeros(len(features), dtype=torch.bool, device=features.device)
    picks = features.new_empty(count, dtype=torch.int64)
    for k in range(count):
        # ||t - f||² without the term that is the same for all rows
        distances = squares - 2 * features @ ((k + 1) * mean - total)
        pick = distances.masked_fill(taken, torch.inf).argmin()
        picks[k], taken[pick] = pick, True
        total += features[pick]
    return picks
