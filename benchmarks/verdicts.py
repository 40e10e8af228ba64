"""What `hf-condense methods` and cards say of methods, from the boards in `benchmarks/results`.

    python -m benchmarks.verdicts

Counts the verdicts of submissions, of random images as a method too; coresets of a bank are counted with the method that
makes them. Nothing is left out but results that were withdrawn.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.record import RESULTS
from hf_condense.leaderboard.bank import SELECTIONS
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME

FILE = Path(__file__).resolve().parents[1] / "hf_condense/methods/measured.json"
LABELS = {"hard": "hard", "stored": "soft", "online": "soft"}  # labels under which a method's own are not counted


def counted(results: Path = RESULTS) -> dict:
    """The content of the file."""
    sources, found = set(), defaultdict(lambda: defaultdict(Counter))
    for path in sorted(results.glob("board_*.csv")):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            method = "coreset" if row["method"] in SELECTIONS else row["method"]
            ours = row["kind"] == "submission" or method == "coreset"
            if ours and row["regime"] in LABELS and row["verdict"] and not row["not_counted"]:
                sources.add(row["source"])
                found[method][LABELS[row["regime"]]][row["verdict"]] += 1
    methods = {
        method: {labels: [counts[v] for v in (ABOVE, SAME, BELOW)] for labels, counts in sorted(by_labels.items())}
        for method, by_labels in sorted(found.items())
    }
    return {"boards": sorted(sources), "methods": methods}


def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


if __name__ == "__main__":
    parser().parse_args()
    FILE.write_text(json.dumps(counted(), indent=1) + "\n", encoding="utf-8")
    print(FILE)
