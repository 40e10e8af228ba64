"""A board's CSV as the Markdown tables of a log: one for each IPC, a line for each row, a column for each regime and student.

    python -m benchmarks.board_table benchmarks/results/board_digits.csv

Baselines of the bank in italics.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from hf_condense.leaderboard.figures import SIGNS

REGIMES = ("hard", "stored", "online")


def cell(row: dict[str, str]) -> str:
    """Mean ± standard deviation, and the difference to random draws with its interval and verdict."""
    spread = f" ± {100 * float(row['top1_sd']):.1f}" if row["top1_sd"] else ""
    text = f"{100 * float(row['top1_mean']):.1f}{spread}"
    if not row["verdict"]:
        return f"**{text}**"
    apart, low, high = (100 * float(row[name]) for name in ("difference", "difference_low", "difference_high"))
    return f"{text} ({apart:+.1f} [{low:+.1f}, {high:+.1f}] {SIGNS[row['verdict']]})"


def tables(path: Path) -> Iterator[str]:
    """Rows in the order of their accuracy with hard labels; random draws, which all are held against, in bold."""
    # by title and id, because results may share a title
    by_ipc: dict[int, dict[tuple[str, str], dict]] = defaultdict(lambda: defaultdict(dict))
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        if not row["not_counted"] and row["regime"] in REGIMES:
            name = row["title"] if row["kind"] == "submission" else f"*{row['title']}*"
            by_ipc[int(row["ipc"])][name, row["id"]][row["regime"], row["student"]] = row
    for ipc, rows in sorted(by_ipc.items()):
        columns = sorted({at for cells in rows.values() for at in cells}, key=lambda at: (REGIMES.index(at[0]), at[1]))
        first = columns[0]
        order = sorted(rows, key=lambda key: -float(rows[key].get(first, {}).get("top1_mean") or 0))
        heads = [f"{regime}, {student}" for regime, student in columns]
        lines = [
            f"| row | {' | '.join(heads)} | bytes of the first | seconds |",
            "| --- |" + " --- |" * (len(heads) + 2),
        ]
        for key in order:
            found = [cell(rows[key][at]) if at in rows[key] else "" for at in columns]
            one = rows[key].get(first) or next(iter(rows[key].values()))
            lines.append(f"| {key[0]} | {' | '.join(found)} | {int(one['bytes']):,} | {float(one['seconds']):.0f} |")
        yield f"{ipc} image{'s' * (ipc > 1)} a class:\n\n" + "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("csv", type=Path)
    return found


if __name__ == "__main__":
    print("\n".join(tables(parser().parse_args().csv)))
