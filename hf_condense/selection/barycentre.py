"""The equal-weight points that stand for a cloud of features: its Wasserstein barycentre of k points (arXiv:2311.18531)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hf_condense.selection.centres import farthest_first

EXACT_UP_TO = 2000  # rows whose assignment is solved exactly
STEPS = 50  # of assignment and means; a start that still moves then is used as it is


def barycentre(features: Tensor, count: int) -> Tensor:
    """Points float64 [count, d] that minimise W_2² to the rows of `features` [n, d], each with the same mass: k-means whose
    clusters have equal sizes (floor or ceil of n / count).

    Found from two starts, of which the better result is taken: farthest-first rows, and equal slices along the first
    principal axis. Nothing is drawn, so a permutation, a shift or a rotation of the rows gives the same points, permuted,
    shifted or rotated. They come in the order of their distance to the mean of all rows.

    Args:
        count: at most n.
    """
    x = features.double().cpu()
    centre = x.mean(0)
    x = x - centre
    starts = [x[farthest_first(x, count)], _slices(x, count)]
    points = min((_balanced(x, start) for start in starts), key=lambda found: found[1])[0]
    return points[points.square().sum(1).argsort(stable=True)] + centre


def squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """[n, k] between rows of x [n, d] and points [k, d]."""
    return (x.square().sum(1)[:, None] - 2 * x @ points.mT + points.square().sum(1)).clamp(min=0)


def _slices(x: Tensor, count: int) -> Tensor:
    axis = torch.linalg.svd(x, full_matrices=False)[2][0]
    parts = (x @ axis).argsort(stable=True).tensor_split(count)
    return torch.stack([x[rows].mean(0) for rows in parts])


def _balanced(x: Tensor, points: Tensor) -> tuple[Tensor, float]:
    """Points after steps of assignment and means, and the cost of the last assignment."""
    cost = math.inf
    for _ in range(STEPS):
        distances = squared_distances(x, points)
        share = _assigned(distances) if len(x) <= EXACT_UP_TO else _transported(distances)
        found = float((share * distances).sum())
        if found >= cost * (1 - 1e-12):
            break
        cost, points = found, share.mT @ x / share.sum(0)[:, None]
    return points, cost


def _assigned(distances: Tensor) -> Tensor:
    """Zeros and ones [n, k] of the cheapest assignment in which each point has floor(n / k) or ceil(n / k) rows."""
    from scipy.optimize import linear_sum_assignment

    n, k = distances.shape
    least, more = divmod(n, k)
    costs = np.repeat(distances.numpy(), least + (more > 0), axis=1)  # a slot for each row that a point may have
    if more:
        # rows that stand for none fill the last slot of k - more points
        last = np.arange(costs.shape[1]) % (least + 1) == least
        costs = np.vstack([costs, np.where(last, 0.0, np.inf)[None].repeat(k - more, 0)])
    rows, slots = linear_sum_assignment(costs)
    share = torch.zeros(n, k, dtype=torch.float64)
    real = rows < n
    share[rows[real], slots[real] // (least + (more > 0))] = 1
    return share


def _transported(distances: Tensor, share: float = 0.01, steps: int = 1000, tolerance: float = 1e-6) -> Tensor:
    """An entropic plan [n, k] with row sums 1 and equal column sums (Sinkhorn), entropy weighing `share` of the mean cost."""
    n, k = distances.shape
    kernel = -distances / (share * distances.mean())
    columns = torch.zeros(k, dtype=torch.float64)
    for _ in range(steps):
        rows = -torch.logsumexp(kernel + columns, 1)
        columns = math.log(n / k) - torch.logsumexp(kernel + rows[:, None], 0)
        plan = (kernel + rows[:, None] + columns).exp()
        if float((plan.sum(1) - 1).abs().max()) < tolerance:
            break
    return plan
