"""What the pages of tasks and plots show: rows of numbers turned into cells of text, in the order of the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_condense.leaderboard.board import OWN, Task
from hf_condense.leaderboard.collect import Collected
from hf_condense.leaderboard.drawing import axis, axis_limit, bar, pareto_plot, pareto_points
from hf_condense.leaderboard.figures import duration, interval, percent, points, size, worth, worth_interval
from hf_condense.leaderboard.judging import Judged
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.rows import Row

View = dict[str, Any]
SATURATED = 0.02  # full data are less than this above random draws
UNPLOTTED = ("full", "luckiest", "noise")  # far from all other rows, or no row that one could choose
CAPTIONS = {
    "method": "Methods: several sets from different seeds, one student each, against random draws (Welch).",
    "set": "Single sets: one published set with several students, against what a random draw would reach.",
}
OWN_CAPTION = " Here each row's own labels: random images are labelled by the set's own teacher."


def page_name(source: str, ipc: int) -> str:
    return f"{source}-ipc{ipc}"


def page_title(source: str, ipc: int) -> str:
    return f"{source}, {ipc} image{'s' if ipc != 1 else ''} per class"


def tab_id(task: Task) -> str:
    """Address of a part of a page: letters, digits and dashes alone."""
    return re.sub(r"[^a-z0-9]+", "-", f"{task.regime}-{task.student}".lower()).strip("-")


def submitter(result: Result) -> str:
    return "board" if result.content.kind == "baseline" else result.submitted.by


def tabs_of(collected: Collected, source: str, ipc: int) -> list[tuple[Task, list[Row]]]:
    """Tasks of a page that have rows, in the order of the board; own labels last."""
    columns = [*collected.board.columns(), *((OWN, student) for student in collected.board.students)]
    tasks = [Task(source, ipc, regime, student) for regime, student in columns]
    return [(task, collected.rows[task]) for task in tasks if task in collected.rows]


def task_tab(collected: Collected, task: Task, rows: Sequence[Row]) -> View:
    """A tab of a task page: facts, and a table for each scope."""
    random = next((row for row in rows if row.is_random), None)
    source = collected.board.source(task.source)
    ceiling = source.ceiling.get(task.student)
    facts = []
    if random is not None:
        facts.append(("Random draws", f"{accuracy(random)} % (mean ± sd of {random.n})"))
    if ceiling is not None:
        facts.append(("Full data, hard labels", f"{percent(ceiling)} %"))
    if source.teacher is not None and task.regime in ("stored", "online"):
        facts.append(("Teacher", f"{percent(source.teacher.top1)} %"))
    facts.append(("Submissions", sum(row.result.content.kind == "submission" for row in rows)))
    limit = axis_limit(rows)
    return {
        "id": tab_id(task),
        "title": f"{task.regime} labels, {task.student}",
        "short": f"{task.regime}, {task.student}",
        "facts": facts,
        "saturated": random is not None and ceiling is not None and ceiling - random.mean < SATURATED,
        "tables": [
            {
                "caption": CAPTIONS[scope] + OWN_CAPTION * (task.regime == OWN),
                "axis": axis(limit),
                "rows": [row_view(collected, row, limit, scope) for row in ordered(collected, rows, scope)],
            }
            for scope in ("method", "set")
            if any(row.result.content.scope == scope and row.result.content.kind == "submission" for row in rows)
            or (scope == "method" and all(row.result.content.kind == "baseline" for row in rows))
        ],
    }


def ordered(collected: Collected, rows: Iterable[Row], scope: str) -> list[Row]:
    """Rows of a scope and all baselines by their mean; rows that do not count come last."""
    chosen = [r for r in rows if r.result.content.scope == scope or r.result.content.kind == "baseline"]
    return sorted(chosen, key=lambda r: (not collected.counts(r.result), -r.mean, r.result.id))


def accuracy(row: Row) -> str:
    return percent(row.mean) + ("" if row.sd is None else f" ± {percent(row.sd)}")


def row_view(collected: Collected, row: Row, limit: float, scope: str) -> View:
    """The cells of one row of a task page."""
    content, standing, judged = row.result.content, collected.standings[row.result.id], row.judged
    first, last = row.ranks.get(scope, (None, None))
    return {
        "title": content.method.title,
        "by": submitter(row.result),
        "link": f"../methods/{row.result.id}.html",
        "classes": "random" if row.is_random else "gone" if standing.gone else "",
        "gone": standing.gone,
        "rank": "" if first is None else f"{first}" if first == last else f"{first}–{last}",
        "top1": accuracy(row),
        "delta": points(judged.delta) if judged else "",
        "interval": interval(judged.low, judged.high) if judged else "",
        "bar": bar(judged, limit) if judged else "",
        "verdict": judged.verdict if judged else "",
        "verdict_text": _short(judged) if judged else without_verdict(row),
        **worth_view(row),
        "bytes": row.bytes,
        "size": size(row.bytes),
        "seconds": round(row.seconds, 1),
        "duration": duration(row.seconds),
        "n": row.n,
        "level": standing.level,
    }


def without_verdict(row: Row) -> str:
    """What stands in the place of a verdict."""
    return "reference" if row.is_random else "no control" if row.column.regime == OWN else ""


def _short(judged: Judged) -> str:
    return judged.verdict.replace("different from random", "different")


def worth_view(row: Row) -> View:
    cell = row.worth
    if cell is None:
        return {"worth": "", "worth_interval": "", "worth_key": ""}
    shown = "" if cell.flat else worth_interval(cell)
    return {"worth": worth(cell), "worth_interval": shown, "worth_key": "" if cell.flat else f"{cell.value:.4g}"}


def plots_tab(collected: Collected, task: Task, rows: Sequence[Row]) -> View:
    """Both Pareto plots of a task, and their points as text."""
    counted = [
        row
        for row in rows
        if collected.counts(row.result)
        and not (row.result.content.kind == "baseline" and row.result.content.method.name in UNPLOTTED)
    ]
    random = next((row.mean for row in counted if row.is_random), None)
    found = {cost: pareto_points(counted, cost) for cost in ("bytes", "seconds")}
    fronts = {cost: {p.row.result.id for p in points_ if p.on_front} for cost, points_ in found.items()}
    captions = {
        "bytes": "Top-1 accuracy for bytes (images, labels, teacher)",
        "seconds": "Top-1 accuracy for seconds (networks, synthesis of a set)",
    }
    return {
        "id": tab_id(task),
        "title": f"{task.regime} labels, {task.student}",
        "short": f"{task.regime}, {task.student}",
        "plots": [
            {"caption": captions[cost], "svg": pareto_plot(found[cost], cost, random, method_link)} for cost in found
        ],
        "lines": [
            {
                "title": p.row.result.content.method.title,
                "by": submitter(p.row.result),
                "link": method_link(p.row),
                "random": p.row.is_random,
                "top1": accuracy(p.row),
                "size": size(p.row.bytes),
                "duration": duration(p.row.seconds),
                "fronts": ", ".join(cost for cost in found if p.row.result.id in fronts[cost]),
            }
            for p in found["bytes"]
        ],
    }


def method_link(row: Row) -> str:
    return f"../methods/{row.result.id}.html"
