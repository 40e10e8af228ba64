"""The checks of one result against its board: each raises, or gives back what a person should look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from hf_condense.data.source import Splits
from hf_condense.errors import CondensationError
from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.limits import need, refuse
from hf_condense.leaderboard.origins import open_board_source
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.predictions import read_predictions, recount
from hf_condense.leaderboard.result import Content, Result, check_board
from hf_condense.leaderboard.sets import CondensedSet, open_set
from hf_condense.leaderboard.training_length import protocol_steps

MAX_PREDICTIONS = 100_000_000  # bytes
_UNUSUAL_SPREAD = 0.2  # of the bank's


class ResultChecks:
    """Checks of results against a board as it was before the change."""

    def __init__(self, place: Place) -> None:
        self.place, self.board = place, place.board
        self._sources: dict[str, Splits] = {}

    @cached_property
    def results(self) -> list[Result]:
        """All results of the board."""
        return list(self.place.entries(Result))

    def form(self, c: Content) -> None:
        """3: board, columns, seeds and licences."""
        board = self.board
        check_board(c.board, board)
        need(not board.frozen, "board", board.name, "a board that is not frozen")
        board.source(c.source)  # refuses a name that the board does not have
        have = {(column.regime, column.student) for column in c.columns}
        wanted = set(board.columns())
        if c.kind == "submission":
            need(c.ipc in board.ipc, "ipc", c.ipc, f"an IPC of the board: {', '.join(map(str, board.ipc))}")
            missing = sorted(f"{regime} {student}" for regime, student in wanted - have)
            need(not missing, "columns", f"without {', '.join(missing)}", "all columns of the board")
            need(c.predictions is not None, "predictions", None, "the predictions of all students")
        extra = {(OWN, student) for student in board.students} if board.own_labels else set()
        unknown = sorted(f"{regime} {student}" for regime, student in have - wanted - extra)
        need(not unknown, "columns", f"with {', '.join(unknown)}", "columns of the board alone")
        runs = {len(column.seeds) for column in c.columns}
        need(len(runs) == 1, "seeds", sorted(runs), "as many seeds in every column")
        n = runs.pop()
        if c.kind == "submission":
            need(n >= board.seeds.min, "seeds", n, f"{board.seeds.min} or more")
            need(c.scope == "set" or n == len(c.sets), "seeds", n, f"one student a set ({len(c.sets)})")
            for i, column in enumerate(c.columns):
                place, seeds = f"columns[{i}]", tuple(range(n))
                need(column.seeds == seeds, f"{place}.seeds", list(column.seeds), f"the seeds 0 to {n - 1}")
                if (
                    column.regime != OWN or column.control is not None
                ):  # own labels may have no teacher that makes more
                    fits = column.control is not None and column.control.seeds == seeds
                    need(fits, f"{place}.control", "missing or of other draws", f"the board's draws 0 to {n - 1}")
            licences = [s.licence for s in c.sets if s.licence in board.licences.deny]
            need(not licences, "sets.licence", licences, "licences that the board takes")
        online = {column.regime: column.teacher_bytes for column in c.columns}
        need(not online.get("hard"), "teacher_bytes", online.get("hard"), "0 with hard labels")

    def _source(self, name: str) -> Splits:
        if name not in self._sources:
            self._sources[name] = open_board_source(self.board.source(name))
        return self._sources[name]

    def counts(self, c: Content, predictions: bytes | None) -> None:
        """4: counts from predictions and public labels."""
        need(predictions is not None, "predictions", "missing", "the file of predictions beside the result")
        need(len(predictions) <= MAX_PREDICTIONS, "predictions", len(predictions), f"at most {MAX_PREDICTIONS} bytes")
        digest = hashlib.sha256(predictions).hexdigest()
        need(
            digest == c.predictions.sha256, "predictions.sha256", c.predictions.sha256, f"that of the file ({digest})"
        )
        recount(predictions, c.columns, self._source(c.source).test.labels)

    def sets(self, c: Content, opened: list[CondensedSet]) -> list[str] | None:
        """5: every set at its revision: hashes, ipc x classes images, bytes, licence."""
        if c.kind == "baseline":
            return None
        splits = self._source(c.source)
        for i, ref in enumerate(c.sets):
            name = str(self.place.folder / ref.repo) if ref.local else ref.repo
            if ref.local and (self.place.repo is not None or not Path(name).is_dir()):
                refuse(f"sets[{i}].repo", ref.repo, "a Hub dataset repository at a commit", "push the set first")
            found = open_set(name, splits.train, splits.test, revision=ref.revision)
            for what, claimed, there in (
                ("content_hash", ref.content_hash, found.data.content["content_hash"].removeprefix("sha256:")),
                ("pixels_hash", ref.pixels_hash, found.pixels_hash),
                ("images", ref.images, len(found.data)),
                ("image_bytes", ref.image_bytes, found.image_bytes),
                ("licence", ref.licence, found.data.content["source"].get("license")),
                ("ipc", c.ipc, found.ipc),
            ):
                need(claimed == there, f"sets[{i}].{what}", claimed, f"{there}, as the set has it")
            opened.append(found)
        return None

    def steps(self, c: Content, sets: Sequence[CondensedSet]) -> None:
        """3: steps of the protocol."""
        protocol, found = self.board.protocol.protocol(), sets[0].image_set()
        for i, column in enumerate(c.columns):
            expected = protocol_steps(protocol, column.student, found, c.ipc)
            need(column.steps == expected, f"columns[{i}].steps", column.steps, f"{expected}, as the protocol has it")

    def _bank(self, c: Content) -> Content | None:
        for other in (r.content for r in self.results):
            if (other.kind, other.method.name, other.source, other.ipc) == ("baseline", "random", c.source, c.ipc):
                return other
        return None

    def control(self, c: Content) -> list[str]:
        """6: |mean(control - bank on the same draws)| within the tolerance, in every column."""
        bank, tolerance = self._bank(c), self.board.tolerance.control_points
        need(bank is not None, "bank", "missing", f"random draws of {c.source} at IPC {c.ipc}; run `leaderboard bank`")
        rows = {(column.regime, column.student): column for column in bank.columns}
        for i, column in enumerate(c.columns):
            if column.control is None or (column.regime, column.student) not in rows:
                continue
            theirs = rows[column.regime, column.student]
            known = dict(zip(theirs.set_index, theirs.correct))
            there = [known[seed] for seed in column.control.seeds if seed in known]
            mine = [n for seed, n in zip(column.control.seeds, column.control.correct) if seed in known]
            points = 100 * (np.mean(mine) / column.tested - np.mean(there) / theirs.tested)
            need(
                abs(points) <= tolerance,
                f"columns[{i}].control",
                f"{points:+.2f} points from the bank on the same draws",
                f"within {tolerance} points: the environment scores random sets differently",
            )
        return []

    def unusual(self, c: Content, predictions: bytes | None) -> list[str]:
        """7: what a person should look at."""
        flags = []
        ceiling, bank = self.board.source(c.source).ceiling, self._bank(c)
        rows = {} if bank is None else {(column.regime, column.student): column for column in bank.columns}
        for column in c.columns:
            name, top1 = f"{column.regime} {column.student}", np.array(column.correct) / column.tested
            theirs = rows.get((column.regime, column.student))
            if c.kind == "submission" and theirs is not None and len(top1) > 1:
                spread = np.std(np.array(theirs.correct) / theirs.tested, ddof=1)
                if top1.std(ddof=1) < _UNUSUAL_SPREAD * spread:
                    flags.append(f"{name}: spread below a fifth of the bank's")
            if column.student in ceiling and top1.mean() > ceiling[column.student] and c.kind == "submission":
                flags.append(f"{name}: above the full training data ({100 * ceiling[column.student]:.1f} %)")
        if c.kind == "submission" and c.cost.tuned_on != "held-out":
            flags.append(f"tuned on: {c.cost.tuned_on}")
        mine = {s.pixels_hash for s in c.sets}
        for other in self.results if c.kind == "submission" else ():
            shared = mine & {s.pixels_hash for s in other.content.sets}
            if shared and other.content != c:
                flags.append(f"{len(shared)} of {len(mine)} sets have the pixels of {other.id}")
        if predictions is not None:
            try:
                seen = list(read_predictions(predictions, c.columns).values())
            except CondensationError:
                return flags  # check 4 says why
            distinct = len({row.tobytes() for row in seen})
            if distinct < len(seen):
                flags.append(f"identical predictions in {len(seen) - distinct + 1} cells")
        return flags

    def duplicate(self, result: Result) -> None:
        """8: sets that were submitted before, and what is superseded."""
        c = result.content
        if c.kind == "baseline":
            return
        mine = sorted(s.pixels_hash for s in c.sets)
        for other in self.results:
            o = other.content
            same = o.kind == c.kind and (o.source, o.ipc) == (c.source, c.ipc)
            if other.id == result.id or not same or other.id == c.supersedes:
                continue
            if sorted(s.pixels_hash for s in o.sets) == mine and other.id not in self._superseded_by(result):
                refuse("sets", f"already there as {other.id}", "other sets", f"verify it instead: verify {other.id}")
        if c.supersedes is not None:
            old = next((r for r in self.results if r.id == c.supersedes), None)
            need(old is not None, "supersedes", c.supersedes, "a result of the board")
            need(
                old.submitted.by == result.submitted.by, "supersedes", old.submitted.by, "a result of the same author"
            )
            n, before = len(c.columns[0].seeds), len(old.content.columns[0].seeds)
            need(n >= before, "supersedes", f"{n} seeds", f"{before} or more, as {old.id} has")

    def _superseded_by(self, result: Result) -> set[str]:
        """Ids in the chain of what a result supersedes, and of what supersedes it."""
        links = {r.id: r.content.supersedes for r in [*self.results, result]}
        chain, id = set(), result.content.supersedes
        while id is not None and id not in chain:
            chain.add(id)
            id = links.get(id)
        return chain | {r for r, old in links.items() if old == result.id}
