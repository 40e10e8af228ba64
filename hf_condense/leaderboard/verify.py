"""Verification: a result's sets scored by someone else, with seeds that follow from the result and cannot be chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hf_condense.config import check
from hf_condense.evaluation.comparison import Moments
from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.entries import file_of
from hf_condense.leaderboard.place import author_of, open_place
from hf_condense.leaderboard.result import FORMAT, BoardRef, Content, Submitted, check_board
from hf_condense.leaderboard.scoring import BoardScorer, columns_of
from hf_condense.leaderboard.sets import open_set
from hf_condense.leaderboard.stamp import provenance, today
from hf_condense.leaderboard.statements import Remade, Verification
from hf_condense.leaderboard.statistics import UNDECIDED, Agreement, agreement

FIRST = 1000  # seeds below are those of submissions and banks


class Reproduction(Protocol):
    """What a recipe that was run again gave."""

    holds: bool

    def text(self) -> str: ...


@dataclass(frozen=True)
class Verified:
    """What a verification found; `where` it went, None in a dry run."""

    entry: Verification
    found: Agreement
    where: str | None

    def text(self) -> str:
        """A line a column, and the verdict."""
        lines = [
            f"  {c.regime:<7} {c.student:<16} difference to the claim {100 * low:+.1f} to {100 * high:+.1f} points, p {p:.3f}"
            for c, low, high, p in zip(self.entry.columns, self.found.low, self.found.high, self.found.p)
        ]
        verdict = self.found.verdict
        if verdict == UNDECIDED:
            more = self.found.more_seeds
            verdict += (
                f": {more} more seeds would decide" if more else ": more seeds of the verifier alone do not decide"
            )
        if self.entry.remade is not None:
            verdict += "; remade: the same set" if self.entry.remade.same else "; remade: another set"
        return "\n".join([f"{self.entry.id}, {len(self.entry.columns[0].seeds)} students a column:", *lines, verdict])


def seeds_of(id: str, verifier: str, commit: str, count: int) -> tuple[int, ...]:
    """Student seeds of a verification, at least 1,000: they follow from the result, the verifier and the commit."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        digest = hashlib.sha256(f"{id} {verifier} {commit} {number}".encode()).digest()
        seed = FIRST + int.from_bytes(digest[:8], "big") % (2**31 - FIRST)
        if seed not in found:
            found.append(seed)
        number += 1
    return tuple(found)


def verify(
    id: str,
    leaderboard: str | Path,
    *,
    seeds: int = 5,
    remake: Callable[[Path], Reproduction] | None = None,
    by: str | None = None,
    work: Path | None = None,
    dry_run: bool = False,
) -> Verified:
    """Scores a result's sets again with other seeds, and says whether the counts agree with the claim.

    Args:
        id: of the result; `leaderboard`: folder or repository.
        seeds: students a column; sets of a method are taken in turn.
        remake: runs the recorded recipe of the first set again and says what differs (`reproduction.reproduce`), or None.
        by: the verifier; the Hub's user, or for a folder the system's, where not given.
        dry_run: add nothing.

    Raises:
        ConfigError, ArtefactError, DataError, ModelError, HubError: as for `submit`.
    """
    check(2 <= seeds <= 100, "seeds", seeds, "2 to 100")
    place = open_place(leaderboard)
    result = place.result(id)
    c, verifier = result.content, author_of(place, by)
    check(c.kind == "submission", "id", id, "a submission; baselines are drawn again for every submission")
    check_board(c.board, place.board)
    scorer = BoardScorer(place, c.source, work)
    drawn = seeds_of(id, verifier, place.commit, seeds)
    sets = []
    for ref in c.sets[:seeds]:
        name = str(place.folder / ref.repo) if ref.local else ref.repo
        found = open_set(name, scorer.train, scorer.test, revision=ref.revision, labels=remake is not None)
        same = found.pixels_hash == ref.pixels_hash
        check(same, f"set {ref.repo}", found.pixels_hash[:16], f"{ref.pixels_hash[:16]}, as the result has it")
        sets.append(found)
    runs = scorer.score_each([s.image_set() for s in sets], c.ipc, drawn, f"{c.method.name}-verified")
    columns = columns_of(runs, len(scorer.test), 0 if scorer.teacher is None else scorer.teacher.bytes)
    entry = Verification(
        format=FORMAT,
        board=BoardRef(place.board.name, place.board.fingerprint),
        id=id,
        commit=place.commit,
        columns=tuple(columns),
        remade=_remade(remake(sets[0].place)) if remake else None,
        provenance=provenance(),
        submitted=Submitted(verifier, today()),
    )
    found = compare_columns(entry.columns, c, place.board.tolerance.equivalence_points)
    where = None
    if not dry_run:
        message = f"Verification of {id}: {found.verdict}"
        where = place.add({entry.place: file_of(entry)}, message, create_pr=place.repo is not None)
    return Verified(entry, found, where)


def compare_columns(columns: tuple[Column, ...], claim: Content, points: float) -> Agreement:
    """Agreement of a verifier's columns with those of a claim; `points` of equivalence."""
    claimed = {(c.regime, c.student): c for c in claim.columns if c.regime != OWN}
    pairs = [(c, claimed[c.regime, c.student]) for c in columns]
    mine, theirs = (Moments.stack([Moments.of(np.array(c.correct) / c.tested) for c in side]) for side in zip(*pairs))
    return agreement(mine, theirs, points / 100)


def _remade(found: Reproduction) -> Remade:
    words = () if found.holds else tuple(" ".join(line.split())[:300] for line in found.text().splitlines()[:20])
    return Remade(found.holds, words)
