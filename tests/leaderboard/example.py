"""A small board and result files of it, made without training anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_condense.evaluation.protocols import get_protocol
from hf_condense.leaderboard.board import Bank, Board, BoardProtocol, BoardSource, Teacher
from hf_condense.leaderboard.column import Column, Control
from hf_condense.leaderboard.result import (
    BoardRef,
    Content,
    Cost,
    MethodFacts,
    PredictionsFile,
    Provenance,
    Result,
    SetRef,
    Submitted,
    settings_digest,
)

STUDENTS = ("convnet_w32", "resnet_ap10")


def example_board(**changes: Any) -> Board:
    source = BoardSource(
        name="digits", id="digits", revision=None, fingerprint="0123456789abcdef", test_fingerprint="fedcba9876543210",
        image_size=8, channels=1, max_per_class=None, flip=False,
        teacher=Teacher(None, None, "ab" * 32, 0.97), ceiling={"convnet_w32": 0.98, "resnet_ap10": 0.97},
    )  # fmt: skip
    asked = {
        "name": "digits-small", "protocol": BoardProtocol.of(get_protocol("small")), "sources": (source,),
        "ipc": (1, 10), "students": STUDENTS, "bank": Bank(30, (1, 2, 5, 10, 20, 50), 10),
    }  # fmt: skip
    return Board(**{**asked, **changes})


def example_column(regime: str, student: str, correct: tuple[int, ...], scope: str = "method") -> Column:
    n = len(correct)
    return Column(
        student=student, regime=regime, seeds=tuple(range(n)), set_index=tuple(range(n)) if scope == "method" else (0,) * n,
        correct=correct, tested=360, steps=500, student_seconds=(1.5,) * n, label_bytes=0, teacher_bytes=0,
        control=Control(tuple(range(n)), (250,) * n),
    )  # fmt: skip


def example_content(board: Board | None = None, scope: str = "method", n: int = 5, **changes: Any) -> Content:
    """A submission with 250 + i right answers of seed i in every column."""
    board = board or example_board()
    settings = {"steps": 500, "images": {"lr": 0.1}}
    sets = tuple(
        SetRef("ada/digits-edc", "c" * 40, f"{i:016x}", f"{i:064x}", i, 100, 12_345, "cc-by-4.0", "ada")
        for i in range(n if scope == "method" else 1)
    )
    correct = tuple(250 + i for i in range(n))
    asked = {
        "format": 1, "board": BoardRef(board.name, board.fingerprint), "kind": "submission", "scope": scope,
        "method": MethodFacts("edc", "EDC", "https://arxiv.org/abs/2404.13733", None, settings, settings_digest(settings)),
        "sets": sets, "source": "digits", "ipc": 10,
        "columns": tuple(example_column(r, s, correct, scope) for r, s in board.columns()),
        "cost": Cost((3.0,) * len(sets), 10.0, 10**8, "a CPU, 2 cores", 2, None, "unknown"),
        "provenance": Provenance("hf-condense 0.1.0", None, "2.11.0", "3.11.0", "Linux x86_64", "hf-condense submit"),
        "predictions": PredictionsFile("ab" * 32, 1000), "supersedes": None,
    }  # fmt: skip
    return Content(**{**asked, **changes})


def example_result(by: str = "ada", **changes: Any) -> Result:
    return Result.of(example_content(**changes), Submitted(by, "2026-01-31"))


def renamed(content: Content, name: str) -> Content:
    return replace(content, method=replace(content.method, name=name))
