"""Result files: what one is made of, how it is named by its content, and how a stranger's is read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from hf_condense.files import canonical_json, write_text
from hf_condense.leaderboard.board import Board
from hf_condense.leaderboard.limits import build, clean_url, need, parse, read_limited, refuse

FORMAT = 1
SETTINGS_BYTES = 8_000
_ID = re.compile(r"[0-9a-f]{20}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_LOCAL = re.compile(r"(sets|board)/[A-Za-z0-9_]{1,64}")
_USER = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_DATE = re.compile(r"20\d\d-[01]\d-[0-3]\d")
C = TypeVar("C")


@dataclass(frozen=True)
class BoardRef:
    """The board that a result belongs to."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class MethodFacts:
    """What made the sets."""

    name: str
    title: str
    paper: str | None
    code: str | None
    settings: dict[str, Any]
    settings_sha256: str

    def __post_init__(self) -> None:
        need(_NAME.fullmatch(self.name) is not None, "name", self.name, "letters, digits, '-', '_' and '.'")
        for name in ("paper", "code"):
            if getattr(self, name) is not None:
                clean_url(getattr(self, name), name)
        size = len(canonical_json(self.settings).encode())
        need(size <= SETTINGS_BYTES, "settings", f"{size} bytes", f"at most {SETTINGS_BYTES} bytes")
        digest = settings_digest(self.settings)
        need(digest == self.settings_sha256, "settings_sha256", self.settings_sha256, f"that of settings ({digest})")


@dataclass(frozen=True)
class SetRef:
    """One condensed set.

    Args:
        repo: Hub id; `sets/<content hash>` for one that is kept in the board's folder, `board/<name>` for a baseline,
            which anyone can draw again from the source.
        revision: 40 hex digits of the commit for a Hub id, else None.
        content_hash: of images and labels, as `condensation.json` has it; `pixels_hash` of images and class numbers.
        seed: of the synthesis, None where unknown.
        images: how many; `image_bytes` of them as published.
    """

    repo: str
    revision: str | None
    content_hash: str
    pixels_hash: str
    seed: int | None
    images: int
    image_bytes: int
    licence: str | None
    made_by: str | None

    @property
    def local(self) -> bool:
        """Whether it is no Hub repository."""
        return _LOCAL.fullmatch(self.repo) is not None and self.revision is None

    def __post_init__(self) -> None:
        known = self.local or _REPO.fullmatch(self.repo) is not None
        need(known and ".." not in self.repo, "repo", self.repo, "owner/name of a Hub dataset repository")
        commit = self.local or (self.revision is not None and _COMMIT.fullmatch(self.revision) is not None)
        need(commit, "revision", self.revision, "40 hex digits of a commit")
        for name in ("content_hash", "pixels_hash"):
            value = getattr(self, name)
            need(re.fullmatch(r"[0-9a-f]{16,64}", value) is not None, name, value, "16 to 64 hex digits")
        need(self.images >= 1, "images", self.images, "1 or more")
        need(self.image_bytes >= 1, "image_bytes", self.image_bytes, "1 or more")


