"""Result files of boards that were never scored, for tests of scale and looks: accuracies are drawn, not measured."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hf_condense.evaluation.protocols import get_protocol
from hf_condense.leaderboard.board import Board, BoardProtocol, BoardSource, Teacher
from hf_condense.leaderboard.result import (
    FORMAT,
    BoardRef,
    Column,
    Content,
    Control,
    Cost,
    MethodFacts,
    Provenance,
    Result,
    SetRef,
    Submitted,
    settings_digest,
)

TESTED = 1797
CLASSES = 10
PROVENANCE = Provenance("0.1.0", None, "2.15.0", "3.11.2", "Linux x86_64", "hf-condense submit runs/a --leaderboard b")


def make_board(name: str = "digits-board", sources: int = 1, ipc: tuple[int, ...] = (1, 10), **changes) -> Board:
    """A board over `sources` sources, with three regimes and two students."""
    names = ("digits", "cifar10", "fashion", "tinyimages", "grocery", "flowers", "letters", "birds")[:sources]
    students = ("convnet", "resnet18")
    made = [
        BoardSource(
            n, n, None, digest(n)[:16], digest(n, "test")[:16], image_size=8 * (1 + i), channels=1 + 2 * (i > 0),
            max_per_class=None, flip=i > 0, teacher=Teacher(None, None, digest(n, "teacher"), 0.95 - 0.05 * i),
            ceiling=dict(zip(students, (0.97 - 0.06 * i, 0.98 - 0.06 * i))),
        )
        for i, n in enumerate(names)
    ]  # fmt: skip
    return Board(name, BoardProtocol.of(get_protocol("small")), tuple(made), ipc, students, **changes)


def digest(*what: object) -> str:
    """64 hex digits that follow from `what`."""
    return hashlib.sha256(repr(what).encode()).hexdigest()


@dataclass
class Maker:
    """Draws results for a board. The same seed draws the same files.

    Args:
        points: how far above random draws (percentage points) each method is; names are those of methods.
        spread: standard deviation over runs, in points.
    """

    board: Board
    seed: int = 0
    points: dict[str, float] = field(default_factory=lambda: {"edc": 4.0, "dm": 1.0, "rded": 0.0, "mtt": -3.0})
    spread: float = 1.5

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def random_top1(self, source: str, ipc: int, regime: str, student: str) -> float:
        """Mean accuracy of random draws: rises with the IPC towards the ceiling."""
        top = self.board.source(source).ceiling[student]
        lift = {"hard": 0.0, "stored": 0.10, "online": 0.14, "own": 0.05}[regime]
        return min(top - 0.01, (0.25 + lift) * top + (0.7 - lift) * top * (1 - math.exp(-ipc / 25)))

    def counts(self, mean: float, n: int) -> tuple[int, ...]:
        drawn = self.random.normal(mean, self.spread / 100, n).clip(0, 1)
        return tuple(int(x) for x in (drawn * TESTED).round())

    def column(self, source: str, ipc: int, regime: str, student: str, points: float, sets: int, n: int) -> Column:
        mean = self.random_top1(source, ipc, regime, student)
        seeds = tuple(range(n))
        index = seeds if sets > 1 else (0,) * n
        seconds = tuple(round(float(s), 3) for s in self.random.uniform(5, 9, n))
        label_bytes = {"hard": 0, "online": 0}.get(regime, CLASSES * ipc * 300 * 20)
        teacher_bytes = 1_270_000 if regime == "online" else 0
        control = Control(seeds, self.counts(mean, n))
        return Column(
            student, regime, seeds, index, self.counts(min(0.999, mean + points / 100), n), TESTED, 1000, seconds,
            label_bytes, teacher_bytes, control,
        )  # fmt: skip

    def result(
        self, method: str, source: str = "digits", ipc: int = 1, scope: Literal["set", "method"] = "method", n: int = 5,
        by: str = "ada", points: float | None = None, title: str | None = None, own: bool = False,
        kind: Literal["submission", "baseline"] = "submission", **content,
    ) -> Result:  # fmt: skip
        """One result with every column of the board."""
        sets = n if scope == "method" else 1
        settings = {"steps": int(self.random.integers(100, 10_000)), "lr": 0.1, "ipc": ipc}
        size = CLASSES * ipc * 190
        base = self.points.get(method, 0.0) if points is None else points
        names = [*self.board.columns(), *((("own", self.board.students[0]),) if own else ())]
        columns = tuple(
            self.column(source, ipc, regime, student, base * (1 + 0.3 * i), sets, n)
            for i, (regime, student) in enumerate(names)
        )
        facts = MethodFacts(
            method, title or method.upper(), "https://arxiv.org/abs/2404.13733", "https://github.com/example/code",
            settings, settings_digest(settings),
        )  # fmt: skip
        made = tuple(
            SetRef(
                f"{by}/{method}-{source}-ipc{ipc}-{i}", digest("commit", i)[:40], digest(method, source, ipc, i, by)[:16],
                digest("pixels", method, source, ipc, i, by)[:32], i, CLASSES * ipc, size + 37 * i, "cc-by-4.0", by,
            )
            for i in range(sets)
        )  # fmt: skip
        seconds = tuple(round(float(s), 2) for s in self.random.uniform(20, 400, sets))
        cost = Cost(seconds, 60.5, 900_000_000, "cpu", 2, 12, "held-out")
        values = {
            "format": FORMAT, "board": BoardRef(self.board.name, self.board.fingerprint), "kind": kind, "scope": scope,
            "method": facts, "sets": made, "source": source, "ipc": ipc, "columns": columns, "cost": cost,
            "provenance": PROVENANCE, "predictions": None, "supersedes": None,
        }  # fmt: skip
        return Result.of(Content(**{**values, **content}), Submitted(by, "2026-11-20"))
