"""Processor seconds that a leaderboard of many results takes, and the size of its pages.

    python -m benchmarks.board --submissions 10000

Submissions are made up: six columns of five runs each, over five sources at four IPC, beside the bank. `plain` is the time that
Python's JSON alone takes to read and spell the same files: on a machine that others use too, every row grows with it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import record
from hf_condense.leaderboard.collect import collect
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.site import build


def measured(submissions: int) -> dict:
    """Seconds of `collect` and of `build` (which collects too), and bytes of the pages that most people open."""
    from tests.leaderboard.synthetic import write_large_board

    with tempfile.TemporaryDirectory() as folder:
        board, site = Path(folder) / "board", Path(folder) / "site"
        place = Place(board, write_large_board(board, submissions))
        files = [path.read_bytes() for path in (board / "results").rglob("*.json")]
        seconds = {
            "plain": _seconds(lambda: [json.dumps(json.loads(data), sort_keys=True) for data in files]),
            "collect": _seconds(lambda: collect(place)),
            "build": _seconds(lambda: build(place, site, pictures=False)),
        }
        rows = sum(map(len, collect(place).rows.values()))
        tasks = [path.stat().st_size for path in (site / "tasks").glob("*.html")]
        sizes = {"index.html": (site / "index.html").stat().st_size, "largest task page": max(tasks)}
        return {"results": len(files), "rows": rows, "seconds": seconds, "bytes": sizes}


def _seconds(work: Callable[[], object]) -> dict[str, float]:
    wall, processor = time.perf_counter(), sum(os.times()[:4])
    work()
    return {
        "processor": round(sum(os.times()[:4]) - processor, 2),  # of all processes
        "wall": round(time.perf_counter() - wall, 2),
    }


def parser():
    found = record.parser(__doc__)
    found.add_argument("--submissions", type=int, default=10_000)
    return found


if __name__ == "__main__":
    options = record.options(parser())
    record.write("board", options, measured(options.submissions))