@dataclass(frozen=True)
class Control:
    """The board's random draws 0 .. n-1, scored where the column was scored."""

    seeds: tuple[int, ...]
    correct: tuple[int, ...]


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

    student: str
    regime: Literal["hard", "stored", "online", "own"]
    seeds: tuple[int, ...]
    set_index: tuple[int, ...]
    correct: tuple[int, ...]
    tested: int
    steps: int
    student_seconds: tuple[float, ...]
    label_bytes: int
    teacher_bytes: int
    control: Control | None

    def __post_init__(self) -> None:
        n = len(self.seeds)
        need(n >= 1, "seeds", n, "1 or more runs")
        need(self.tested >= 1, "tested", self.tested, "1 or more test images")
        need(self.steps >= 1, "steps", self.steps, "1 or more")
        for name in ("set_index", "correct", "student_seconds"):
            count = len(getattr(self, name))
            need(count == n, name, count, f"an entry a seed ({n})")
        self._counts("", self.seeds, self.correct)
        if self.control is not None:
            need(
                len(self.control.correct) == len(self.control.seeds),
                "control.correct",
                len(self.control.correct),
                "an entry a seed",
            )
            self._counts("control.", self.control.seeds, self.control.correct)
        for name in ("label_bytes", "teacher_bytes", *("set_index", "student_seconds")):
            value = getattr(self, name)
            least = min(value) if isinstance(value, tuple) else value
            need(least >= 0, name, least, "0 or more")

    def _counts(self, place: str, seeds: tuple[int, ...], correct: tuple[int, ...]) -> None:
        need(len(set(seeds)) == len(seeds), f"{place}seeds", list(seeds), "seeds, none twice")
        need(
            not seeds or (min(seeds) >= 0 and max(seeds) < 2**31),
            f"{place}seeds",
            list(seeds),
            "numbers from 0 to 2147483647",
        )
        inside = not correct or (min(correct) >= 0 and max(correct) <= self.tested)
        need(inside, f"{place}correct", list(correct), f"counts from 0 to {self.tested}")


@dataclass(frozen=True)
class Cost:
    """What the sets took: seconds of synthesis for each set, of the pool of networks, and bytes of memory."""

    synthesis_seconds: tuple[float, ...]
    pool_seconds: float
    peak_memory: int
    device: str
    threads: int
    tuning_trials: int | None
    tuned_on: Literal["held-out", "test", "unknown"]

    def __post_init__(self) -> None:
        for name in ("pool_seconds", "peak_memory", "threads"):
            need(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        need(
            all(s >= 0 for s in self.synthesis_seconds), "synthesis_seconds", list(self.synthesis_seconds), "0 or more"
        )


@dataclass(frozen=True)
class Provenance:
    """What scored the sets."""

    library: str
    commit: str | None
    torch: str
    python: str
    platform: str
    command: str


@dataclass(frozen=True)
class PredictionsFile:
    """`predictions/<id[:2]>/<id>.parquet`, by sha256 and size."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        need(_SHA256.fullmatch(self.sha256) is not None, "sha256", self.sha256, "64 hex digits")
        need(self.bytes >= 1, "bytes", self.bytes, "1 or more")


@dataclass(frozen=True)
class Content:
    """What a result's id is made of. No statistic stands here: all are computed from the counts."""

    format: int
    board: BoardRef
    kind: Literal["submission", "baseline"]
    scope: Literal["set", "method"]
    method: MethodFacts
    sets: tuple[SetRef, ...]
    source: str
    ipc: int
    columns: tuple[Column, ...]
    cost: Cost
    provenance: Provenance
    predictions: PredictionsFile | None
    supersedes: str | None

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))
        need(self.ipc >= 1, "ipc", self.ipc, "1 or more")
        need(len(self.sets) >= 1, "sets", 0, "1 or more sets")
        need(self.scope == "method" or len(self.sets) == 1, "sets", len(self.sets), "one set for the scope 'set'")
        need(self.scope == "set" or len(self.sets) >= 2, "sets", len(self.sets), "several for the scope 'method'")
        need(len(self.columns) >= 1, "columns", 0, "1 or more columns")
        names = [(c.regime, c.student) for c in self.columns]
        need(len(set(names)) == len(names), "columns", names, "each regime and student once")
        for i, column in enumerate(self.columns):
            largest = max(column.set_index)
            need(largest < len(self.sets), f"columns[{i}].set_index", largest, f"below {len(self.sets)}")
            if self.scope == "method":
                distinct = len(set(column.set_index)) == len(column.set_index)
                need(distinct, f"columns[{i}].set_index", list(column.set_index), "each set once: one student a set")
        if self.supersedes is not None:
            need(_ID.fullmatch(self.supersedes) is not None, "supersedes", self.supersedes, "the id of a result")


@dataclass(frozen=True)
class Submitted:
    """Who submitted, and when; not part of the id."""

    by: str
    date: str

    def __post_init__(self) -> None:
        need(_USER.fullmatch(self.by) is not None, "by", self.by, "the name of a Hub user")
        need(_DATE.fullmatch(self.date) is not None, "date", self.date, "a date such as 2026-01-31")


