"""Means compared: one set against random draws, several against several. Pure functions that broadcast over rows.

Accuracies are fractions. A `Moments` may hold one row, or arrays of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from hf_condense.config import check

POWER = 0.8  # of the smallest difference that would have been seen


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
    return _tested(*welch_parts(x, r))


def welch_parts(x: Moments, r: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def t_and_p(delta: np.ndarray, se: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > 0, delta / se, np.where(delta == 0, 0.0, np.sign(delta) * np.inf))
    return t, 2 * stdtr(nu, -np.abs(t))


def _tested(delta: np.ndarray, se: np.ndarray, nu: np.ndarray) -> Difference:
    t, p = t_and_p(delta, se, nu)
    half = stdtrit(nu, 0.975)
    return Difference(delta, se, nu, t, p, delta - half * se, delta + half * se, (half + stdtrit(nu, POWER)) * se)
