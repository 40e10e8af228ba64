"""The overview: one line for each method and submitter, over all tasks that they have results for."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.collect import Collected
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.rows import UNRANKED, Row
from hf_condense.leaderboard.worth import MeanWorth, mean_worth


@dataclass(frozen=True)
class Group:
    """Results of one method, one submitter and one scope.

    Args:
        worth: geometric mean over tasks; None where no task has a worth.
        bytes, seconds: smallest and largest.
    """

    name: str
    title: str
    by: str
    kind: Literal["submission", "baseline"]
    scope: Literal["set", "method"]
    results: list[Result]
    tasks: int
    worth: MeanWorth | None
    verdicts: Counter[str]
    bytes: tuple[int, int]
    seconds: tuple[float, float]

    @property
    def is_random(self) -> bool:
        return self.kind == "baseline" and self.name == "random"


def overview(collected: Collected) -> list[Group]:
    """Groups by the lower bound of their worth, best first; results that do not count are left out."""
    groups: dict[tuple, list[Result]] = defaultdict(list)
    ipc = set(collected.board.ipc)
    for result in collected.results.values():
        content = result.content
        baseline = content.kind == "baseline"
        if collected.counts(result) and content.ipc in ipc and not (baseline and content.method.name in UNRANKED):
            # anyone may use a method's name: results of different people are never averaged
            by = "" if baseline else result.submitted.by
            groups[content.method.name, by, content.kind, content.scope].append(result)
    found = [_group(collected, *key, results) for key, results in groups.items()]
    return sorted(found, key=lambda g: (g.worth is None, -g.worth.low if g.worth else 0.0, g.name, g.by, g.scope))


def _group(collected: Collected, name: str, by: str, kind, scope, results: list[Result]) -> Group:
    rows = [row for r in results for row in collected.by_result[r.id] if row.column.regime != OWN]
    newest = max(results, key=lambda r: (r.submitted.date, r.id))
    return Group(
        name,
        newest.content.method.title,
        by,
        kind,
        scope,
        results,
        len({(r.result.content.source, r.result.content.ipc, r.column.regime, r.column.student) for r in rows}),
        _worth(rows),
        Counter(row.judged.verdict for row in rows if row.judged),
        (min(r.bytes for r in rows), max(r.bytes for r in rows)),
        (min(r.seconds for r in rows), max(r.seconds for r in rows)),
    )


def _worth(rows: list[Row]) -> MeanWorth | None:
    """Several results in one task count as one: their geometric mean."""
    tasks: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if row.worth is not None:
            tasks[row.result.content.source, row.result.content.ipc, row.column.regime, row.column.student].append(row)
    if not tasks:
        return None
    means, flat = [], []
    for inside in tasks.values():
        kept = [r.worth for r in inside if not r.worth.flat] or [r.worth for r in inside]
        means.append(np.exp(np.mean([[np.log(w.value), np.log(w.low), np.log(w.high)] for w in kept], axis=0)))
        flat.append(all(r.worth.flat for r in inside))
    return mean_worth(*np.array(means).T, flat)
