"""The validator: eight checks of what is submitted to a board. It runs nothing of the files and unpickles nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from hf_condense.data.source import Splits
from hf_condense.errors import CondensationError
from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.entries import check_place, read_bytes
from hf_condense.leaderboard.limits import MAX_BYTES, need, refuse
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.predictions import read_predictions, recount
from hf_condense.leaderboard.result import Content, Result, check_board
from hf_condense.leaderboard.scoring import open_board_source, protocol_steps
from hf_condense.leaderboard.sets import CondensedSet, open_set
from hf_condense.leaderboard.statements import Verification, Withdrawal

CHECKS = {
    1: "limits and form",
    2: "id, place and what is changed",
    3: "board, columns, seeds and steps",
    4: "counts from predictions and labels",
    5: "sets at their revision",
    6: "environment: the positive control",
    7: "what looks unusual",
    8: "duplicates and what is superseded",
}
KINDS = {"results": Result, "verified": Verification, "withdrawn": Withdrawal}
ADDED = (*KINDS, "predictions")
MAX_PREDICTIONS = 100_000_000  # bytes
_UNUSUAL_SPREAD = 0.2  # of the bank's


@dataclass(frozen=True)
class Line:
    """What one check says: holds, flag (a person should look) or refused."""

    check: int
    state: Literal["holds", "flag", "refused"]
    reason: str

    def text(self) -> str:
        return f"  {self.check} {self.state:<8} {CHECKS[self.check]}{self.reason and ': '}{self.reason}"


@dataclass
class Report:
    """The checks of one file."""

    name: str
    lines: list[Line] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return any(line.state == "refused" for line in self.lines)

    def text(self) -> str:
        """For a terminal, or for a comment."""
        verdict = "refused" if self.refused else "holds"
        return "\n".join([f"{self.name}: {verdict}", *(line.text() for line in self.lines)])

    def run(self, number: int, checked: Callable[[], Sequence[str] | None]) -> bool:
        """Runs one check: an error of the library refuses, words that it gives back are flags."""
        try:
            flags = checked() or ()
        except CondensationError as error:
            self.lines.append(Line(number, "refused", str(error)))
            return False
        self.lines += [Line(number, "flag", flag) for flag in flags] or [Line(number, "holds", "")]
        return True


class Checker:
    """Checks files against a board.

    Args:
        place: the board before the change.
        data: False leaves out what needs the source and the sets (checks 4 and 5).
    """

    def __init__(self, place: Place, data: bool = True) -> None:
        self.place, self.board, self.data = place, place.board, data
        self._sources: dict[str, Splits] = {}

    @cached_property
    def results(self) -> list[Result]:
        """All results of the board before the change."""
        return list(self.place.entries(Result))

    def check(self, files: Mapping[str, bytes], author: str | None = None) -> list[Report]:
        """Reports of all results, verifications and withdrawals among added files.

        Args:
            files: path in the results repository -> bytes.
            author: of the change, where known; entries must be submitted by them.
        """
        reports = []
        for name, data in sorted(files.items()):
            kind = KINDS.get(name.split("/", 1)[0])
            if kind is None:
                stray = name.split("/", 1)[0] not in ADDED or (
                    name.startswith("predictions/") and not self._claimed(name, files)
                )
                if stray:
                    reports.append(
                        Report(name, [Line(2, "refused", f"only {', '.join(KINDS)} and predictions are added")])
                    )
                continue
            reports.append(self._entry(kind, name, data, files, author))
        return reports

    def _claimed(self, name: str, files: Mapping[str, bytes]) -> bool:
        """Whether a file of predictions belongs to a result of the change."""
        id = Path(name).stem
        return any(Path(other).stem == id and other.startswith("results/") for other in files)

    def _entry(self, kind: type, name: str, data: bytes, files: Mapping[str, bytes], author: str | None) -> Report:
        report, found = Report(name), []
        if not report.run(1, lambda: found.append(read_bytes(kind, data, name.rsplit("/", 1)[-1]))):
            return report
        entry = found[0]

        def placed() -> None:
            check_place(entry, name)
            by = entry.by if kind is Withdrawal else entry.submitted.by
            need(author in (None, by), "submitted.by", by, f"{author}, who opened the change")

        report.run(2, placed)
        if kind is Result:
            self._result(report, entry, files, author)
        elif kind is Verification:
            report.run(3, lambda: self._verification(entry))
        else:
            report.run(8, lambda: self._withdrawal(entry, author))
        return report

    def _result(self, report: Report, result: Result, files: Mapping[str, bytes], author: str | None) -> None:
        c = result.content
        if not report.run(3, lambda: self._form(c)):
            return
        predictions = files.get(result.predictions_place)
        if self.data:
            sets: list[CondensedSet] = []
            report.run(4, lambda: self._counts(c, predictions))
            report.run(5, lambda: self._sets(c, sets))
            report.run(3, lambda: self._steps(c, sets)) if sets else None
        if c.kind == "submission":
            report.run(6, lambda: self._control(c))
        report.run(7, lambda: self._unusual(c, predictions))
        report.run(8, lambda: self._duplicate(result))

    # the checks: each raises, or gives back flags

    def _form(self, c: Content) -> None:
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
                if column.regime != OWN:
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

    def _counts(self, c: Content, predictions: bytes | None) -> None:
        need(predictions is not None, "predictions", "missing", "the file of predictions beside the result")
        need(len(predictions) <= MAX_PREDICTIONS, "predictions", len(predictions), f"at most {MAX_PREDICTIONS} bytes")
        digest = hashlib.sha256(predictions).hexdigest()
        need(
            digest == c.predictions.sha256, "predictions.sha256", c.predictions.sha256, f"that of the file ({digest})"
        )
        recount(predictions, c.columns, self._source(c.source).test.labels)

    def _sets(self, c: Content, opened: list[CondensedSet]) -> list[str] | None:
        """Every set at its revision: hashes, ipc x classes images, bytes, licence."""
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

    def _steps(self, c: Content, sets: Sequence[CondensedSet]) -> None:
        protocol, found = self.board.protocol.protocol(), sets[0].image_set()
        for i, column in enumerate(c.columns):
            expected = protocol_steps(protocol, column.student, found, c.ipc)
            need(column.steps == expected, f"columns[{i}].steps", column.steps, f"{expected}, as the protocol has it")

    def _bank(self, c: Content) -> Content | None:
        for other in (r.content for r in self.results):
            if (other.kind, other.method.name, other.source, other.ipc) == ("baseline", "random", c.source, c.ipc):
                return other
        return None

    def _control(self, c: Content) -> list[str]:
        """|mean(control - bank on the same draws)| within the tolerance, in every column."""
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

    def _unusual(self, c: Content, predictions: bytes | None) -> list[str]:
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

    def _duplicate(self, result: Result) -> None:
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

    def _verification(self, entry: Verification) -> list[str]:
        from hf_condense.leaderboard.verify import seeds_of

        check_board(entry.board, self.board)
        claim = next((r for r in self.results if r.id == entry.id), None)
        need(claim is not None, "id", entry.id, "a result of the board")
        names = [(c.regime, c.student) for c in entry.columns]
        need(set(names) == set(self.board.columns()), "columns", names, "all columns of the board")
        for i, column in enumerate(entry.columns):
            seeds = seeds_of(entry.id, entry.submitted.by, entry.commit, len(column.seeds))
            need(
                column.seeds == seeds,
                f"columns[{i}].seeds",
                list(column.seeds),
                f"{list(seeds)}, which follow from the id",
            )
        return ["by the author of the result"] if claim.submitted.by == entry.submitted.by else []

    def _withdrawal(self, entry: Withdrawal, author: str | None) -> list[str]:
        claim = next((r for r in self.results if r.id == entry.id), None)
        need(claim is not None, "id", entry.id, "a result of the board")
        return [] if entry.by == claim.submitted.by else [f"by {entry.by}, not by its author {claim.submitted.by}"]


def check_folder(place: Place, data: bool = True) -> list[Report]:
    """All files of a board's folder or snapshot."""
    files = {}
    for folder in (*KINDS, "predictions"):
        for path in sorted((place.folder / folder).rglob("*")):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(place.folder).parts):
                files[path.relative_to(place.folder).as_posix()] = _limited(path)
    return Checker(place, data).check(files)


def check_file(path: Path, place: Place, data: bool = True) -> list[Report]:
    """One file that is not yet part of the board, or that is; predictions are looked for beside the board."""
    content = _limited(path)
    resolved = path.resolve()
    inside = resolved.is_relative_to(place.folder.resolve())
    name = resolved.relative_to(place.folder.resolve()).as_posix() if inside else None
    if name is None:
        try:
            name = read_bytes(Result, content, path.name).place
        except CondensationError:
            name = f"results/{path.name}"
    files = {name: content}
    predictions = place.folder / f"predictions/{path.stem[:2]}/{path.stem}.parquet"
    if predictions.is_file():
        files[f"predictions/{path.stem[:2]}/{path.stem}.parquet"] = _limited(predictions)
    return Checker(place, data).check(files)


def _limited(path: Path) -> bytes:
    """A file's bytes, no more of them than its kind may have (and one, which shows that there are more)."""
    limit = MAX_BYTES if path.suffix == ".json" else MAX_PREDICTIONS
    with open(path, "rb") as file:
        return file.read(limit + 1)
