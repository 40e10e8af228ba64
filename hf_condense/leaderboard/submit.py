"""A submission: sets scored under a board, beside the board's draws on the same machine, as one result or pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hf_condense.config import check, nearest
from hf_condense.data.names import canonical_name
from hf_condense.errors import ConfigError
from hf_condense.evaluation.comparison import Moments, compare
from hf_condense.evaluation.run import ImageSet
from hf_condense.files import canonical_json
from hf_condense.hub.distilled import locate
from hf_condense.hub.provenance import device_name, portable
from hf_condense.hub.record import read_record
from hf_condense.leaderboard.bank import provenance, today
from hf_condense.leaderboard.board import OWN, Board
from hf_condense.leaderboard.entries import file_of
from hf_condense.leaderboard.limits import MAX_STRING
from hf_condense.leaderboard.place import Place, open_place, user_of
from hf_condense.leaderboard.predictions import describe_predictions, write_predictions
from hf_condense.leaderboard.result import (
    FORMAT,
    SETTINGS_BYTES,
    BoardRef,
    Content,
    Cost,
    MethodFacts,
    Result,
    Submitted,
    settings_digest,
)
from hf_condense.leaderboard.scoring import BoardScorer, columns_of
from hf_condense.leaderboard.sets import CondensedSet, open_set
from hf_condense.leaderboard.statistics import holm, verdicts

_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")
_COPIED = ("condensation.json", "README.md", "preview.png", "data", "tensors")


@dataclass(frozen=True)
class Submission:
    """What was submitted, what the board says of it, and where it went (None in a dry run)."""

    result: Result
    verdicts: str
    where: str | None


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
        own_labels: add the column `own`, under the labels that the set was published with.
        tuned_on: what settings were chosen on: held-out, test or unknown; in `tuning_trials` trials.
        supersedes: id of an earlier result of the same author.
        by: name of who submits; the Hub's user, or for a folder the system's, where not given.
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
    by = by or user_of(place)
    scorer = BoardScorer(place, source or _source_of(names[0], board), work)
    sets = [open_set(n, scorer.train, scorer.test, revision=revision, labels=own_labels) for n in names]
    _check_sets(sets, place)
    ipc, count = sets[0].ipc, _seed_count(sets, board, seeds)
    bank = _bank(place, scorer.source.name, ipc)
    already = _already(place, sets, scorer.source.name, count, by, supersedes)
    if already is not None:
        return Submission(already, verdict_table(already, bank, board), f"already there as {already.id}")
    row = sets[0].method_name
    runs = scorer.score_each([s.image_set() for s in sets], ipc, range(count), row)
    teacher_bytes = 0 if scorer.teacher is None else scorer.teacher.bytes
    columns = columns_of(runs, len(scorer.test), teacher_bytes, scorer.control(ipc, count))
    if own_labels:
        own = _own_runs(scorer, sets, ipc, count)
        columns += columns_of(own, len(scorer.test), teacher_bytes)
        runs = [*runs, *own]
    predictions = write_predictions(runs)
    content = Content(
        format=FORMAT,
        board=BoardRef(board.name, board.fingerprint),
        kind="submission",
        scope="method" if len(sets) > 1 else "set",
        method=_method(sets[0]),
        sets=tuple(s.ref(by) for s in sets),
        source=scorer.source.name,
        ipc=ipc,
        columns=tuple(columns),
        cost=_cost(sets, scorer, tuned_on, tuning_trials),
        provenance=provenance(),
        predictions=describe_predictions(predictions),
        supersedes=supersedes,
    )
    result = Result.of(content, Submitted(by, today()))
    text = verdict_table(result, bank, board)
    if dry_run:
        return Submission(result, text, None)
    files = _files(place, result, predictions, sets)
    title = f"{content.method.title} on {content.source}, {ipc} images a class ({content.scope})"
    return Submission(result, text, place.add(files, title, create_pr=place.repo is not None))


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
    c, lines = result.content, []
    judged = [
        (column, _bank_column(bank, column.regime, column.student)) for column in c.columns if column.regime != OWN
    ]
    found = [compare(Moments.of(_accuracies(x)), Moments.of(_accuracies(r)), c.scope) for x, r in judged]
    adjusted = holm([float(d.p) for d in found])
    words = verdicts([float(d.delta) for d in found], [float(d.p) for d in found], board.alpha)
    for (column, _), d, p, verdict in zip(judged, found, adjusted, words):
        top1 = _accuracies(column)
        lines.append(
            f"  {column.regime:<7} {column.student:<16} {100 * top1.mean():5.1f} ± {100 * top1.std(ddof=1):.1f} %   "
            f"{100 * d.delta:+5.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}], p {p:.3f}: {verdict} "
            f"(a difference of {100 * d.detectable:.1f} would have been seen)"
        )
    runs = len(c.columns[0].seeds)
    what = (
        f"{len(c.sets)} sets, a student each, by Welch's test"
        if c.scope == "method"
        else f"one set, {runs} students, against what a random draw would reach (prediction form)"
    )
    random = len(_bank_column(bank, *board.columns()[0]).correct)
    head = f"{c.method.title} on {c.source}, {c.ipc} images a class: {what}; {random} random draws; p by Holm over columns"
    return "\n".join([head, *lines])


def _accuracies(column) -> np.ndarray:
    return np.array(column.correct) / column.tested


def _bank_column(bank: Result, regime: str, student: str):
    return next(c for c in bank.content.columns if (c.regime, c.student) == (regime, student))


def _bank(place: Place, source: str, ipc: int) -> Result:
    """The random draws of a task."""
    for result in place.entries(Result):
        c = result.content
        if (c.kind, c.method.name, c.source, c.ipc) == ("baseline", "random", source, ipc):
            return result
    raise ConfigError(
        "leaderboard",
        place.board.name,
        f"a board with random draws of {source} at {ipc} images a class",
        "its keeper runs `hf-condense leaderboard bank` first",
    )


def _already(
    place: Place, sets: Sequence[CondensedSet], source: str, count: int, by: str, supersedes: str | None
) -> Result | None:
    """The result that a repeated call has already submitted.

    Raises:
        ConfigError: these sets were submitted before, or `supersedes` is not an earlier result of the same author with
            at most as many seeds.
    """
    mine = sorted(s.pixels_hash for s in sets)
    earlier = [
        r
        for r in place.entries(Result)
        if r.content.kind == "submission"
        and r.content.source == source
        and sorted(s.pixels_hash for s in r.content.sets) == mine
    ]
    same = [r for r in earlier if len(r.content.columns[0].seeds) == count and r.submitted.by == by]
    if same:
        return same[-1]
    if supersedes is not None:
        old = place.result(supersedes)
        check(old.submitted.by == by, "supersedes", supersedes, f"a result of {by}")
        n = len(old.content.columns[0].seeds)
        check(n <= count, "seeds", count, f"{n} or more, as the result that is superseded has")
    elif earlier:
        id = earlier[0].id
        raise ConfigError(
            "sets",
            f"already there as {id}",
            "sets that the board does not have",
            f"verify it instead: hf-condense verify {id}; for more seeds of your own give --supersedes {id}",
        )
    return None


def _source_of(name: str, board: Board) -> str:
    """The board's source that a set was made from, by its record."""
    if len(board.sources) == 1:
        return board.sources[0].name
    made_from = canonical_name(read_record(locate(name))["content"]["source"]["id"])
    found = [s.name for s in board.sources if canonical_name(s.id) == made_from]
    known = [s.name for s in board.sources]
    check(
        len(found) == 1,
        "source",
        made_from,
        f"one of {', '.join(known)}",
        f"give --source; {nearest(made_from, known)}",
    )
    return found[0]