@dataclass(frozen=True)
class Result:
    """A result file: its content, the id that follows from it, and who submitted it."""

    id: str
    content: Content
    submitted: Submitted

    def __post_init__(self) -> None:
        expected = content_id(self.content)
        need(self.id == expected, "id", self.id, f"the first 20 hex digits of the content's sha256 ({expected})")

    @classmethod
    def of(cls, content: Content, submitted: Submitted) -> Result:
        """The result of a content."""
        return cls(content_id(content), content, submitted)

    @property
    def place(self) -> str:
        """Its path in the results repository."""
        c = self.content
        return f"results/{c.source}/ipc{c.ipc}/{self.id[:2]}/{self.id}.json"

    @property
    def predictions_place(self) -> str:
        """Path of its predictions in the results repository."""
        return f"predictions/{self.id[:2]}/{self.id}.parquet"


@dataclass(frozen=True)
class Remade:
    """What `reproduce` found: whether the same set came out, and in words what differs."""

    same: bool
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """`verified/<id>/<by>-<nonce>.json`: others' students on the sets of a result, with seeds derived from a commit.

    Args:
        id: of the result. `commit`: of the results repository, from which seeds follow; zeros for a folder.
        columns: as in a result; agreement is computed from the counts of both.
    """

    format: int
    board: BoardRef
    id: str
    commit: str
    columns: tuple[Column, ...]
    remade: Remade | None
    provenance: Provenance
    submitted: Submitted

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))
        need(_ID.fullmatch(self.id) is not None, "id", self.id, "the id of a result")
        need(_COMMIT.fullmatch(self.commit) is not None, "commit", self.commit, "40 hex digits")

    @property
    def place(self) -> str:
        """Its path in the results repository."""
        nonce = hashlib.sha256(canonical_json(self).encode()).hexdigest()[:8]
        return f"verified/{self.id}/{self.submitted.by}-{nonce}.json"


@dataclass(frozen=True)
class Withdrawal:
    """`withdrawn/<id>.json`: the row turns grey; only the reason "licence" hides pictures and links."""

    format: int
    id: str
    reason: Literal["claim", "licence", "error"]
    by: str
    date: str

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))
        need(_ID.fullmatch(self.id) is not None, "id", self.id, "the id of a result")
        Submitted(self.by, self.date)

    @property
    def place(self) -> str:
        """Its path in the results repository."""
        return f"withdrawn/{self.id}.json"


def settings_digest(settings: dict[str, Any]) -> str:
    """sha256 of a method's settings."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def content_id(content: Content) -> str:
    """The first 20 hex digits of the sha256 of the canonical content."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:20]


def read_file(kind: type[C], path: Path | str) -> C:
    """A `Result`, `Verification` or `Withdrawal` from a file that anyone may have written.

    Raises:
        ArtefactError: above a limit, or not of the form; the message names file, field and reason.
    """
    return build(kind, read_limited(Path(path)), Path(path).name)


def read_bytes(kind: type[C], data: bytes, name: str) -> C:
    """As `read_file`, of a file's bytes; `name` for messages."""
    return build(kind, parse(data, name), name)


def write_file(folder: Path | str, entry: Result | Verification | Withdrawal) -> Path:
    """Writes an entry into its place below `folder` and gives the path. An entry that is there is the same one."""
    path = Path(folder) / entry.place
    if not path.exists():
        write_text(path, canonical_json(asdict(entry)) + "\n")
    return path


def check_place(entry: Result | Verification | Withdrawal, place: str) -> None:
    """Refuses a file that does not stand where its content belongs.

    Args:
        place: path in the results repository, with forward slashes.
    """
    need(place == entry.place, "path", place, f"the file's place ({entry.place})")


def check_board(found: BoardRef, board: Board) -> None:
    """Refuses what belongs to another board."""
    if found.fingerprint != board.fingerprint:
        refuse(
            "board.fingerprint",
            found.fingerprint,
            f"{board.fingerprint}, that of the board {board.name}",
            "score it again under this board",
        )
