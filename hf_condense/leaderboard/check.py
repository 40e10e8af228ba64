"""The validator: eight checks of what is submitted to a board. It runs nothing of the files and unpickles nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.entries import check_place, read_bytes
from hf_condense.leaderboard.limits import MAX_BYTES, need
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.report import Line, Report
from hf_condense.leaderboard.result import Result, check_board
from hf_condense.leaderboard.result_checks import MAX_PREDICTIONS, ResultChecks
from hf_condense.leaderboard.sets import CondensedSet
from hf_condense.leaderboard.statements import Verification, Withdrawal

KINDS = {"results": Result, "verified": Verification, "withdrawn": Withdrawal}
ADDED = (*KINDS, "predictions")


class Checker:
    """Checks files against a board.

    Args:
        place: the board before the change.
        data: False leaves out what needs the source and the sets (checks 4 and 5).
    """

    def __init__(self, place: Place, data: bool = True) -> None:
        self.board, self.data, self.checks = place.board, data, ResultChecks(place)

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
        if not report.run(3, lambda: self.checks.form(c)):
            return
        predictions = files.get(result.predictions_place)
        if self.data:
            sets: list[CondensedSet] = []
            report.run(4, lambda: self.checks.counts(c, predictions))
            report.run(5, lambda: self.checks.sets(c, sets))
            report.run(3, lambda: self.checks.steps(c, sets)) if sets else None
        if c.kind == "submission":
            report.run(6, lambda: self.checks.control(c))
        report.run(7, lambda: self.checks.unusual(c, predictions))
        report.run(8, lambda: self.checks.duplicate(result))

    def _verification(self, entry: Verification) -> list[str]:
        from hf_condense.leaderboard.verify import seeds_of

        check_board(entry.board, self.board)
        claim = next((r for r in self.checks.results if r.id == entry.id), None)
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
        claim = next((r for r in self.checks.results if r.id == entry.id), None)
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