def _check_sets(sets: Sequence[CondensedSet], place: Place) -> None:
    board, first = place.board, sets[0]
    ipcs = sorted({s.ipc for s in sets})
    check(len(ipcs) == 1, "ipc", ipcs, "sets of one IPC", "submit each IPC by itself")
    check(
        first.ipc in board.ipc,
        "ipc",
        first.ipc,
        f"an IPC of the board: {', '.join(map(str, board.ipc))}",
        "condense with another --ipc",
    )
    names = sorted({s.method_name for s in sets})
    check(len(names) == 1, "sets", names, "sets of one method", "submit each method by itself")
    hashes = [s.pixels_hash for s in sets]
    check(len(set(hashes)) == len(hashes), "sets", "the same images twice", "sets from different synthesis seeds")
    check(
        place.repo is None or all(s.repo is not None for s in sets),
        "sets",
        "a folder on this machine",
        "Hub ids, which everybody can read",
        "`hf-condense push RUN_FOLDER owner/name`, then submit owner/name",
    )
    for found in sets:
        licence = found.data.content["source"].get("license")
        check(licence not in board.licences.deny, "licence", licence, "a licence that the board takes")


def _seed_count(sets: Sequence[CondensedSet], board: Board, asked: int | None) -> int:
    least = board.seeds.min
    if len(sets) > 1:
        check(asked in (None, len(sets)), "seeds", asked, f"{len(sets)}: one student a set", "leave --seeds out")
        check(len(sets) >= least, "sets", len(sets), f"one, or {least} and more of one method")
        most, count, name = board.bank.draws, len(sets), "sets"
    else:
        count, most, name = asked or board.seeds.recommended, board.bank.draws, "seeds"
    check(least <= count <= most, name, count, f"{least} to {most}")
    return count


