"""Scores from accuracies, as pure functions: robustness scores (DD-Ranking, arXiv:2505.13300) and intervals.

Accuracies are fractions between 0 and 1, one entry a run; numbers and arrays of one shape work alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError


def fractions(name: str, values: ArrayLike) -> np.ndarray:
    """`values` as float64. Raises ConfigError for values outside [0, 1]: percentages would break the exponentials."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.all((array >= 0) & (array <= 1)):  # written so that NaN fails too
        raise ConfigError(name, values, "accuracies as fractions between 0 and 1", "divide percentages by 100")
    return array


def hlr(real: ArrayLike, syn_hard: ArrayLike) -> np.ndarray:
    """Hard-label recovery: full data minus synthetic set, both with hard labels; smaller is better."""
    return fractions("real", real) - fractions("syn_hard", syn_hard)


def ior(syn_any: ArrayLike, random_any: ArrayLike) -> np.ndarray:
    """Improvement over random: synthetic set minus a random real subset of its size, both under the same recipe."""
    return fractions("syn_any", syn_any) - fractions("random_any", random_any)


def score(balance: ArrayLike) -> np.ndarray:
    """(e^a - e^-1) / (e - e^-1): maps [-1, 1] to [0, 1] and 0 to 0.269."""
    return (np.exp(np.asarray(balance, dtype=np.float64)) - math.exp(-1)) / (math.e - math.exp(-1))


def lrs(
    real: ArrayLike, syn_hard: ArrayLike, syn_any: ArrayLike, random_any: ArrayLike, weight: float = 0.5
) -> np.ndarray:
    """Label-robust score: `score` of weight * IOR - (1 - weight) * HLR."""
    _check_weight("lrs weight", weight)
    return score(weight * ior(syn_any, random_any) - (1 - weight) * hlr(real, syn_hard))


def ars(
    syn_aug: ArrayLike, random_aug: ArrayLike, syn_noaug: ArrayLike, random_noaug: ArrayLike, weight: float = 0.5
) -> np.ndarray:
    """Augmentation-robust score: `score` of the improvement over random, with augmentation (`weight`) and without."""
    _check_weight("ars weight", weight)
    return score(weight * ior(syn_aug, random_aug) + (1 - weight) * ior(syn_noaug, random_noaug))


def _check_weight(name: str, weight: float) -> None:
    if not 0 <= weight <= 1:
        raise ConfigError(name, weight, "a number between 0 and 1", "change it")


@dataclass(frozen=True)
class Summary:
    """Mean over `n` runs, sample standard deviation, and the 95 % interval of the mean (None from a single run)."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: ArrayLike, level: float = 0.95) -> Summary:
    """Student's t interval of the mean over runs [n]."""
    values = np.asarray(values, dtype=np.float64).ravel()
    if values.size == 0:
        raise ConfigError("values", [], "one or more runs", "score at least one run")
    mean = float(values.mean())
    if values.size == 1:
        return Summary(1, mean, None, None, None)
    from scipy.special import stdtrit  # scipy comes with scikit-learn

    std = float(values.std(ddof=1))
    half = float(stdtrit(values.size - 1, (1 + level) / 2)) * std / math.sqrt(values.size)
    return Summary(values.size, mean, std, mean - half, mean + half)


def paired_difference(values: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Summary:
    """Summary of `values` minus `baseline`, run by run: entry i of both shares everything that is random but the set.

    Raises:
        ConfigError: the two do not have one entry for the same runs.
    """
    values, baseline = (np.asarray(v, dtype=np.float64).ravel() for v in (values, baseline))
    if values.shape != baseline.shape:
        raise ConfigError(
            "runs", (values.size, baseline.size), "the same runs for both", "score both with the same seeds"
        )
    return summarise(values - baseline, level)


@dataclass(frozen=True)
class Gap(Summary):
    """A difference of means with its interval; `std` is None where runs are not paired.

    Args:
        test: "paired", "prediction" or "welch" (see `gap`).
    """

    test: Literal["paired", "prediction", "welch"]


def gap(values: ArrayLike, baseline: ArrayLike, sets: int, draws: int) -> Gap:
    """`values` minus `baseline` [n], by the comparison that fits what both are.

    A fresh draw for each seed spreads by its images, and one set does not: taken in pairs, a lucky draw would be called
    better. So one set is held against what *a* draw would reach (the prediction form: SE² = s_x²/n + s_r²(1 + 1/R),
    R - 1 degrees of freedom), and several sets against the draws' mean by Welch's test.

    Args:
        sets: how many sets the values are of; draws: how many the baseline is of.

    Raises:
        ConfigError: the two do not have one entry for the same runs.
    """
    if draws <= 1:
        return Gap(**vars(paired_difference(values, baseline)), test="paired")
    plain = summarise(np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))
    test = "prediction" if sets <= 1 else "welch"
    if plain.n == 1:
        return Gap(1, plain.mean, None, None, None, test)
    from hf_condense.evaluation.comparison import Moments, compare  # needs scipy

    found = compare(Moments.of(values), Moments.of(baseline), "set" if test == "prediction" else "method")
    return Gap(plain.n, float(found.delta), None, float(found.low), float(found.high), test)


def bootstrap_interval(
    runs: ArrayLike,
    key: Key,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `statistic` over runs.

    Args:
        runs: [n], or [sets, networks]: then sets are drawn first and networks within each, so that the spread
            between sets is not taken for more runs than it is.
        key: names the draws.
    """
    runs = np.asarray(runs, dtype=np.float64)
    grid = runs[:, None] if runs.ndim == 1 else runs
    if grid.ndim != 2 or grid.size == 0:
        raise ConfigError("runs", runs.shape, "an array [n] or [sets, networks]", "reshape it")
    sets, networks = grid.shape
    draw = key.numpy()
    values = np.empty(resamples)
    for i in range(resamples):
        chosen = draw.integers(sets, size=sets)
        values[i] = statistic(grid[chosen[:, None], draw.integers(networks, size=(sets, networks))])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
