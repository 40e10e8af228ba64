"""What boards found of each method beside random real images: counts of verdicts, written by `benchmarks/verdicts.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Verdicts:
    """In how many columns of boards a method stands above random images, is no different from them, stands below."""

    above: int
    same: int
    below: int

    def __str__(self) -> str:
        return f"{self.above}▲ {self.same}= {self.below}▼"


@cache
def _measured() -> dict[str, Any]:
    return json.loads((resources.files("hf_condense.methods") / "measured.json").read_text(encoding="utf-8"))


def boards() -> list[str]:
    """The sources of the boards."""
    return _measured()["boards"]


def verdicts_of(method: str) -> dict[str, Verdicts]:
    """Of hard labels and of soft ones, stored or online; empty for a method that no board holds."""
    return {labels: Verdicts(*counts) for labels, counts in _measured()["methods"].get(method, {}).items()}


def described(method: str) -> str:
    """The verdicts in a line."""
    found = verdicts_of(method)
    return ", ".join(f"{labels} {counts}" for labels, counts in found.items()) if found else "not measured"


def warning(method: str) -> str | None:
    """A sentence for a method that no column puts above random images; None for others and where nothing is known."""
    found = verdicts_of(method).values()
    if not found or any(counts.above for counts in found):
        return None
    same, below = sum(counts.same for counts in found), sum(counts.below for counts in found)
    return (
        f"On the boards of this library ({', '.join(boards())}; small networks) this method was above random real images "
        f"in none of {same + below} columns: no different in {same}, below in {below}."
    )
