"""Tests against scipy and by hand, and boards on which nothing is better than random."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_condense.data.randomness import Key
from hf_condense.evaluation import comparison
from hf_condense.evaluation.comparison import Moments, compare, prediction, welch
from hf_condense.leaderboard.statistics import (
    ABOVE,
    AGREES,
    BELOW,
    DISAGREES,
    SAME,
    UNDECIDED,
    agreement,
    holm,
    pareto_front,
    rank_sets,
    verdicts,
)  # fmt: skip
from hf_condense.leaderboard.worth import Ladder, inverse, isotonic, mean_worth

X, R = [0.52, 0.55, 0.53, 0.58, 0.54], [0.50, 0.49, 0.53, 0.51, 0.47, 0.52, 0.50]


def test_welch_equals_scipy():
    ours, theirs = welch(Moments.of(X), Moments.of(R)), stats.ttest_ind(X, R, equal_var=False)
    interval = theirs.confidence_interval()
    pairs = [(ours.t, theirs.statistic), (ours.p, theirs.pvalue), (ours.nu, theirs.df)]
    pairs += [(ours.low, interval.low), (ours.high, interval.high)]
    for mine, reference in pairs:
        assert mine == pytest.approx(reference, abs=1e-10)


def test_prediction_is_the_worked_example():
    found = prediction(Moments.of(X), Moments.of(R))
    # mean x 0.544, s_x² 0.00053, n 5; mean r 0.502857142857..., s_r² 0.000390476190..., R 7
    squared = 0.00053 / 5 + 0.00039047619047619 * (1 + 1 / 7)
    assert found.delta == pytest.approx(0.544 - 3.52 / 7, abs=1e-10)
    assert found.se**2 == pytest.approx(squared, abs=1e-10)
    assert found.nu == 6
    assert found.p == pytest.approx(2 * stats.t.sf((0.544 - 3.52 / 7) / squared**0.5, 6), abs=1e-10)
    half = (stats.t.ppf(0.975, 6) + stats.t.ppf(0.8, 6)) * squared**0.5
    assert found.detectable == pytest.approx(half, abs=1e-10)
    assert found.interval(0.95) == (pytest.approx(found.low, abs=1e-12), pytest.approx(found.high, abs=1e-12))


def test_holm_is_the_worked_example():
    # sorted 0.01 0.02 0.03 0.04, times 4 3 2 1: 0.04 0.06 0.06 0.04, and never falling
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06], abs=1e-10)
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0], abs=1e-10)
    assert verdicts([0.1, -0.1, 0.1], [0.01, 0.02, 0.9]) == [ABOVE, BELOW, SAME]


def test_runs_that_are_all_equal():
    same, other = Moments.of([0.5] * 5), Moments.of([0.6] * 5)
    assert welch(same, same).p == 1
    assert welch(other, same).p == 0


def test_one_run_has_no_test():
    with pytest.raises(Exception, match="2 or more runs"):
        Moments.of([0.5])


def test_rank_sets_of_a_hand_case():
    # far apart, but the two in the middle cannot be told apart
    runs = [[0.90, 0.91, 0.92], [0.50, 0.52, 0.54], [0.51, 0.53, 0.55], [0.10, 0.11, 0.12]]
    first, last = rank_sets(Moments.of(runs))
    assert list(zip(first, last)) == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_rank_sets_equal_all_pairs_written_out():
    means = Key(3, "ranks").numpy().normal(0.5, 0.03, (40, 1))
    rows = Moments.of(means + Key(4, "ranks").numpy().normal(0, 0.02, (40, 5)))
    first, last = rank_sets(rows)
    i, j = np.triu_indices(40, 1)
    found = welch(rows[i], rows[j])
    seen = holm(found.p) <= 0.05
    for row in range(40):
        wins = sum(s and ((a == row and d > 0) or (b == row and d < 0)) for s, a, b, d in zip(seen, i, j, found.delta))
        losses = sum(
            s and ((a == row and d < 0) or (b == row and d > 0)) for s, a, b, d in zip(seen, i, j, found.delta)
        )
        assert (first[row], last[row]) == (1 + losses, 40 - wins)
    assert 0 < seen.sum() < len(seen)


def test_agreement():
    claimed = Moments.of([[0.50, 0.51, 0.49, 0.50, 0.50], [0.70, 0.71, 0.69, 0.70, 0.70]])
    same, worse = Moments.of([[0.50, 0.505, 0.495]] * 1 + [[0.70, 0.705, 0.695]]), Moments.of([[0.40, 0.41, 0.39]] * 2)
    assert agreement(same, claimed, 0.02).verdict == AGREES
    assert agreement(worse, claimed, 0.02).verdict == DISAGREES
    two = agreement(Moments.of([[0.49, 0.52], [0.69, 0.72]]), claimed, 0.02)
    assert two.verdict == UNDECIDED and two.more_seeds >= 1


def test_pareto_front():
    front = pareto_front([1, 2, 2, 3, 4, 4], [0.3, 0.5, 0.4, 0.5, 0.6, 0.6])
    assert list(front) == [True, True, False, False, True, True]


# Worth


def test_isotonic_equals_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    values, weights = Key(0, "pava").numpy().normal(size=(20, 8)), np.arange(1, 9)
    ours = isotonic(values, weights)
    assert (np.diff(ours) >= -1e-12).all()
    for row, fit in zip(values, ours):
        assert fit == pytest.approx(
            IsotonicRegression().fit(np.arange(8), row, weights).predict(np.arange(8)), abs=1e-10
        )


def test_inverse_of_a_hand_case():
    rungs = np.log([1, 10, 100])
    place, censored = inverse(rungs, np.array([0.2, 0.4, 0.4]), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert np.exp(place) == pytest.approx([1, 1, 10**0.5, 10**1.5, 100])
    assert list(censored) == [-1, 0, 0, 0, 1]


def rungs(slope: float, spread: float = 0.01) -> dict[int, np.ndarray]:
    draw = Key(1, "rungs").numpy()
    return {k: 0.3 + slope * np.log(k) + draw.normal(0, spread, 30) for k in (1, 2, 5, 10, 20, 50, 100)}


def test_worth_of_random_is_one():
    ladder = rungs(0.1)
    found = Ladder(ladder, Key(0, "task")).worth(ladder[10], 10)
    assert found.value[0] == pytest.approx(1, abs=1e-10)
    assert found.low[0] < 1 < found.high[0] and not found.flat[0] and found.censored[0] == 0


def test_worth_of_a_row_does_not_depend_on_other_rows():
    ladder, rows = Ladder(rungs(0.1), Key(0, "task")), 0.55 + Key(2, "rows").numpy().normal(0, 0.01, (100, 5))
    together, alone = ladder.worth(rows, 10), ladder.worth(rows[70], 10)
    assert together.low[70] == alone.low[0] and together.high[70] == alone.high[0]
    assert alone.low[0] < alone.value[0] < alone.high[0]


def test_flat_ladders_and_ends():
    assert Ladder(rungs(0.0005), Key(0, "task")).worth([0.301] * 5, 10).flat[0]
    end = Ladder(rungs(0.1), Key(0, "task")).worth([0.95] * 5, 10)
    assert end.censored[0] == 1 and end.value[0] == pytest.approx(10)
    assert mean_worth([2.0, 8.0, 99.0], [1, 1, 1], [9, 9, 9], [False, False, True]).value == pytest.approx(4)
    assert mean_worth([1.0], [1], [1], [True]) is None


# Boards on which every submission is a plain random draw. Spreads as measured on small sets: images matter more than
# student seeds, and the columns of one set share a part of both.

BOARDS, DRAWS, SET_SPREAD, SEED_SPREAD, SHARED = 2_000, 30, 0.03, 0.01, 0.5


def null_boards(scope: str, n: int, columns: int = 6) -> tuple[Moments, Moments]:
    """Submissions and banks [boards, columns]."""

    def normal(what: str, spread: float, *shape: int) -> np.ndarray:
        common, own = (
            (Key(9, scope, n, what) / part).numpy().normal(0, spread, (BOARDS, size, *shape))
            for part, size in (("shared", 1), ("own", columns))
        )
        return SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own

    bank = 0.5 + normal("bank sets", SET_SPREAD, DRAWS) + normal("bank seeds", SEED_SPREAD, DRAWS)
    sets = normal("sets", SET_SPREAD, 1 if scope == "set" else n)
    return Moments.of(0.5 + sets + normal("seeds", SEED_SPREAD, n)), Moments.of(bank)


def above(scope: str, n: int) -> tuple[float, float]:
    """Share of columns that are called above random without Holm, and of submissions with it in any column."""
    x, r = null_boards(scope, n)
    found = compare(x, r, scope)
    column = (found.p <= 0.05) & (found.delta > 0)
    any_column = ((holm(found.p) <= 0.05) & (found.delta > 0)).any(1)
    return column.mean(), any_column.mean()


@pytest.mark.parametrize("scope", ["set", "method"])
@pytest.mark.parametrize("n", [5, 10])
def test_random_draws_are_rarely_called_above_random(scope: str, n: int):
    column, submission = above(scope, n)
    assert column <= 0.035
    assert submission <= (0.08 if n == 5 else 0.06)


@pytest.mark.parametrize("n", [5, 10])
def test_the_simulation_tells_the_wrong_test(monkeypatch, n: int):
    monkeypatch.setattr(comparison, "prediction", comparison.welch)
    with pytest.raises(AssertionError):
        test_random_draws_are_rarely_called_above_random("set", n)
    assert above("set", n)[0] > 0.15


def test_a_further_submission_changes_no_other_verdict():
    x, r = null_boards("set", 5)
    found = compare(x, r, "set")
    alone = [verdicts(d, p) for d, p in zip(found.delta[:50], found.p[:50])]
    more = compare(x[:51], r[:51], "set")
    assert [verdicts(d, p) for d, p in zip(more.delta, more.p)][:50] == alone
