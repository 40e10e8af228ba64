"""A results repository as columns: reads every file, and computes every statistic that the pages show."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.board import OWN, Board, Task
from hf_condense.leaderboard.entries import Refused, read_all
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.result import Result, check_board
from hf_condense.leaderboard.rows import Row, make_rows
from hf_condense.leaderboard.statements import Verification, Withdrawal
from hf_condense.leaderboard.statistics import DISAGREES, Agreement
from hf_condense.leaderboard.verify import compare_columns


@dataclass(frozen=True)
class Standing:
    """What others found of a result, and whether it still counts.

    Args:
        submitter: whose own verifications do not raise the level.
        entered: "by the board" for baselines; "checked" in a repository, where a pull request was merged; else "claimed".
        verifications: with their agreement.
        superseded_by: id of a later result of the same submitter.
    """

    submitter: str
    entered: str
    verifications: tuple[tuple[Verification, Agreement], ...] = ()
    withdrawn: Withdrawal | None = None
    superseded_by: str | None = None

    @property
    def retired(self) -> bool:
        return self.withdrawn is not None or self.superseded_by is not None

    @property
    def hidden(self) -> bool:
        """Whether pictures and links are not shown."""
        return self.withdrawn is not None and self.withdrawn.reason == "licence"

    @property
    def gone(self) -> str:
        """Why it does not count, in words; empty where it does."""
        if self.withdrawn is not None:
            return f"withdrawn ({self.withdrawn.reason})"
        return "superseded" if self.superseded_by else ""

    @property
    def level(self) -> str:
        """claimed, checked, re-scored by k others, or remade; what a verifier disagrees with says so."""
        others = [(v, a) for v, a in self.verifications if v.submitted.by != self.submitter]
        if any(found.verdict == DISAGREES for _, found in others):
            return "disputed"
        if any(v.remade is not None and v.remade.same for v, _ in others):
            return "remade"
        people = len({v.submitted.by for v, _ in others})
        return f"re-scored {people}×" if people else self.entered


@dataclass(frozen=True)
class Collected:
    """A board with everything that was computed of its results.

    Args:
        results, standings: by id. rows: of every task that has results.
        refused: files that are no part of the board, with the reason.
        digest: sha256 of the sorted ids: a page names it, so that a result which vanished is seen.
    """

    place: Place
    results: Mapping[str, Result]
    standings: Mapping[str, Standing]
    rows: Mapping[Task, list[Row]]
    refused: Sequence[Refused]
    digest: str
    by_result: Mapping[str, list[Row]] = field(repr=False)

    @property
    def board(self) -> Board:
        return self.place.board

    @property
    def submissions(self) -> list[Result]:
        """Those that count: neither baselines nor retired."""
        return [r for r in self.results.values() if r.content.kind == "submission" and self.counts(r)]

    def counts(self, result: Result) -> bool:
        return not self.standings[result.id].retired

    def verdicts(self, rows: Iterable[Row]) -> Counter[str]:
        """How often each verdict stands among rows of submissions that count, under the board's labels."""
        return Counter(
            row.judged.verdict
            for row in rows
            if row.judged
            and row.result.content.kind == "submission"
            and row.column.regime != OWN
            and self.counts(row.result)
        )


def collect(place: Place) -> Collected:
    """Reads all results, verifications and withdrawals. A file that does not fit is named in `refused` and left out.

    Ten thousand results take a few seconds: several processes read files and compute statistics.
    """
    with _without_collector():
        found, refused = read_all(place.folder, Result)
        results = {}
        for result in found:
            try:
                check_board(result.content.board, place.board)
                results[result.id] = result
            except CondensationError as error:
                refused.append(Refused(result.place, str(error)))
        standings = _standings(place, results, refused)
        retired = {id for id, standing in standings.items() if standing.retired}
        rows = make_rows(place.board, list(results.values()), retired)
        by_result: dict[str, list[Row]] = {id: [] for id in results}
        for task_rows in rows.values():
            for row in task_rows:
                by_result[row.result.id].append(row)
    digest = hashlib.sha256("\n".join(sorted(results)).encode()).hexdigest()
    return Collected(place, results, standings, rows, tuple(refused), digest, by_result)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small objects are made and none is dropped: looking for cycles among them would take a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _standings(place: Place, results: Mapping[str, Result], refused: list[Refused]) -> dict[str, Standing]:
    verifications, more = read_all(place.folder, Verification)
    withdrawals, others = read_all(place.folder, Withdrawal)
    refused += more + others
    verified: dict[str, list[tuple[Verification, Agreement]]] = defaultdict(list)
    for verification in verifications:
        claimed = results.get(verification.id)
        try:
            check_board(verification.board, place.board)
            found = None if claimed is None else _agreement(verification, claimed, place.board)
        except CondensationError as error:
            refused.append(Refused(verification.place, str(error)))
            continue
        if found is None:
            refused.append(Refused(verification.place, "no result with these columns, in several runs each"))
        else:
            verified[verification.id].append((verification, found))
    withdrawn = {entry.id: entry for entry in withdrawals}
    superseded = {}
    for result in results.values():
        older = results.get(result.content.supersedes or "")
        if older is not None and older.submitted.by == result.submitted.by:
            superseded[older.id] = result.id
    entered = "claimed" if place.repo is None else "checked"
    return {
        id: Standing(
            result.submitted.by,
            "by the board" if result.content.kind == "baseline" else entered,
            tuple(verified[id]),
            withdrawn.get(id),
            superseded.get(id),
        )
        for id, result in results.items()
    }


def _agreement(verification: Verification, claimed: Result, board: Board) -> Agreement | None:
    """None where a verification has other columns than the result, or single runs."""
    have = {(c.regime, c.student): len(c.correct) for c in claimed.content.columns}
    columns = verification.columns
    if any(min(have.get((c.regime, c.student), 0), len(c.correct)) < 2 or c.regime == OWN for c in columns):
        return None
    return compare_columns(columns, claimed.content, board.tolerance.equivalence_points)
