"""Rows of the tables: every statistic of every result, computed from its counts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hf_condense.data.randomness import Key
from hf_condense.evaluation.comparison import Moments, compare
from hf_condense.leaderboard.board import OWN, Board, Task
from hf_condense.leaderboard.result import Column, Result
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME, holm, rank_sets
from hf_condense.leaderboard.worth import Ladder

RANDOM = "random"  # method of the bank's random draws, at the IPC of the tasks and of the ladder
UNRANKED = ("full", "luckiest")  # more images than the task allows; a draw that was chosen on the test images
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


@dataclass(frozen=True, slots=True)
class WorthCell:
    """See `worth.Worth`, of one row."""

    value: float
    low: float
    high: float
    censored: int
    flat: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One result in one task.

    Args:
        mean, sd: top-1 over n runs; sd is None for a single run.
        judged: None for random draws themselves, and where the bank has no draws for the task.
        ranks: scope -> first and last rank that the row may have there; baselines stand in both scopes.
        worth: None under own labels, and without a ladder.
        bytes: images, labels and, where the regime needs it, the teacher. seconds: networks and synthesis of one set.
    """

    result: Result
    column: Column
    n: int
    mean: float
    sd: float | None
    judged: Judged | None
    ranks: Mapping[str, tuple[int, int]]
    worth: WorthCell | None
    bytes: int
    seconds: float

    @property
    def is_random(self) -> bool:
        return self.result.content.kind == "baseline" and self.result.content.method.name == RANDOM


def task_of(result: Result, column: Column) -> Task:
    return Task(result.content.source, result.content.ipc, column.regime, column.student)


def random_bank(results: Iterable[Result]) -> Bank:
    """Accuracies of the board's random draws."""
    bank: dict[tuple[str, str, str], dict[int, np.ndarray]] = defaultdict(dict)
    for result in results:
        content = result.content
        if content.kind == "baseline" and content.method.name == RANDOM:
            for column in content.columns:
                bank[content.source, column.regime, column.student][content.ipc] = accuracies(column)
    return bank


def accuracies(column: Column) -> np.ndarray:
    """Top-1 of each run, [n]."""
    return np.array(column.correct) / column.tested


def make_rows(board: Board, results: Sequence[Result], retired: Collection[str]) -> dict[Task, list[Row]]:
    """The rows of every task.

    Args:
        retired: ids that were withdrawn or superseded: they keep their numbers, and are neither ranked nor counted.
    """
    bank = random_bank(results)
    judged = judge(results, bank, board.alpha)
    tasks: dict[Task, list[tuple[Result, Column]]] = defaultdict(list)
    for result in results:
        for column in result.content.columns:
            tasks[task_of(result, column)].append((result, column))

    key = Key(0, board.fingerprint)

    def table(task: Task) -> list[Row]:
        rungs = bank.get((task.source, task.regime, task.student), {})
        ladder = Ladder(rungs, key / task.source / task.regime / task.student) if len(rungs) > 1 else None
        found = Table.of(tasks[task], ladder)
        # under own labels, labels differ from row to row: nothing to rank
        scopes = () if task.regime == OWN else ("method", "set")
        return _rows(found, judged, {scope: found.ranks(scope, board.alpha, retired) for scope in scopes})

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # NumPy lets go of the interpreter in its loops
        return dict(zip(tasks, pool.map(table, tasks)))


