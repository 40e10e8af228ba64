"""What the validator says of one file: a line a check, which holds, is flagged for a person, or refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hf_condense.errors import CondensationError

CHECKS = {
    1: "limits and form",
    2: "id, place and what is changed",
    3: "board, columns, seeds and steps",
    4: "counts from predictions and labels",
    5: "sets at their revision",
    6: "environment: the positive control",
    7: "what looks unusual",
    8: "duplicates and what is superseded",
}


@dataclass(frozen=True)
class Line:
    """What one check says: holds, flag (a person should look) or refused."""

    check: int
    state: Literal["holds", "flag", "refused"]
    reason: str

    def text(self) -> str:
        return f"  {self.check} {self.state:<8} {CHECKS[self.check]}{self.reason and ': '}{self.reason}"


@dataclass
class Report:
    """The checks of one file."""

    name: str
    lines: list[Line] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return any(line.state == "refused" for line in self.lines)

    def text(self) -> str:
        """For a terminal, or for a comment."""
        verdict = "refused" if self.refused else "holds"
        return "\n".join([f"{self.name}: {verdict}", *(line.text() for line in self.lines)])

    def run(self, number: int, checked: Callable[[], Sequence[str] | None]) -> bool:
        """Runs one check: an error of the library refuses, words that it gives back are flags."""
        try:
            flags = checked() or ()
        except CondensationError as error:
            self.lines.append(Line(number, "refused", str(error)))
            return False
        self.lines += [Line(number, "flag", flag) for flag in flags] or [Line(number, "holds", "")]
        return True
