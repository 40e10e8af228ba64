"""What the page of one result shows: every column, control, runs, verifications, sets and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_condense.evaluation.scores import lrs
from hf_condense.leaderboard.collect import Collected
from hf_condense.leaderboard.figures import duration, interval, percent, points, probability, size
from hf_condense.leaderboard.judging import accuracies
from hf_condense.leaderboard.result import Result, SetRef
from hf_condense.leaderboard.rows import Row, task_of
from hf_condense.leaderboard.statements import Verification
from hf_condense.leaderboard.statistics import Agreement
from hf_condense.leaderboard.views import accuracy, page_name, submitter, tab_id, without_verdict, worth_view

View = dict[str, Any]
HUB = "https://huggingface.co/datasets"
_NOTES = {
    "claim": "Withdrawn: its authors no longer make this claim. The numbers stay, and are not counted.",
    "error": "Withdrawn because of an error. The numbers stay, and are not counted.",
    "licence": "Withdrawn because of the licence: pictures and links are hidden. The numbers stay, and are not counted.",
}


def result_view(collected: Collected, result: Result) -> View:
    content, standing = result.content, collected.standings[result.id]
    sets, rows = len(content.sets), collected.by_result[result.id]
    notes = []
    if standing.withdrawn is not None:
        notes.append(_NOTES[standing.withdrawn.reason])
    if standing.superseded_by is not None:
        notes.append(f"Superseded by {standing.superseded_by}, with at least as many runs. Not counted.")
    if content.supersedes is not None:
        notes.append(f"Supersedes {content.supersedes}.")
    if content.cost.tuned_on == "test" and content.kind == "submission":
        notes.append("Settings were tuned on the test images: differences are flattered.")
    synthesis = content.cost.synthesis_seconds
    trials = content.cost.tuning_trials
    return {
        "result": result,
        "content": content,
        "method": content.method,
        "by": submitter(result),
        "notes": notes,
        "hidden": standing.hidden,
        "level": standing.level,
        "scope": "one set" if content.scope == "set" else f"{sets} sets of the method",
        "lines": [_line(collected, row, rows) for row in rows],
        "verifications": [_verification(v, found) for v, found in standing.verifications],
        "sets": [_set(ref, standing.hidden) for ref in content.sets],
        "settings": json.dumps(content.method.settings, indent=2, ensure_ascii=False, sort_keys=True),
        "synthesis": f"{duration(float(np.mean(synthesis)))} a set" if synthesis else "unknown",
        "tuned": content.cost.tuned_on + ("" if trials is None else f", {trials} trial{'s' if trials != 1 else ''}"),
    }


def _line(collected: Collected, row: Row, rows: Sequence[Row]) -> View:
    column, judged, task = row.column, row.judged, task_of(row.result, row.column)
    on_board = task.ipc in collected.board.ipc
    return {
        "name": f"{task.regime}, {task.student}",
        "task": f"../tasks/{page_name(task.source, task.ipc)}.html#{tab_id(task)}" if on_board else "../about.html",
        "top1": accuracy(row),
        "delta": points(judged.delta) if judged else "",
        "interval": interval(judged.low, judged.high) if judged else "",
        "verdict": judged.verdict if judged else "",
        "missing": without_verdict(row),
        "p": probability(judged.p) if judged else "",
        "detectable": percent(judged.detectable) if judged else "",
        **worth_view(row),
        **_robustness(collected, row, rows),
        "control": _control(collected, row),
        "size": size(row.bytes),
        "seeds": " ".join(map(str, column.seeds)),
        "correct": " ".join(map(str, column.correct)),
        "steps": column.steps,
        "student_seconds": duration(float(np.mean(column.student_seconds))),
    }


def _robustness(collected: Collected, row: Row, rows: Sequence[Row]) -> dict[str, str]:
    """DD-Ranking's three scores from means; empty where the full data or the hard column were not scored."""
    content, student = row.result.content, row.column.student
    full = collected.board.source(content.source).ceiling.get(student)
    hard = next((r.mean for r in rows if r.column.regime == "hard" and r.column.student == student), None)
    ours = "" if row.judged is None else points(row.judged.delta)
    if full is None or hard is None or row.judged is None:
        return {"hlr": "", "ior": ours, "lrs": ""}
    found = float(lrs(full, hard, row.mean, row.mean - row.judged.delta))
    return {"hlr": points(full - hard), "ior": ours, "lrs": percent(found)}


def _control(collected: Collected, row: Row) -> str:
    """Random draws on the submitter's machine minus the same draws on the board's."""
    control, task = row.column.control, task_of(row.result, row.column)
    bank = next((r.column for r in collected.rows[task] if r.is_random), None)
    if control is None or bank is None:
        return ""
    theirs = dict(zip(bank.set_index, accuracies(bank)))
    pairs = [(n / row.column.tested, theirs[s]) for s, n in zip(control.seeds, control.correct) if s in theirs]
    return points(float(np.mean([mine - other for mine, other in pairs]))) if pairs else ""


def _verification(entry: Verification, found: Agreement) -> View:
    centre = (found.low + found.high) / 2
    more = "" if found.more_seeds is None else f"; {found.more_seeds} more seeds would decide it"
    remade = "not tried" if entry.remade is None else "the same set" if entry.remade.same else "another set"
    return {
        "by": entry.submitted.by,
        "date": entry.submitted.date,
        "finding": found.verdict + more,
        "largest": points(float(centre[np.abs(centre).argmax()])),
        "remade": remade,
    }


def _set(ref: SetRef, hidden: bool) -> View:
    address = None if hidden or ref.local else f"{HUB}/{ref.repo}/tree/{ref.revision}"
    return {
        "name": ref.repo,
        "address": address,
        "seed": "" if ref.seed is None else ref.seed,
        "images": ref.images,
        "size": size(ref.image_bytes),
        "licence": ref.licence or "unknown",
        "pixels": ref.pixels_hash[:16],
    }
