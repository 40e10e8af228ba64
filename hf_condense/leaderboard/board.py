"""A board: the protocol, sources, students and label regimes that all of its results share, and their fingerprint."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from hf_condense.config import check
from hf_condense.evaluation.protocol import Case, Protocol
from hf_condense.files import fingerprint
from hf_condense.leaderboard.limits import need, refuse

FORMAT = 1
FILE = "board.yaml"
REGIMES = ("hard", "stored", "online")
OWN = "own"  # the extra column: a submission under the labels that it was published with
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Teacher:
    """The network that makes a source's soft labels, equal for all rows.

    Args:
        repo: Hub id of the model; None where it is part of the board, in `teachers/<source>/`.
        revision: its commit, None without `repo`.
        sha256: of its weights.
        top1: share of the test images.
    """

    repo: str | None
    revision: str | None
    sha256: str
    top1: float


@dataclass(frozen=True)
class BoardSource:
    """A source dataset of the board.

    Args:
        name: of the source in results and addresses.
        id: short name, Hub id or folder; `revision` its commit, where known.
        fingerprint, test_fingerprint: of the training and test images as they are read.
        image_size: side in pixels that networks see.
        max_per_class: training images of a class that are used, None for all.
        flip: whether a mirrored image keeps its class.
        teacher: of the regimes stored and online; None where the board has neither.
        ceiling: student -> top-1 of the full training data; measured by `leaderboard bank`, not part of the fingerprint.
    """

    name: str
    id: str
    revision: str | None
    fingerprint: str
    test_fingerprint: str
    image_size: int
    channels: int
    max_per_class: int | None
    flip: bool
    teacher: Teacher | None
    ceiling: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BoardProtocol:
    """A protocol by all its values; `fingerprint` is theirs."""

    name: str
    fingerprint: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, protocol: Protocol) -> BoardProtocol:
        """The record of a protocol."""
        values = asdict(protocol)
        return cls(protocol.name, fingerprint(values), values)

    def protocol(self) -> Protocol:
        """The protocol that was recorded.

        Raises:
            ArtefactError: values that this version does not know, or that were changed.
        """
        known = {f.name for f in fields(Protocol)}
        unknown = sorted(self.fields.keys() - known)
        if unknown:
            refuse(f"{FILE}: protocol.fields", unknown, "values of this version", "install a newer hf-condense")
        need(
            fingerprint(self.fields) == self.fingerprint,
            f"{FILE}: protocol.fingerprint",
            self.fingerprint,
            f"that of the fields ({fingerprint(self.fields)})",
        )
        values = _tuples(self.fields)
        return Protocol(**{**values, "cases": tuple(Case(**case) for case in values["cases"])})


@dataclass(frozen=True)
class Seeds:
    """Runs a column: fewer than `min` are refused."""

    min: int = 5
    recommended: int = 10


@dataclass(frozen=True)
class Bank:
    """Random real sets that the board keeps: `draws` for each task, `ladder_draws` at every IPC of the ladder."""

    draws: int = 30
    ladder: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)
    ladder_draws: int = 10


@dataclass(frozen=True)
class Tolerance:
    """Percentage points: of the positive control, and within which two scores are called equivalent."""

    control_points: float = 1.0
    equivalence_points: float = 2.0


@dataclass(frozen=True)
class Licences:
    """Licences of sets that the board does not take."""

    deny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is compared: one source at one IPC, in one label regime, with one student."""

    source: str
    ipc: int
    regime: str
    student: str

    @property
    def id(self) -> str:
        """`<source>-ipc<k>-<regime>`, as the Hub's evaluation entries name it (students share it)."""
        return f"{self.source}-ipc{self.ipc}-{self.regime}"


@dataclass(frozen=True)
class Board:
    """All that is fixed for a leaderboard. A change that alters scores makes a new board, with another fingerprint.

    Args:
        frozen: readable, but takes no more results.
        own_labels: whether submissions may have an extra column under their published labels.
        alpha: level of the verdicts.
        precision: arithmetic of the students.

    Raises:
        ConfigError: a list that is empty, or values that contradict each other.
    """

    name: str
    protocol: BoardProtocol
    sources: tuple[BoardSource, ...]
    ipc: tuple[int, ...]
    students: tuple[str, ...]
    regimes: tuple[str, ...] = REGIMES
    own_labels: bool = True
    seeds: Seeds = Seeds()
    bank: Bank = Bank()
    alpha: float = 0.05
    tolerance: Tolerance = Tolerance()
    precision: Literal["fp32", "bf16"] = "fp32"
    licences: Licences = Licences()
    frozen: bool = False
    format: int = FORMAT

    def __post_init__(self) -> None:
        check(_NAME.fullmatch(self.name) is not None, "name", self.name, "letters, digits, '-', '_' and '.'")
        for name in ("sources", "ipc", "students", "regimes"):
            values = getattr(self, name)
            keys = [v.name for v in values] if name == "sources" else list(values)
            check(len(keys) > 0 and len(set(keys)) == len(keys), name, keys, "one or more different values")
        for source in self.sources:
            check(
                _NAME.fullmatch(source.name) is not None, "sources", source.name, "letters, digits, '-', '_' and '.'"
            )
            needed = source.teacher is not None or set(self.regimes) == {"hard"}
            check(needed, "sources", source.name, "a teacher for the regimes stored and online")
        for regime in self.regimes:
            check(regime in REGIMES, "regimes", regime, ", ".join(REGIMES))
        check(all(k >= 1 for k in self.ipc), "ipc", list(self.ipc), "1 or more images per class")
        check(2 <= self.seeds.min <= self.seeds.recommended, "seeds", self.seeds.min, "2 to `recommended`")
        check(self.bank.draws >= max(3, self.seeds.min), "bank.draws", self.bank.draws, "3 or more, and seeds.min")
        check(list(self.bank.ladder) == sorted(set(self.bank.ladder)), "bank.ladder", self.bank.ladder, "rising IPC")
        check(0 < self.alpha < 0.5, "alpha", self.alpha, "between 0 and 0.5")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of everything that scores and verdicts depend on; every result holds it."""
        values = asdict(self)
        for name in ("name", "licences", "frozen"):
            del values[name]
        for source in values["sources"]:
            for name in ("id", "revision", "ceiling"):
                del source[name]
            source["teacher"] = source["teacher"] and source["teacher"]["sha256"]
        return fingerprint(values)

    def source(self, name: str) -> BoardSource:
        """The source of that name.

        Raises:
            ConfigError: the board has none of that name.
        """
        found = {s.name: s for s in self.sources}
        check(name in found, "source", name, f"a source of the board: {', '.join(found)}", "choose another board")
        return found[name]

    def columns(self) -> list[tuple[str, str]]:
        """(regime, student) of every column that a submission has."""
        return [(regime, student) for regime in self.regimes for student in self.students]

    def tasks(self) -> list[Task]:
        """All tasks, without the regime "own"."""
        return [Task(s.name, k, r, student) for s in self.sources for k in self.ipc for r, student in self.columns()]

    def ladder(self, largest: int) -> list[int]:
        """IPC of the ladder and of the tasks, up to `largest`, the images of the smallest class."""
        return sorted(k for k in {*self.bank.ladder, *self.ipc} if k <= largest)

    def with_ceiling(self, source: str, ceiling: dict[str, float]) -> Board:
        """The board with the accuracy of a source's full data; the fingerprint stays."""
        return replace(
            self, sources=tuple(replace(s, ceiling=ceiling) if s.name == source else s for s in self.sources)
        )


def _tuples(value: Any) -> Any:
    """Tuples for lists, as protocols have them."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value
