"""Rows of the tables: every statistic of every result, computed from its counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_condense.data.randomness import Key
from hf_condense.leaderboard.board import OWN, Board, Task
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.in_parts import in_parts
from hf_condense.leaderboard.judging import Columns, Judged, is_random, judge, random_bank
from hf_condense.leaderboard.result import Content, Result
from hf_condense.leaderboard.statistics import rank_sets
from hf_condense.leaderboard.worth import Ladder

Ranks = Mapping[str, dict[int, tuple[int, int]]]  # scope -> number in the table -> first and last rank
MANY = 5_000  # columns, from which on tasks are shared among processes
UNRANKED = ("full", "luckiest")  # more images than the task allows; a draw that was chosen on the test images


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
        return is_random(self.result.content)


def task_of(result: Result, column: Column) -> Task:
    return Task(result.content.source, result.content.ipc, column.regime, column.student)


def make_rows(board: Board, results: Sequence[Result], retired: Collection[str]) -> dict[Task, list[Row]]:
    """The rows of every task.

    Args:
        retired: ids that were withdrawn or superseded: they keep their numbers, and are neither ranked nor counted.
    """
    bank, found = random_bank(results), Columns.of(results)
    judged = judge(found, bank, board.alpha)
    key = Key(0, board.fingerprint)
    ladders = {place: Ladder(rungs, _key(key, *place)) for place, rungs in bank.items() if len(rungs) > 1}
    costs = {result.id: _costs(result.content) for result in results}
    tasks: dict[Task, list[int]] = defaultdict(list)
    for i, (result, column) in enumerate(found.pairs):
        tasks[task_of(result, column)].append(i)
    least = 1 if len(found.pairs) >= MANY else len(tasks) + 1

    def compared(part: Sequence[tuple[Task, list[int]]]) -> list[tuple[list[WorthCell | None], Ranks]]:
        numbers = []
        for task, places in part:
            table = _Table(found, np.array(places))
            worths = table.worths(ladders.get((task.source, task.regime, task.student)), task.ipc)
            # under own labels, labels differ from row to row: nothing to rank
            scopes = () if task.regime == OWN else ("method", "set")
            numbers.append((worths, {scope: table.ranks(scope, board.alpha, retired) for scope in scopes}))
        return numbers

    numbers = [of_task for part in in_parts(compared, list(tasks.items()), least) for of_task in part]
    return {
        task: _Table(found, np.array(places)).rows([judged[i] for i in places], ranks, worths, costs)
        for (task, places), (worths, ranks) in zip(tasks.items(), numbers)
    }


def _key(key: Key, source: str, regime: str, student: str) -> Key:
    return key / source / regime / student


def _costs(content: Content) -> tuple[float, float]:
    """Bytes of the images of a set, and seconds until it is made."""
    synthesis = content.cost.synthesis_seconds
    image_bytes = sum(s.image_bytes for s in content.sets) / len(content.sets)
    return image_bytes, content.cost.pool_seconds + (sum(synthesis) / len(synthesis) if synthesis else 0.0)


@dataclass(frozen=True)
class _Table:
    """The columns of one task: their places [k] among all."""

    found: Columns
    places: np.ndarray

    @property
    def entries(self) -> list[tuple[Result, Column]]:
        return [self.found.pairs[i] for i in self.places.tolist()]

    def worths(self, ladder: Ladder | None, ipc: int) -> list[WorthCell | None]:
        """Of each column, [k]."""
        cells: list[WorthCell | None] = [None] * len(self.places)
        if ladder is None:
            return cells
        sizes = self.found.moments.n[self.places].astype(int)
        for n in np.unique(sizes).tolist():
            chosen = np.nonzero(sizes == n)[0]
            worth = ladder.worth(self.found.runs[n][self.found.places[self.places[chosen]]], ipc)
            values = (worth.value, worth.low, worth.high, worth.censored, worth.flat)
            for i, cell in zip(chosen.tolist(), zip(*(v.tolist() for v in values))):
                cells[i] = WorthCell(*cell)
        return cells

    def ranks(self, scope: str, alpha: float, retired: Collection[str]) -> dict[int, tuple[int, int]]:
        """Number in the table -> rank set among the results of a scope and the baselines."""
        moments = self.found.moments[self.places]
        chosen = [
            i
            for i, (n, (result, _)) in enumerate(zip(moments.n.tolist(), self.entries))
            if result.id not in retired
            and n > 1
            and (result.content.scope == scope if result.content.kind == "submission" else ranked(result))
        ]
        if len(chosen) < 2:
            return {}
        first, last = rank_sets(moments[chosen], alpha)
        return dict(zip(chosen, zip(first.tolist(), last.tolist())))

    def rows(
        self,
        judged: Sequence[Judged | None],
        ranks: Ranks,
        worths: Sequence[WorthCell | None],
        costs: Mapping[str, tuple[float, float]],
    ) -> list[Row]:
        """All columns of the task, [k]; `costs`: id -> bytes of images, seconds."""
        moments = self.found.moments[self.places]
        numbers = (v.tolist() for v in (moments.n.astype(int), moments.mean, np.sqrt(moments.var)))
        rows = []
        for i, ((result, column), n, mean, sd) in enumerate(zip(self.entries, *numbers)):
            image_bytes, seconds = costs[result.id]
            rows.append(
                Row(
                    result=result,
                    column=column,
                    n=n,
                    mean=mean,
                    sd=sd if n > 1 else None,
                    judged=judged[i],
                    ranks={scope: found[i] for scope, found in ranks.items() if i in found},
                    worth=worths[i],
                    bytes=round(image_bytes) + column.label_bytes + column.teacher_bytes,
                    seconds=seconds,
                )
            )
        return rows


def ranked(baseline: Result) -> bool:
    return baseline.content.method.name not in UNRANKED
