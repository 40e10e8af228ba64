"""Every column against random draws: one pass over all results, Holm over the columns of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hf_condense.evaluation.comparison import Difference, Moments, compare
from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.result import Content, Result
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME, holm

RANDOM = "random"  # method of the bank's random draws, at the IPC of the tasks and of the ladder
Bank = Mapping[tuple[str, str, str], Mapping[int, np.ndarray]]  # (source, regime, student) -> IPC -> accuracies


@dataclass(frozen=True, slots=True)
class Judged:
    """A column against random draws; fractions, not percent.

    Args:
        low, high: 95 % interval of the difference. p: Holm-adjusted over the columns of the submission.
        detectable: smallest difference that would have been seen.
    """

    delta: float
    low: float
    high: float
    p: float
    detectable: float
    verdict: str


@dataclass(frozen=True)
class Columns:
    """All columns of some results, with their accuracies as arrays.

    Args:
        pairs: [m] columns with their result, those of a result in a row.
        runs: n -> accuracies [rows, n] of the columns with n runs; `places` [m]: row of each column there.
        moments: of each column, [m]; a single run has a variance of NaN.
    """

    pairs: list[tuple[Result, Column]]
    runs: dict[int, np.ndarray]
    places: np.ndarray
    moments: Moments

    @classmethod
    def of(cls, results: Iterable[Result]) -> Columns:
        """The columns of results, in their order."""
        pairs = [(result, column) for result in results for column in result.content.columns]
        sizes = np.array([len(column.correct) for _, column in pairs], dtype=int)
        places, moments, all_runs = np.empty(len(pairs), int), Moments(*np.full((3, len(pairs)), np.nan)), {}
        for n in np.unique(sizes).tolist():
            chosen = np.nonzero(sizes == n)[0]
            columns = [pairs[i][1] for i in chosen.tolist()]
            runs = np.array([c.correct for c in columns]) / np.array([[c.tested] for c in columns])
            all_runs[n], places[chosen] = runs, np.arange(len(chosen))
            moments.n[chosen], moments.mean[chosen] = n, runs.mean(1)
            if n > 1:
                moments.var[chosen] = runs.var(1, ddof=1)
        return cls(pairs, all_runs, places, moments)


def accuracies(column: Column) -> np.ndarray:
    """Top-1 of each run, [n]."""
    return np.array(column.correct) / column.tested


def is_random(content: Content) -> bool:
    """Whether a result holds the board's random draws."""
    return content.kind == "baseline" and content.method.name == RANDOM


def random_bank(results: Iterable[Result]) -> Bank:
    """Accuracies of the board's random draws."""
    bank: dict[tuple[str, str, str], dict[int, np.ndarray]] = defaultdict(dict)
    for result in results:
        if is_random(result.content):
            for column in result.content.columns:
                bank[result.content.source, column.regime, column.student][result.content.ipc] = accuracies(column)
    return bank


def judge(found: Columns, bank: Bank, alpha: float) -> list[Judged | None]:
    """What is found of each column, [m]; None for random draws themselves and where there is nothing to compare with.

    Columns under the board's labels are held against its bank, and Holm's correction is over those of one result, so
    that no other result changes it. Those under own labels are a family by themselves, held against their control.
    """
    families, references, chosen = _families(found, bank)
    verdicts: list[Judged | None] = [None] * len(found.pairs)
    if not families:
        return verdicts
    random = Moments.stack([Moments.of(runs) for runs in references])
    places = np.array([i for family in families for i in family])
    d = _compared(found, places, random[chosen[places]])
    adjusted, ends = np.empty(len(places)), np.cumsum([len(family) for family in families])
    sizes = np.diff(ends, prepend=0)
    for k in np.unique(sizes).tolist():
        rows = (ends[sizes == k] - k)[:, None] + np.arange(k)
        adjusted[rows] = holm(d.p[rows])
    words = np.where(adjusted > alpha, SAME, np.where(d.delta > 0, ABOVE, BELOW)).tolist()
    values = zip(*(v.tolist() for v in (d.delta, d.low, d.high, adjusted, d.detectable)), words)
    for i, value in zip(places.tolist(), values):
        verdicts[i] = Judged(*value)
    return verdicts


def _families(found: Columns, bank: Bank) -> tuple[list[list[int]], list[np.ndarray], np.ndarray]:
    """Columns that are corrected together, random accuracies, and [m] which of these each column is held against."""
    families: dict[tuple[str, bool], list[int]] = defaultdict(list)
    references: list[np.ndarray] = []
    numbers: dict[tuple, int] = {}
    chosen = np.full(len(found.pairs), -1)
    for i, (result, column) in enumerate(found.pairs):
        content, own = result.content, column.regime == OWN
        key = (result.id, column.student) if own else (content.source, column.regime, column.student, content.ipc)
        if key not in numbers:
            runs = _reference(content, column, bank)
            numbers[key] = -1 if runs is None or len(runs) < 2 else len(references)
            references += [runs] * (numbers[key] >= 0)
        chosen[i] = numbers[key]
        if chosen[i] >= 0 and len(column.correct) >= 2 and not is_random(content):
            families[result.id, own].append(i)
    return list(families.values()), references, chosen


def _reference(content: Content, column: Column, bank: Bank) -> np.ndarray | None:
    if column.regime == OWN:
        return None if column.control is None else np.array(column.control.correct) / column.tested
    return bank.get((content.source, column.regime, column.student), {}).get(content.ipc)


def _compared(found: Columns, places: np.ndarray, random: Moments) -> Difference:
    """Of columns at `places` with what they are held against: each by the test of its scope."""
    scopes = np.array([found.pairs[i][0].content.scope for i in places.tolist()])
    values = np.empty((8, len(places)))
    for scope in np.unique(scopes).tolist():
        rows = scopes == scope
        values[:, rows] = list(vars(compare(found.moments[places[rows]], random[rows], scope)).values())
    return Difference(*values)
