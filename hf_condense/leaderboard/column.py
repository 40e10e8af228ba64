"""One column of a result: a student in one label regime, as counts of right answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_condense.leaderboard.fields import Count, Positive, Seconds, Seed, Text
from hf_condense.leaderboard.limits import refuse


@dataclass(frozen=True)
class Control:
    """Random draws scored where the column was scored: the board's draws 0 .. n-1, or images under own labels."""

    seeds: tuple[Seed, ...]
    correct: tuple[Count, ...]


@dataclass(frozen=True)
class Column:
    """One student in one label regime: counts of right answers, not decimals.

    Args:
        seeds: of the students, [n].
        set_index: place in `sets` of the set that each student was trained on, [n].
        correct: test images that each student gets right, of `tested`, [n].
        steps: optimiser steps of a student.
        student_seconds: [n].
        label_bytes, teacher_bytes: what a student of the regime needs beside images.
        control: None for the bank itself and where the regime has no control.
    """

    student: Text
    regime: Literal["hard", "stored", "online", "own"]
    seeds: tuple[Seed, ...]
    set_index: tuple[Count, ...]
    correct: tuple[Count, ...]
    tested: Positive
    steps: Positive
    student_seconds: tuple[Seconds, ...]
    label_bytes: Count
    teacher_bytes: Count
    control: Control | None

    def __post_init__(self) -> None:
        n = len(self.seeds)
        if n == 0:
            refuse("seeds", n, "1 or more runs")
        for name in ("set_index", "correct", "student_seconds"):
            if len(getattr(self, name)) != n:
                refuse(name, len(getattr(self, name)), f"one entry per seed ({n})")
        self._counts("", self.seeds, self.correct)
        if self.control is not None:
            seeds, correct = self.control.seeds, self.control.correct
            if len(correct) != len(seeds):
                refuse("control.correct", len(correct), "one entry per seed")
            self._counts("control.", seeds, correct)

    def _counts(self, place: str, seeds: tuple[int, ...], correct: tuple[int, ...]) -> None:
        if len(set(seeds)) != len(seeds):
            refuse(f"{place}seeds", list(seeds), "different seeds")
        if correct and max(correct) > self.tested:
            refuse(f"{place}correct", list(correct), f"counts from 0 to {self.tested}")
