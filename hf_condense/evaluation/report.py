"""The score table: mean and spread over seeds, differences to the baseline, costs; as JSON, Markdown and text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_condense.errors import ConfigError
from hf_condense.evaluation import scores
from hf_condense.files import write_json, write_text

_COSTS = ("seconds", "peak_memory")  # free to differ between equal runs
_TESTS = {  # of `scores.Gap` -> caption
    "prediction": "Differences of one set are to what a fresh draw of {} would reach: the spread of the draws counts whole",
    "welch": "Differences of rows with several sets are to the mean of the draws of {} (Welch)",
    "paired": "Differences to the one set of {} are paired by seed",
}
_COLUMNS = (
    "row",
    "student",
    "labels",
    "top-1 %",
    "vs {}",
    "best seen",
    "steps",
    "seconds",
    "peak MB",
    "images",
    "labels +",
)


@dataclass
class ScoreTable:
    """All scored students of one run.

    Args:
        cells: one dict a student: row, set, student, regime, seed, the fields of `StudentResult`, images, image_bytes,
            label_bytes.
        protocol: the fields of the protocol.
        baseline: row that differences are taken to, or None.
        teacher_top1: accuracy of the teacher on the test images, or None.
        notes: remarks by row.
        predictions: file of each cell's predictions, beside the score; not written with the table.
    """

    cells: list[dict]
    protocol: dict
    baseline: str | None = None
    teacher_top1: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    predictions: list[Path] = field(default_factory=list)

    def top1(self, row: str, student: str, regime: str, value: str = "top1") -> dict[int, float]:
        """seed -> accuracy of one row; empty where it was not scored."""
        wanted = (row, student, regime)
        return {c["seed"]: c[value] for c in self.cells if (c["row"], c["student"], c["regime"]) == wanted}

    def groups(self) -> list[tuple[str, str, str]]:
        """(row, student, regime) of each line of the table, in the order of scoring."""
        return list(dict.fromkeys((c["row"], c["student"], c["regime"]) for c in self.cells))

    def difference(self, row: str, student: str, regime: str) -> scores.Gap | None:
        """The difference to the baseline over common seeds; None for the baseline, or where it was not scored.

        Where the baseline has another draw for each seed, one set is compared with what *a* draw would reach (prediction
        form) and several sets with Welch's test: the spread of the draws counts. Two sets are compared in pairs.
        """
        mine = self.top1(row, student, regime)
        base = self.top1(self.baseline, student, regime) if self.baseline else {}
        common = [seed for seed in mine if seed in base]
        if row == self.baseline or not common:
            return None
        values, draws = [mine[s] for s in common], [base[s] for s in common]
        sets = [self._sets(name, student, regime) for name in (row, self.baseline)]
        return scores.gap(values, draws, *sets)

    def _sets(self, row: str, student: str, regime: str) -> int:
        """How many sets a row has."""
        wanted = (row, student, regime)
        return len({c["set"] for c in self.cells if (c["row"], c["student"], c["regime"]) == wanted})

    def summary(self) -> list[dict[str, Any]]:
        """One dict a line: means, spreads, intervals, costs."""
        lines = []
        for row, student, regime in self.groups():
            cells = [c for c in self.cells if (c["row"], c["student"], c["regime"]) == (row, student, regime)]
            looks = [c["best_top1"] for c in cells if c["best_top1"] is not None]
            difference = self.difference(row, student, regime)
            lines.append(
                {
                    "row": row,
                    "student": student,
                    "regime": regime,
                    "top1": asdict(scores.summarise([c["top1"] for c in cells])),
                    "difference": asdict(difference) if difference else None,
                    "best_over_test_set": float(np.mean(looks)) if looks else None,
                    "steps": cells[0]["steps"],
                    "images": cells[0]["images"],
                    "image_bytes": cells[0]["image_bytes"],
                    "label_bytes": cells[0]["label_bytes"],
                    "seconds": float(np.mean([c["seconds"] for c in cells])),
                    "peak_memory": max(c["peak_memory"] for c in cells),
                }
            )
        return lines

    def robustness(self, row: str, student: str, regime: str, full: str = "full", weight: float = 0.5) -> dict:
        """DD-Ranking's HLR, IOR and LRS of a row from the runs of this table (arXiv:2505.13300).

        Raises:
            ConfigError: the full data, the baseline or the row's hard-label runs were not scored.
        """
        accuracies = {
            "real": self.top1(full, student, "hard"),
            "syn_hard": self.top1(row, student, "hard"),
            "syn_any": self.top1(row, student, regime),
            "random_any": self.top1(self.baseline or "", student, regime),
        }
        common = set.intersection(*(set(a) for a in accuracies.values()))
        if not common:
            missing = [name for name, a in accuracies.items() if not a]
            raise ConfigError("scores", missing, "runs of one seed of all four", "score these rows too")
        a = {name: [values[s] for s in sorted(common)] for name, values in accuracies.items()}
        return {
            "hlr": asdict(scores.summarise(scores.hlr(a["real"], a["syn_hard"]))),
            "ior": asdict(scores.summarise(scores.ior(a["syn_any"], a["random_any"]))),
            "lrs": asdict(scores.summarise(scores.lrs(**a, weight=weight))),
        }

    def without_cost(self) -> dict:
        """What is equal between equal runs: everything but time and memory."""
        cells = [{k: v for k, v in c.items() if k not in _COSTS} for c in self.cells]
        lines = [{k: v for k, v in line.items() if k not in _COSTS} for line in self.summary()]
        return {
            "protocol": self.protocol,
            "baseline": self.baseline,
            "teacher_top1": self.teacher_top1,
            "notes": self.notes,
            "table": lines,
            "students": cells,
        }

    def record(self) -> list[dict]:
        """Time and memory of each student, free to differ."""
        names = ("row", "set", "student", "regime", "seed", *_COSTS)
        return [{name: c[name] for name in names} for c in self.cells]

    def save(self, folder: Path | str) -> None:
        """Writes `scores.json` and `scores.md` into `folder`."""
        write_json(Path(folder) / "scores.json", {"content": self.without_cost(), "record": self.record()})
        write_text(Path(folder) / "scores.md", self.markdown())

    def markdown(self) -> str:
        """The table in Markdown, with a line on protocol and teacher."""
        head, *rows = self._rows()
        lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(r) for r in rows)]
        return "\n".join([*(f"| {line} |" for line in lines), "", *self._remarks()]) + "\n"

    def text(self) -> str:
        """The table for a terminal, columns aligned."""
        rows = self._rows()
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths)).rstrip() for r in rows]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *self._remarks()])

    def _rows(self) -> list[list[str]]:
        head = [c.format(self.baseline or "baseline") for c in _COLUMNS]
        body = [
            [
                line["row"],
                line["student"],
                line["regime"],
                _accuracy(line["top1"]),
                _difference(line["difference"]),
                _percent(line["best_over_test_set"]) or "not looked at" * bool(self.protocol.get("best_every")),
                str(line["steps"]),
                f"{line['seconds']:.1f}",
                f"{line['peak_memory'] / 2**20:.0f}",
                _size(line["image_bytes"]),
                _size(line["label_bytes"]),
            ]
            for line in self.summary()
        ]
        keep = [i for i in range(len(head)) if i != 5 or any(r[5] for r in body)]  # most protocols have no such column
        return [[r[i] for i in keep] for r in (head, *body)]

    def _remarks(self) -> list[str]:
        seeds = len({c["seed"] for c in self.cells})
        remarks = [
            f"Protocol: {self.protocol['name']}. Mean and standard deviation over {seeds} student seed"
            f"{'s' if seeds > 1 else ''}, accuracy after the last epoch."
        ]
        tests = {line["difference"]["test"] for line in self.summary() if line["difference"]}
        remarks += [f"{_TESTS[test].format(self.baseline)}, with 95 % intervals." for test in _TESTS if test in tests]
        if self.teacher_top1 is not None:
            remarks.append(f"Teacher: {100 * self.teacher_top1:.1f} % on the same test images.")
        return remarks + [f"{row}: {note}" for row, note in self.notes.items()]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _accuracy(summary: dict) -> str:
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread}"


def _difference(summary: dict | None) -> str:
    if summary is None:
        return ""
    mean = f"{100 * summary['mean']:+.1f}"
    return mean if summary["low"] is None else f"{mean} [{100 * summary['low']:+.1f}, {100 * summary['high']:+.1f}]"


def _size(count: int) -> str:
    """Bytes in the largest unit below them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
