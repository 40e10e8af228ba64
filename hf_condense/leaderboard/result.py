"""What a result is made of, and the id that follows from its content."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from hf_condense.files import canonical_json
from hf_condense.leaderboard.board import Board
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.fields import (
    Commit,
    Count,
    Date,
    Digest,
    Id,
    Name,
    Positive,
    Seconds,
    Settings,
    Sha256,
    Text,
    Url,
    User,
)
from hf_condense.leaderboard.limits import need, refuse

FORMAT = 1
SETTINGS_BYTES = 8_000
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_LOCAL = re.compile(r"(sets|board)/[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class BoardRef:
    """The board that a result belongs to."""

    name: Text
    fingerprint: Text


@dataclass(frozen=True)
class MethodFacts:
    """What made the sets."""

    name: Name
    title: Text
    paper: Url | None
    code: Url | None
    settings: Settings
    settings_sha256: Sha256

    def __post_init__(self) -> None:
        spelled = canonical_json(self.settings).encode()
        need(len(spelled) <= SETTINGS_BYTES, "settings", f"{len(spelled)} bytes", f"at most {SETTINGS_BYTES} bytes")
        digest = hashlib.sha256(spelled).hexdigest()
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

    repo: Text
    revision: Commit | None
    content_hash: Digest
    pixels_hash: Digest
    seed: Count | None
    images: Positive
    image_bytes: Positive
    licence: Text | None
    made_by: Text | None

    @property
    def local(self) -> bool:
        """Whether it is no Hub repository."""
        return _LOCAL.fullmatch(self.repo) is not None and self.revision is None

    def __post_init__(self) -> None:
        known = self.local or _REPO.fullmatch(self.repo) is not None
        need(known and ".." not in self.repo, "repo", self.repo, "owner/name of a Hub dataset repository")
        need(self.local or self.revision is not None, "revision", self.revision, "40 hex digits of a commit")


@dataclass(frozen=True)
class Cost:
    """What the sets took: seconds of synthesis for each set, of the pool of networks, and bytes of memory."""

    synthesis_seconds: tuple[Seconds, ...]
    pool_seconds: Seconds
    peak_memory: Count
    device: Text
    threads: Count
    tuning_trials: Count | None
    tuned_on: Literal["held-out", "test", "unknown"]


@dataclass(frozen=True)
class Provenance:
    """What scored the sets."""

    library: Text
    commit: Text | None
    torch: Text
    python: Text
    platform: Text
    command: Text


@dataclass(frozen=True)
class PredictionsFile:
    """`predictions/<id[:2]>/<id>.parquet`, by sha256 and size."""

    sha256: Sha256
    bytes: Positive


@dataclass(frozen=True)
class Content:
    """What a result's id is made of. No statistic stands here: all are computed from the counts."""

    format: int
    board: BoardRef
    kind: Literal["submission", "baseline"]
    scope: Literal["set", "method"]
    method: MethodFacts
    sets: tuple[SetRef, ...]
    source: Text
    ipc: Positive
    columns: tuple[Column, ...]
    cost: Cost
    provenance: Provenance
    predictions: PredictionsFile | None
    supersedes: Id | None

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))
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


@dataclass(frozen=True)
class Submitted:
    """Who submitted, and when; not part of the id."""

    by: User
    date: Date


@dataclass(frozen=True)
class Result:
    """A result file: its content, the id that follows from it, and who submitted it."""

    id: Id
    content: Content
    submitted: Submitted

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


def settings_digest(settings: dict) -> str:
    """sha256 of a method's settings."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def content_id(content: Content) -> str:
    """The first 20 hex digits of the sha256 of the canonical content."""
    return id_of(canonical_json(content))


def id_of(content: str) -> str:
    """The id of content that is spelled canonically."""
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def check_board(found: BoardRef, board: Board) -> None:
    """Refuses what belongs to another board."""
    if found.fingerprint != board.fingerprint:
        refuse(
            "board.fingerprint",
            found.fingerprint,
            f"{board.fingerprint}, that of the board {board.name}",
            "score it again under this board",
        )