def _own_runs(scorer: BoardScorer, sets: Sequence[CondensedSet], ipc: int, count: int):
    """Students under the labels that the sets were published with."""
    own = [_own_set(s) for s in sets]
    per_image = own[0].store is None
    protocol = replace(scorer.protocol, label_per="image") if per_image else scorer.protocol
    runs = scorer.score_each(
        own, ipc, range(count), f"{sets[0].method_name}-own", regimes=("stored",), protocol=protocol
    )
    return [replace(run, regime=OWN) for run in runs]


def _own_set(found: CondensedSet) -> ImageSet:
    data = found.data
    published = data.store is not None or data.soft_labels is not None
    check(published, "own_labels", True, "sets that were published with soft labels", "leave --own_labels out")
    plain = found.image_set()
    extra = {"store": data.store} if data.store is not None else {"soft": data.soft_labels.float()}
    return ImageSet(
        plain.images,
        plain.labels,
        formation_factor=plain.formation_factor,
        rates=plain.rates,
        bytes=plain.bytes,
        **extra,
    )


def _method(found: CondensedSet) -> MethodFacts:
    about, config = found.data.content["method"], found.data.content["config"]
    settings = _short({k: config[k] for k in ("method", "squeeze", "run") if config.get(k)})
    settings.get("run", {}).pop("seed", None)
    if len(canonical_json(settings).encode()) > SETTINGS_BYTES:
        settings = {"left_out": "larger than a result file may hold: see condensation.json of the set"}
    paper = _ARXIV.search(str(about.get("paper") or ""))
    name = re.sub(r"[^\w.-]", "-", about["name"])[:64]
    return MethodFacts(
        name=name,
        title=about["title"][:MAX_STRING],
        paper=paper and f"https://arxiv.org/abs/{paper[1]}",
        code=None,
        settings=settings,
        settings_sha256=settings_digest(settings),
    )


def _short(value):
    """Settings as a result file takes them: portable, strings cut."""
    value = portable(value)
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return value[:MAX_STRING] if isinstance(value, str) else value


def _cost(sets: Sequence[CondensedSet], scorer: BoardScorer, tuned_on: str, trials: int | None) -> Cost:
    """Seconds and memory as the sets' records have them."""

    def stages(found: CondensedSet) -> dict[str, dict]:
        kept = found.data.record.get("stages")
        return {s["name"]: s for s in kept if isinstance(s, dict) and "name" in s} if isinstance(kept, list) else {}

    def number(stage: dict, name: str) -> float:
        value = stage.get(name, 0)
        return value if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0

    all_stages = [stages(found) for found in sets]
    synthesis = [number(s.get("condense", {}), "seconds") for s in all_stages]
    pool = [number(s.get("squeeze", {}), "seconds") + number(s.get("statistics", {}), "seconds") for s in all_stages]
    peak = max((number(stage, "peak_bytes") for s in all_stages for stage in s.values()), default=0)
    device = str(sets[0].data.record.get("device") or device_name(scorer.device))[:MAX_STRING]
    threads = sets[0].data.record.get("threads")
    return Cost(
        synthesis_seconds=tuple(round(float(s), 2) for s in synthesis),
        pool_seconds=round(float(max(pool)), 2),
        peak_memory=int(peak),
        device=device,
        threads=threads if type(threads) is int else torch.get_num_threads(),
        tuning_trials=trials,
        tuned_on=tuned_on,
    )
