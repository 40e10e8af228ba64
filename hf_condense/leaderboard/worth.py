"""Worth: how many random real images one image of a set is worth, read off the ladder of random sets over IPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_condense.config import check
from hf_condense.data.randomness import Key

RESAMPLES = 2000
ROUNDING = 1e-12  # of accuracies: means of equal runs may differ in the last bit
_BLOCK = 32  # rows whose resamples fit the processor's cache together
FLAT = 10.0  # an interval wider than this factor says nothing


@dataclass(frozen=True)
class Worth:
    """Worths of rows [m] in one task.

    Args:
        value: random real images that one image of the set is worth, under the same labels; 1 is the null.
        low, high: 95 % interval by bootstrap over the row's runs and over the draws of every rung.
        censored: -1 where the accuracy lies below the ladder's first rung (the value is an upper bound), 1 where it lies
            above its last ("5 or more"), else 0.
        flat: the interval is wider than a factor of ten: more random images would not help either. Such rows leave means.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    censored: np.ndarray
    flat: np.ndarray


def isotonic(values: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """The rising sequence closest to `values` [..., k] in weighted squares, by pooling adjacent violators.

    In the max-min form, which is the same fit and takes all rows at once: max over starts of min over ends of block means.
    """
    values = np.asarray(values, dtype=np.float64)
    k = values.shape[-1]
    weights = np.ones(k) if weights is None else np.asarray(weights, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(weights)])
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values * weights, axis=-1)], axis=-1)
    fit = np.full(values.shape, -np.inf)
    for start in range(k):
        means = (sums[..., start + 1 :] - sums[..., start : start + 1]) / (total[start + 1 :] - total[start])
        smallest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]  # over ends at or after each place
        fit[..., start:] = np.maximum(fit[..., start:], smallest)
    return fit


