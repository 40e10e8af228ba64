"""The board as data: one line for each result and task, as Parquet, CSV and JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hf_condense.leaderboard.collect import Collected
from hf_condense.leaderboard.rows import Row


def board_table(collected: Collected) -> pa.Table:
    """Accuracies and differences are fractions; bytes and seconds as named."""
    lines = [
        _line(collected, row)
        for task in sorted(collected.rows, key=lambda t: (t.source, t.ipc, t.regime, t.student))
        for row in sorted(collected.rows[task], key=lambda r: (-r.mean, r.result.id))
    ]
    return pa.Table.from_pylist(lines, schema=SCHEMA)


_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
SCHEMA = pa.schema(
    {
        "id": _TEXT,
        "source": _TEXT,
        "ipc": _COUNT,
        "regime": _TEXT,
        "student": _TEXT,
        "kind": _TEXT,
        "scope": _TEXT,
        "method": _TEXT,
        "title": _TEXT,
        "submitted_by": _TEXT,
        "date": _TEXT,
        "sets": pa.list_(_TEXT),
        "runs": _COUNT,
        "top1_mean": _NUMBER,
        "top1_sd": _NUMBER,
        "difference": _NUMBER,
        "difference_low": _NUMBER,
        "difference_high": _NUMBER,
        "p_holm": _NUMBER,
        "detectable": _NUMBER,
        "verdict": _TEXT,
        "rank_first": _COUNT,
        "rank_last": _COUNT,
        "worth": _NUMBER,
        "worth_low": _NUMBER,
        "worth_high": _NUMBER,
        "worth_censored": _COUNT,
        "worth_flat": pa.bool_(),
        "bytes": _COUNT,
        "seconds": _NUMBER,
        "level": _TEXT,
        "not_counted": _TEXT,
    }
)


def _line(collected: Collected, row: Row) -> dict[str, Any]:
    content, standing = row.result.content, collected.standings[row.result.id]
    judged, worth = row.judged, row.worth
    first, last = row.ranks.get(content.scope) or row.ranks.get("method") or (None, None)
    found = {
        "id": row.result.id,
        "source": content.source,
        "ipc": content.ipc,
        "regime": row.column.regime,
        "student": row.column.student,
        "kind": content.kind,
        "scope": content.scope,
        "method": content.method.name,
        "title": content.method.title,
        "submitted_by": row.result.submitted.by,
        "date": row.result.submitted.date,
        "sets": [] if standing.hidden else [f"{s.repo}@{s.revision}" if s.revision else s.repo for s in content.sets],
        "runs": row.n,
        "top1_mean": _rounded(row.mean),
        "top1_sd": _rounded(row.sd),
        "rank_first": first,
        "rank_last": last,
        "bytes": row.bytes,
        "seconds": round(row.seconds, 2),
        "level": standing.level,
        "not_counted": standing.gone or None,
    }
    if judged is not None:
        found |= {
            "difference": _rounded(judged.delta),
            "difference_low": _rounded(judged.low),
            "difference_high": _rounded(judged.high),
            "p_holm": _rounded(judged.p),
            "detectable": _rounded(judged.detectable),
            "verdict": judged.verdict,
        }
    if worth is not None:
        found |= {
            "worth": _rounded(worth.value),
            "worth_low": _rounded(worth.low),
            "worth_high": _rounded(worth.high),
            "worth_censored": worth.censored,
            "worth_flat": worth.flat,
        }
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def as_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def as_csv(table: pa.Table) -> bytes:
    """Sets are joined by spaces; text that a spreadsheet would run as a formula starts with an apostrophe."""
    columns = []
    for name, column in zip(table.column_names, table.columns):
        values = column.to_pylist()
        if name == "sets":
            values = [" ".join(entry) for entry in values]
        elif name in ("title", "method", "submitted_by"):
            values = [f"'{text}" if text.startswith(("=", "+", "-", "@")) else text for text in values]
        columns.append(pa.array(values) if name in ("sets", "title", "method", "submitted_by") else column)
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns, names=table.column_names), buffer)
    return buffer.getvalue()


def as_json(table: pa.Table, about: dict[str, Any]) -> bytes:
    """`about`: board, commit and digest."""
    return json.dumps({**about, "rows": table.to_pylist()}, ensure_ascii=False, separators=(",", ":")).encode()