def judge(results: Iterable[Result], bank: Bank, alpha: float) -> dict[tuple[str, str, str], Judged]:
    """Every column against random draws: (id, regime, student) -> what is found. Holm over the columns of one result.

    Columns under the board's labels are held against its bank. Those under own labels are a family by themselves, held
    against their control where they have one.
    """
    alike: dict[tuple, list[tuple[Result, Sequence[Column], Sequence[np.ndarray]]]] = defaultdict(list)
    for result in results:
        content = result.content
        if content.kind == "baseline" and content.method.name == RANDOM:
            continue
        families: tuple[list, list] = ([], [])
        for column in content.columns:
            reference = _reference(content, column, bank)
            if reference is not None and len(reference) >= 2 and len(column.correct) >= 2:
                families[column.regime == OWN].append((column, reference))
        for family in filter(None, families):
            columns, references = zip(*family)
            sizes = tuple((len(c.correct), len(r)) for c, r in family)
            alike[content.scope, sizes].append((result, columns, references))
    found = {}
    for (scope, sizes), group in alike.items():  # arrays over results with equal numbers of runs
        differences = []
        for j in range(len(sizes)):
            x = np.array([c[j].correct for _, c, _ in group]) / np.array([[c[j].tested] for _, c, _ in group])
            differences.append(compare(Moments.of(x), Moments.of([r[j] for _, _, r in group]), scope))
        adjusted = holm(np.stack([d.p for d in differences], 1)).T
        for j, (d, p) in enumerate(zip(differences, adjusted)):
            verdicts = np.where(p > alpha, SAME, np.where(d.delta > 0, ABOVE, BELOW)).tolist()
            values = zip(*(v.tolist() for v in (d.delta, d.low, d.high, p, d.detectable)), verdicts)
            for (result, columns, _), value in zip(group, values):
                found[result.id, columns[j].regime, columns[j].student] = Judged(*value)
    return found


def _reference(content, column: Column, bank: Bank) -> np.ndarray | None:
    if column.regime == OWN:
        return None if column.control is None else np.array(column.control.correct) / column.tested
    return bank.get((content.source, column.regime, column.student), {}).get(content.ipc)


@dataclass(frozen=True)
class Table:
    """The entries of one task with their moments and worths, as arrays over entries."""

    entries: list[tuple[Result, Column]]
    moments: Moments
    worths: list[WorthCell | None]

    @classmethod
    def of(cls, entries: list[tuple[Result, Column]], ladder: Ladder | None) -> Table:
        ipc = entries[0][0].content.ipc
        moments = Moments(*np.full((3, len(entries)), np.nan))
        worths: list[WorthCell | None] = [None] * len(entries)
        sizes = [len(column.correct) for _, column in entries]
        for n in set(sizes):
            places = [i for i, size in enumerate(sizes) if size == n]
            columns = [entries[i][1] for i in places]
            runs = np.array([c.correct for c in columns]) / np.array([[c.tested] for c in columns])
            moments.n[places], moments.mean[places] = n, runs.mean(1)
            if n > 1:
                moments.var[places] = runs.var(1, ddof=1)
            if ladder is not None:
                worth = ladder.worth(runs, ipc)
                values = (worth.value, worth.low, worth.high, worth.censored, worth.flat)
                for i, cell in zip(places, zip(*(v.tolist() for v in values))):
                    worths[i] = WorthCell(*cell)
        return cls(entries, moments, worths)

    def ranks(self, scope: str, alpha: float, retired: Collection[str]) -> dict[int, tuple[int, int]]:
        """Place -> rank set among the results of a scope and the baselines."""
        places = [
            i
            for i, (result, _) in enumerate(self.entries)
            if result.id not in retired
            and self.moments.n[i] > 1
            and (result.content.scope == scope if result.content.kind == "submission" else ranked(result))
        ]
        if len(places) < 2:
            return {}
        first, last = rank_sets(self.moments[places], alpha)
        return dict(zip(places, zip(first.tolist(), last.tolist())))


def ranked(baseline: Result) -> bool:
    return baseline.content.method.name not in UNRANKED


def _rows(
    table: Table, judged: Mapping[tuple[str, str, str], Judged], ranks: Mapping[str, dict[int, tuple[int, int]]]
) -> list[Row]:
    numbers = (table.moments.n.astype(int), table.moments.mean, np.sqrt(table.moments.var))
    rows = []
    for i, ((result, column), n, mean, sd) in enumerate(zip(table.entries, *(v.tolist() for v in numbers))):
        content = result.content
        synthesis = content.cost.synthesis_seconds
        image_bytes = sum(s.image_bytes for s in content.sets) / len(content.sets)
        rows.append(
            Row(
                result=result,
                column=column,
                n=n,
                mean=mean,
                sd=sd if n > 1 else None,
                judged=judged.get((result.id, column.regime, column.student)),
                ranks={scope: found[i] for scope, found in ranks.items() if i in found},
                worth=table.worths[i],
                bytes=round(image_bytes) + column.label_bytes + column.teacher_bytes,
                seconds=content.cost.pool_seconds + (sum(synthesis) / len(synthesis) if synthesis else 0.0),
            )
        )
    return rows
