"""Tests, ranks and equivalence of accuracies: pure functions over arrays, without a board or a file.

Accuracies are fractions. Functions broadcast: a `Moments` may hold one row, or arrays of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from hf_condense.config import check

ABOVE, SAME, BELOW = "above random", "no different from random", "below random"
POWER = 0.8  # of the smallest difference that would have been seen
AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "undecided"
DISAGREEMENT = 0.01  # adjusted p below which a verification disagrees
_BLOCK = 512  # rows whose pairs are compared at once


@dataclass(frozen=True)
class Moments:
    """Number of runs, their mean and their sample variance; scalars or arrays of one shape."""

    n: np.ndarray
    mean: np.ndarray
    var: np.ndarray

    @classmethod
    def of(cls, runs: ArrayLike) -> Moments:
        """Of runs [..., n]; a single run has no variance and is refused."""
        runs = np.asarray(runs, dtype=np.float64)
        check(runs.shape[-1] >= 2, "runs", runs.shape[-1], "2 or more runs")
        return cls(np.full(runs.shape[:-1], runs.shape[-1]), runs.mean(-1), runs.var(-1, ddof=1))

    @classmethod
    def stack(cls, rows: list[Moments]) -> Moments:
        """Rows of different numbers of runs as arrays [m]."""
        return cls(
            *(np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("n", "mean", "var"))
        )

    def __getitem__(self, index) -> Moments:
        return Moments(self.n[index], self.mean[index], self.var[index])


@dataclass(frozen=True)
class Difference:
    """A difference of means with its test.

    Args:
        delta: x minus the reference; se: its standard error; nu: degrees of freedom.
        t, p: statistic and two-sided p.
        low, high: 95 % interval.
        detectable: smallest difference that a test at 5 % would have seen with 80 % probability.
    """

    delta: np.ndarray
    se: np.ndarray
    nu: np.ndarray
    t: np.ndarray
    p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    detectable: np.ndarray

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of the difference at a level such as 0.9."""
        half = stdtrit(self.nu, (1 + level) / 2) * self.se
        return self.delta - half, self.delta + half


def welch(x: Moments, r: Moments) -> Difference:
    """The mean of x against the mean of r, variances unequal: scope `method`, ranks and verifications."""
    return _tested(*_welch(x, r))


def _welch(x: Moments, r: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference, standard error and degrees of freedom."""
    vx, vr = x.var / x.n, r.var / r.n
    squared = vx + vr
    with np.errstate(divide="ignore", invalid="ignore"):
        nu = squared**2 / (vx**2 / (x.n - 1) + vr**2 / (r.n - 1))
    return x.mean - r.mean, np.sqrt(squared), np.where(squared > 0, nu, x.n + r.n - 2)


def prediction(x: Moments, r: Moments) -> Difference:
    """One set, scored n times, against what *a* random draw would reach: scope `set`.

    The spread between draws counts whole, because x is one draw of its kind; r holds one run for each of R draws.
    """
    squared = x.var / x.n + r.var * (1 + 1 / r.n)
    return _tested(x.mean - r.mean, np.sqrt(squared), np.broadcast_to(r.n - 1.0, np.shape(squared)))


def compare(x: Moments, r: Moments, scope: Literal["method", "set"]) -> Difference:
    """The test that fits the claim: `welch` for several sets of a method, `prediction` for one set."""
    return welch(x, r) if scope == "method" else prediction(x, r)


def _t_and_p(delta: np.ndarray, se: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > 0, delta / se, np.where(delta == 0, 0.0, np.sign(delta) * np.inf))
    return t, 2 * stdtr(nu, -np.abs(t))


def _tested(delta: np.ndarray, se: np.ndarray, nu: np.ndarray) -> Difference:
    t, p = _t_and_p(delta, se, nu)
    half = stdtrit(nu, 0.975)
    return Difference(delta, se, nu, t, p, delta - half * se, delta + half * se, (half + stdtrit(nu, POWER)) * se)


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
    for start in range(0, m, _BLOCK):
        block = slice(start, min(start + _BLOCK, m))
        here = Moments(*(v[block, None] for v in (rows.n, rows.mean, rows.var)))
        squared = here.var / here.n + rows.var / rows.n
        # most pairs are far from significance, and a normal bound is cheaper than Student's p
        promising = (here.mean - rows.mean) ** 2 > 3.8 * squared if alpha <= 0.05 else np.ones(squared.shape, bool)
        i, j = np.nonzero(promising)
        i = i + start
        keep = i < j
        i, j = i[keep], j[keep]
        delta, se, nu = _welch(rows[i], rows[j])
        ps.append(_t_and_p(delta, se, nu)[1])  # intervals of thousands of pairs would take most of the time
        winners.append(np.where(delta > 0, i, j))
        losers.append(np.where(delta > 0, j, i))
    p, winner, loser = np.concatenate(ps), np.concatenate(winners), np.concatenate(losers)
    order = np.argsort(p, kind="stable")
    below = p[order] * (pairs - np.arange(len(p))) <= alpha  # the pairs left out above have larger p than all others
    rejected = order[: len(below) if below.all() else int(np.argmin(below))]
    better = np.bincount(loser[rejected], minlength=m)
    worse = np.bincount(winner[rejected], minlength=m)
    return 1 + better, m - worse


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