def inverse(log_ipc: np.ndarray, fit: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rising piecewise-linear curves reach an accuracy.

    On a flat segment the middle of the segment is taken.

    Args:
        log_ipc: [k] places of the rungs; fit: [..., k] rising values there.
        accuracy: [...], broadcast against the curves.

    Returns:
        log IPC [...], and -1 / 0 / 1 where it lies below the first rung, inside, or above the last.
    """
    k = fit.shape[-1]
    shape = np.broadcast_shapes(fit.shape[:-1], np.shape(accuracy))
    fit, accuracy = np.broadcast_to(fit, (*shape, k)), np.broadcast_to(accuracy, shape)
    below = (fit < accuracy[..., None] - ROUNDING).sum(-1)  # rungs strictly below
    upto = (fit <= accuracy[..., None] + ROUNDING).sum(-1)

    def crossing(right: np.ndarray) -> np.ndarray:
        right = np.clip(right, 1, k - 1)
        low, high = (np.take_along_axis(fit, (right - d)[..., None], -1)[..., 0] for d in (1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(high > low, (accuracy - low) / (high - low), 0.5)
        return log_ipc[right - 1] + np.clip(share, 0, 1) * (log_ipc[right] - log_ipc[right - 1])

    # exactly on a rung or on a flat segment, from its first to its last rung
    on = upto > below
    first, last = log_ipc[np.clip(below, 0, k - 1)], log_ipc[np.clip(upto - 1, 0, k - 1)]
    place = np.where(on, (first + last) / 2, crossing(below))
    censored = np.where(below >= k, 1, np.where(upto == 0, -1, 0))
    place = np.where(below >= k, log_ipc[-1], np.where(upto == 0, log_ipc[0], place))
    return place, censored


class Ladder:
    """The bank's rungs of one task: accuracies of random sets by IPC, and the isotonic curve through their means.

    Args:
        rungs: IPC -> accuracies of its random sets, [draws]; two rungs or more.
        key: names the bootstrap's draws, so that equal ladders give equal intervals.
    """

    def __init__(self, rungs: Mapping[int, ArrayLike], key: Key, resamples: int = RESAMPLES) -> None:
        check(len(rungs) >= 2, "ladder", list(rungs), "two rungs or more")
        self.key, self.resamples = key, resamples
        self.ipc = np.array(sorted(rungs))
        self.log_ipc = np.log(self.ipc)
        runs = [np.asarray(rungs[k], dtype=np.float64) for k in sorted(rungs)]
        weights = [len(r) for r in runs]
        self.fit = isotonic([r.mean() for r in runs], weights)
        draw = (key / "ladder").numpy()
        means = [r[draw.integers(len(r), size=(resamples, len(r)))].mean(1) for r in runs]
        self.fits = isotonic(np.stack(means, 1), weights)
        self._shares: dict[int, np.ndarray] = {}
        self._curves = self.fits.T.astype(np.float32, order="C")  # [k, resamples]; half the time, error 1e-6
        rise = np.diff(self._curves, axis=0)
        self._level = [np.nonzero(r == 0)[0] for r in rise]
        self._lengths = np.diff(self.log_ipc).astype(np.float32)
        self._slopes = self._lengths[:, None] / np.where(rise > 0, rise, np.float32(1))

    def worth(self, runs: ArrayLike, ipc: int) -> Worth:
        """Of rows with accuracies [m, n], all at one IPC.

        Every row's runs are drawn again with the same places, which keeps a row's interval free of the other rows.
        """
        runs = np.atleast_2d(np.asarray(runs, dtype=np.float64))
        n = runs.shape[1]
        if n not in self._shares:
            places = (self.key / "runs" / n).numpy().integers(n, size=(self.resamples, n))
            self._shares[n] = (places == np.arange(n)[:, None, None]).mean(2).astype(np.float32)
        shares = self._shares[n]
        value, censored = inverse(self.log_ipc, self.fit, runs.mean(1))
        log_ipc = np.empty((2, len(runs)))
        order = np.argsort(runs.mean(1), kind="stable")  # rows of a block then lie between the same few rungs
        for start in range(0, len(runs), _BLOCK):
            block = order[start : start + _BLOCK]
            log_ipc[:, block] = self._bounds(runs[block], shares)
        value, low, high = (np.exp(v) / ipc for v in (value, *log_ipc))
        return Worth(value, low, high, censored, high / low > FLAT)

    def _bounds(self, runs: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """2.5 % and 97.5 % quantiles [2, m] of the log IPC that the drawn curves reach at the drawn means.

        The same as `inverse` of each, as a sum over the segments between rungs: how much of each has been passed.

        Args:
            shares: [n, resamples], of each run in a drawn mean.
        """
        runs = runs.astype(np.float32)
        means, part = (np.zeros((len(runs), self.resamples), np.float32) for _ in range(2))
        for i, share in enumerate(shares):
            means += np.multiply(runs[:, i, None], share, out=part)
        least, most = means.min(), means.max()
        place = np.full_like(means, self.log_ipc[0])
        for low, high, length, slope, level in zip(
            self._curves, self._curves[1:], self._lengths, self._slopes, self._level
        ):
            if high.max() < least:
                place += length
            elif low.min() <= most:
                passed = np.subtract(means, low, out=part)
                passed *= slope
                at = means[:, level]
                passed[:, level] = length * ((at > low[level]).astype(np.float32) + (at >= low[level])) / 2
                place += passed.clip(0, length, out=passed)
        place.sort(axis=1)
        at = np.array([0.025, 0.975]) * (self.resamples - 1)
        left = at.astype(int)
        return (place[:, left] + (at - left) * (place[:, left + 1] - place[:, left])).T


@dataclass(frozen=True)
class MeanWorth:
    """Geometric mean over tasks; `left` tasks had a flat curve and are not in it."""

    value: float
    low: float
    high: float
    tasks: int
    left: int


def mean_worth(value: ArrayLike, low: ArrayLike, high: ArrayLike, flat: ArrayLike) -> MeanWorth | None:
    """The geometric mean over tasks [t] of worths and of their bounds; None where all are flat."""
    keep = ~np.asarray(flat, dtype=bool)
    if not keep.any():
        return None
    means = (float(np.exp(np.mean(np.log(np.asarray(v, dtype=np.float64)[keep])))) for v in (value, low, high))
    return MeanWorth(*means, int(keep.sum()), int((~keep).sum()))
