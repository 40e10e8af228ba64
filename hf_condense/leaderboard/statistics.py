"""Tests, ranks and equivalence of accuracies: pure functions over arrays, without a board or a file.

Accuracies are fractions. Functions broadcast: a `Moments` may hold one row, or arrays of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from hf_condense.evaluation.comparison import Moments, t_and_p, welch, welch_parts

ABOVE, SAME, BELOW = "above random", "no different from random", "below random"
AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "undecided"
DISAGREEMENT = 0.01  # adjusted p below which a verification disagrees
_BLOCK = 512  # rows whose pairs are compared at once


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's adjusted p of a family [..., k]: below alpha where the step-down procedure rejects at alpha."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, axis=-1, kind="stable")
    factor = np.arange(p.shape[-1], 0, -1)
    ordered = np.minimum(1, np.maximum.accumulate(np.take_along_axis(p, order, -1) * factor, axis=-1))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, ordered, -1)
    return adjusted


def verdicts(delta: ArrayLike, p: ArrayLike, alpha: float = 0.05) -> list[str]:
    """One verdict a column of *one* submission, from its differences [k] and unadjusted p [k]; Holm over the columns."""
    adjusted = holm(p)
    return [SAME if q > alpha else ABOVE if d > 0 else BELOW for d, q in zip(np.asarray(delta), adjusted)]


def rank_sets(rows: Moments, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """First and last rank that each of m rows may have: Welch for all pairs, Holm over the pairs.

    (Mogstad, Romano, Shaikh, Wilhelm 2024, with Holm for their step-down bootstrap.)

    Returns:
        int arrays [m]: 1 + rows that are significantly better, m - rows that are significantly worse.
    """
    m = len(rows.mean)
    pairs, ps, winners, losers = m * (m - 1) // 2, [], [], []
    blocks = [slice(start, min(start + _BLOCK, m)) for start in range(0, m, _BLOCK)]
    # a pair is rejected only below alpha / (pairs - rejections); p of Student's distribution, which takes most of the
    # time, is not needed where even the normal one, and then the largest degrees of freedom possible, are above that
    least = ndtri(1 - alpha / 2)
    most = sum(int((_squared_t(rows, block) > least**2).sum()) for block in blocks) // 2
    level = alpha / max(1, pairs - most)
    sizes = np.unique(rows.n)
    freedom = np.unique(sizes[:, None] + sizes - 2)
    critical = stdtrit(freedom, 1 - level / 2) * (1 - 1e-9)
    for block in blocks:
        bound = critical[np.searchsorted(freedom, rows.n[block, None] + rows.n - 2)]
        i, j = np.nonzero(_squared_t(rows, block) > bound**2)
        i = i + block.start
        keep = i < j
        i, j = i[keep], j[keep]
        delta, se, nu = welch_parts(rows[i], rows[j])
        ps.append(t_and_p(delta, se, nu)[1])
        winners.append(np.where(delta > 0, i, j))
        losers.append(np.where(delta > 0, j, i))
    p, winner, loser = np.concatenate(ps), np.concatenate(winners), np.concatenate(losers)
    order = np.argsort(p, kind="stable")
    below = p[order] * (pairs - np.arange(len(p))) <= alpha  # the pairs left out above have larger p than all others
    rejected = order[: len(below) if below.all() else int(np.argmin(below))]
    better = np.bincount(loser[rejected], minlength=m)
    worse = np.bincount(winner[rejected], minlength=m)
    return 1 + better, m - worse


def _squared_t(rows: Moments, block: slice) -> np.ndarray:
    """Of each row of a block against all rows, [b, m]; pairs without any spread have an infinite one, or 0."""
    squared = (rows.var / rows.n)[block, None] + rows.var / rows.n
    delta = rows.mean[block, None] - rows.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(delta**2 / squared, nan=0.0, posinf=np.inf)


@dataclass(frozen=True)
class Agreement:
    """What a verification says of a claim.

    Args:
        verdict: agrees, disagrees or undecided.
        p: Holm-adjusted, [k]; low, high: 90 % interval of verifier minus claim, [k].
        more_seeds: how many more of the verifier's seeds would decide an undecided one if the difference stayed as it is;
            None where none would, or nothing is undecided.
    """

    verdict: str
    p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    more_seeds: int | None


def agreement(mine: Moments, claimed: Moments, margin: float) -> Agreement:
    """A verifier's columns [k] against those of the claim: Welch with Holm, and two one-sided tests within `margin`."""
    found = welch(mine, claimed)
    p = holm(found.p)
    low, high = found.interval(0.9)
    if np.any(p < DISAGREEMENT):
        return Agreement(DISAGREES, p, low, high, None)
    if np.all((low > -margin) & (high < margin)):
        return Agreement(AGREES, p, low, high, None)
    return Agreement(UNDECIDED, p, low, high, _more_seeds(mine, claimed, margin))


def _more_seeds(mine: Moments, claimed: Moments, margin: float, most: int = 1000) -> int | None:
    for more in range(1, most):
        larger = welch(Moments(mine.n + more, mine.mean, mine.var), claimed)
        low, high = larger.interval(0.9)
        if np.any(holm(larger.p) < DISAGREEMENT) or np.all((low > -margin) & (high < margin)):
            return more
    return None


def pareto_front(cost: ArrayLike, accuracy: ArrayLike) -> np.ndarray:
    """bool [m]: rows that no other row beats in one of the two without losing in the other."""
    cost, accuracy = np.asarray(cost, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    order = np.lexsort((-accuracy, cost))
    best = np.maximum.accumulate(accuracy[order])
    front = np.zeros(len(cost), bool)
    front[order] = np.concatenate([[True], best[1:] > best[:-1]]) if len(order) else []
    # equal in both is on the front together
    same = {(c, a) for c, a in zip(cost[front], accuracy[front])}
    return np.array([(c, a) in same for c, a in zip(cost, accuracy)], dtype=bool)
