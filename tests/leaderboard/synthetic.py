"""Result files of boards that were never scored, for tests of scale and looks: accuracies are drawn, not measured."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hf_condense.evaluation.protocols import get_protocol
from hf_condense.files import canonical_json
from hf_condense.leaderboard.board import Board, BoardProtocol, BoardSource, Teacher
from hf_condense.leaderboard.board_file import write_board
from hf_condense.leaderboard.column import Column, Control
from hf_condense.leaderboard.entries import write_file
from hf_condense.leaderboard.result import (
    FORMAT,
    BoardRef,
    Content,
    Cost,
    MethodFacts,
    Provenance,
    Result,
    SetRef,
    Submitted,
    settings_digest,
)
from hf_condense.leaderboard.statements import Remade, Verification, Withdrawal

TESTED = 1797
CLASSES = 10
PROVENANCE = Provenance(
    "hf-condense 0.1.0", None, "2.15.0", "3.11.2", "Linux x86_64", "hf-condense submit runs/a --leaderboard b"
)


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

    def baselines(self) -> Iterator[Result]:
        """What a keeper's bank holds: random draws at all rungs, and the rows beside them at the board's IPC."""
        board = self.board
        for source in board.sources:
            for ipc in board.ladder(200):
                n = board.bank.draws if ipc in board.ipc else board.bank.ladder_draws
                yield self.baseline("random", "Random real images", source.name, ipc, 0.0, n)
            for ipc in board.ipc:
                for name, title, points in BASELINES:
                    yield self.baseline(name, title, source.name, ipc, points, 10)

    def baseline(self, name: str, title: str, source: str, ipc: int, points: float, n: int) -> Result:
        made = self.result(
            name, source, ipc, "method" if name == "random" else "set", n, by="keeper", points=points, title=title,
            kind="baseline",
        )  # fmt: skip
        sets = tuple(replace(s, repo=f"board/{name}", revision=None, made_by=None) for s in made.content.sets)
        columns = tuple(replace(c, control=None) for c in made.content.columns)
        cost = replace(made.content.cost, synthesis_seconds=(0.0,) * len(sets), pool_seconds=0.0, peak_memory=0)
        return Result.of(replace(made.content, sets=sets, columns=columns, cost=cost), made.submitted)

    def verification(self, result: Result, by: str, points: float = 0.0, remade: bool | None = None) -> Verification:
        """Others' students on the sets of a result, `points` away from its accuracy."""
        columns = []
        for i, column in enumerate(c for c in result.content.columns if c.regime != "own"):
            mean = sum(column.correct) / len(column.correct) / column.tested + points / 100
            seeds = tuple(range(1000 + 10 * i, 1000 + 10 * i + len(column.seeds)))
            columns.append(replace(column, seeds=seeds, correct=self.counts(mean, len(seeds)), control=None))
        return Verification(
            FORMAT, result.content.board, result.id, "0" * 40, tuple(columns),
            None if remade is None else Remade(remade, () if remade else ("pixels differ",)), PROVENANCE,
            Submitted(by, "2026-11-25"),
        )  # fmt: skip


BASELINES = (
    ("luckiest", "Luckiest random draw, chosen on the test images", 1.0), ("herding", "Herding", 1.5),
    ("k_center", "K-center", -2.0), ("k_medoids", "K-medoids", 2.0), ("noise", "Noise", -40.0),
)  # fmt: skip
TITLES = {
    "edc": "EDC", "sre2l": "SRe2L", "dm": "Distribution matching", "rded": "RDED", "mtt": "MTT", "dsa": "DSA",
    "pdd": "PDD on DSA", "fadrm": "FADRM", "datm": "DATM", "idc": "IDC", "dream": "DREAM", "cda": "CDA",
}  # fmt: skip


def write_small_board(folder: Path, methods: int = 12, sources: int = 2) -> Board:
    """A board as it may look after some months: every kind of row, verdict and level."""
    board = make_board(sources=sources, ipc=(1, 10, 50))
    write_board(folder, board)
    spread = np.linspace(6, -5, methods)
    maker = Maker(board, points=dict(zip(TITLES, spread)))
    for result in maker.baselines():
        write_file(folder, result)
    people = ("ada", "grace", "emmy", "katherine")
    made = []
    for i, name in enumerate(list(TITLES)[:methods]):
        for source in board.sources:
            for ipc in board.ipc:
                scope = "set" if i % 3 == 2 else "method"
                n = 10 if i % 2 else 5
                result = maker.result(
                    name, source.name, ipc, scope, n, people[i % 4], title=TITLES[name], own=i % 5 == 0
                )
                write_file(folder, result)
                made.append(result)
    for i, result in enumerate(made[::5]):
        points = 8.0 if i == 3 else 0.2
        write_file(folder, maker.verification(result, "grace" if result.submitted.by != "grace" else "ada", points,
                                              True if i % 4 == 1 else None))  # fmt: skip
    for result, reason in ((made[len(made) // 4], "claim"), (made[len(made) // 2], "licence")):
        write_file(folder, Withdrawal(FORMAT, result.id, reason, result.submitted.by, "2026-11-26"))
    older = made[-2]
    again = older.content
    newer = maker.result(
        again.method.name, again.source, again.ipc, again.scope, 10, older.submitted.by,
        title=again.method.title, supersedes=older.id,
    )  # fmt: skip
    write_file(folder, newer)
    return board


def write_large_board(
    folder: Path, results: int = 10_000, sources: int = 5, ipc: tuple[int, ...] = (1, 10, 20, 50)
) -> Board:
    """A board with as many submissions, six columns each, spread evenly over its sources and IPC, and its baselines."""
    board = make_board("large-board", sources, ipc)
    write_board(folder, board)
    maker = Maker(board)
    for result in maker.baselines():
        write_file(folder, result)
    pages = sources * len(ipc)
    for i in range(results):
        method = i // pages
        maker.points.setdefault(f"m{method}", float(maker.random.normal(0, 3)))
        source, k = board.sources[i % sources].name, ipc[i // sources % len(ipc)]
        result = maker.result(f"m{method}", source, k, "method" if method % 2 else "set", 5, f"person{method % 40}")
        path = folder / result.place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(canonical_json(result) + "\n", encoding="utf-8")  # ten thousand flushes to disk take minutes
    return board
