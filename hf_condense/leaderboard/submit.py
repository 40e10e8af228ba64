"""A submission: sets scored under a board, beside the board's draws on the same machine, as one result or pull request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_condense.config import check
from hf_condense.leaderboard.admission import already, bank_of, check_sets, seed_count, source_of
from hf_condense.leaderboard.board import Board
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.entries import file_of
from hf_condense.leaderboard.facts import cost_of, method_facts
from hf_condense.leaderboard.judging import Columns, judge, random_bank
from hf_condense.leaderboard.own_labels import own_columns
from hf_condense.leaderboard.place import Place, author_of, open_place
from hf_condense.leaderboard.predictions import describe_predictions, write_predictions
from hf_condense.leaderboard.pushed_students import check_pushing, publish_students
from hf_condense.leaderboard.result import FORMAT, BoardRef, Content, Cost, Result, Submitted
from hf_condense.leaderboard.scoring import BoardScorer, columns_of
from hf_condense.leaderboard.sets import CondensedSet, open_set
from hf_condense.leaderboard.stamp import provenance, today

_COPIED = ("condensation.json", "README.md", "preview.png", "data", "tensors", "soft_labels")


@dataclass(frozen=True)
class Submission:
    """What was submitted, what the board says of it, and where it went (None in a dry run).

    Args:
        students: model repositories that were pushed.
    """

    result: Result
    verdicts: str
    where: str | None
    students: tuple[str, ...] = ()


def submit(
    names: Sequence[str],
    leaderboard: str | Path,
    *,
    revision: str | None = None,
    source: str | None = None,
    seeds: int | None = None,
    own_labels: bool = False,
    tuned_on: str = "unknown",
    tuning_trials: int | None = None,
    supersedes: str | None = None,
    by: str | None = None,
    work: Path | None = None,
    push_students: bool = False,
    dry_run: bool = False,
) -> Submission:
    """Scores sets under a board and submits the result. The same call resumes: finished students are kept.

    Args:
        names: run folders, folders of distilled datasets, or Hub ids. Several sets of one method, from different
            synthesis seeds, are scope `method` (one student each); one is scope `set`.
        leaderboard: folder or repository of the board. A folder gets the result, a repository a pull request.
        revision: of the sets, for Hub ids.
        source: of the board; found by the sets' record where not given.
        seeds: student seeds of one set; the board's recommended number where not given.
        own_labels: add the columns `own`, under the labels that the set was published with.
        tuned_on: what settings were chosen on: held-out, test or unknown; in `tuning_trials` trials.
        supersedes: id of an earlier result of the same author.
        by: name of who submits; the Hub's user, or for a folder the system's, where not given.
        push_students: publish the median-seed student of each column, with its entry for the board.
        dry_run: score and print the verdicts, submit nothing.

    Raises:
        ConfigError: sets that do not fit the board or each other, or an option out of range.
        ArtefactError, DataError, ModelError: sets, board, source or teacher cannot be read.
        HubError: the Hub refuses, or cannot be reached; nothing is half written, and the same call goes on.
    """
    place = open_place(leaderboard)
    board = place.board
    check(not board.frozen, "leaderboard", board.name, "a board that is not frozen", "submit to its successor")
    check(len(names) >= 1, "sets", [], "one or more run folders or Hub ids")
    check(tuned_on in ("held-out", "test", "unknown"), "tuned_on", tuned_on, "held-out, test, unknown")
    by = author_of(place, by)
    scorer = BoardScorer(place, source or source_of(names[0], board), work)
    sets = [open_set(n, scorer.train, scorer.test, revision=revision, labels=own_labels) for n in names]
    check_sets(sets, place)
    if push_students:
        check_pushing(place, sets)
    ipc, count = sets[0].ipc, seed_count(sets, board, seeds)
    bank = bank_of(place, scorer.source.name, ipc)
    result = already(place, sets, scorer.source.name, count, by, supersedes)
    if result is not None:
        where = f"already there as {result.id}"
    else:
        costs = cost_of(sets, scorer.device, tuned_on, tuning_trials)
        columns, predictions = _scored(scorer, sets, ipc, count, own_labels)
        content = _content(scorer, sets, ipc, by, columns, predictions, costs, supersedes)
        result, where = Result.of(content, Submitted(by, today())), None
        if not dry_run:
            files = _files(place, result, predictions, sets)
            title = f"{content.method.title} on {content.source}, {ipc} images a class ({content.scope})"
            where = place.add(files, title, create_pr=place.repo is not None)
    pushed = publish_students(scorer, place, result, sets) if push_students and not dry_run else []
    return Submission(result, verdict_table(result, bank, board), where, tuple(pushed))


def _content(
    scorer: BoardScorer,
    sets: Sequence[CondensedSet],
    ipc: int,
    by: str,
    columns: Sequence[Column],
    predictions: bytes,
    costs: Cost,
    supersedes: str | None,
) -> Content:
    """What the result says, whoever submits it."""
    return Content(
        format=FORMAT,
        board=BoardRef(scorer.board.name, scorer.board.fingerprint),
        kind="submission",
        scope="method" if len(sets) > 1 else "set",
        method=method_facts(sets[0]),
        sets=tuple(s.ref(by) for s in sets),
        source=scorer.source.name,
        ipc=ipc,
        columns=tuple(columns),
        cost=costs,
        provenance=provenance(),
        predictions=describe_predictions(predictions),
        supersedes=supersedes,
    )


def _scored(
    scorer: BoardScorer, sets: Sequence[CondensedSet], ipc: int, count: int, own_labels: bool
) -> tuple[list[Column], bytes]:
    """All columns, and the file of predictions."""
    runs = scorer.score_each([s.image_set() for s in sets], ipc, range(count), sets[0].method_name)
    teacher_bytes = 0 if scorer.teacher is None else scorer.teacher.bytes
    columns = columns_of(runs, len(scorer.test), teacher_bytes, scorer.control(ipc, count))
    if own_labels:
        more, own = own_columns(scorer, sets, ipc, count)
        columns, runs = [*columns, *more], [*runs, *own]
    return columns, write_predictions(runs)


def _files(place: Place, result: Result, predictions: bytes, sets: Sequence[CondensedSet]) -> dict[str, Path | bytes]:
    """What a submission adds. A folder keeps the sets too; the result comes last, and says that all is there."""
    files: dict[str, Path | bytes] = {}
    for found, ref in zip(sets, result.content.sets):
        if ref.local:
            for name in _COPIED:
                path = found.place / name
                inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
                files |= {f"{ref.repo}/{p.relative_to(found.place).as_posix()}": p for p in inside if p.is_file()}
    return {**files, result.predictions_place: predictions, result.place: file_of(result)}


def verdict_table(result: Result, bank: Result, board: Board) -> str:
    """What the board says of a result: a line a column, Holm over the columns."""
    c, found, lines = result.content, Columns.of([result]), []
    for column, mean, var, judged in zip(
        c.columns, found.moments.mean, found.moments.var, judge(found, random_bank([bank]), board.alpha)
    ):
        line = f"  {column.regime:<7} {column.student:<16} {100 * mean:5.1f} ± {100 * var**0.5:.1f} %   "
        if judged is None:
            line += "no verdict: no random images under the same labels"
        else:
            line += (
                f"{100 * judged.delta:+5.1f} points [{100 * judged.low:+.1f}, {100 * judged.high:+.1f}], p {judged.p:.3f}: "
                f"{judged.verdict} (a difference of {100 * judged.detectable:.1f} would have been seen)"
            )
        lines.append(line)
    runs, draws = len(c.columns[0].seeds), len(bank.content.sets)
    what = (
        f"{len(c.sets)} sets, a student each, by Welch's test"
        if c.scope == "method"
        else f"one set, {runs} students, against what a random draw would reach (prediction form)"
    )
    head = (
        f"{c.method.title} on {c.source}, {c.ipc} images a class: {what}; {draws} random draws; p by Holm over columns"
    )
    return "\n".join([head, *lines])
