"""What is said of a result after it was submitted: verifications by others, and withdrawals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from hf_condense.files import canonical_json
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.fields import Commit, Date, Id, Text, User
from hf_condense.leaderboard.limits import need
from hf_condense.leaderboard.result import FORMAT, BoardRef, Provenance, Submitted


@dataclass(frozen=True)
class Remade:
    """What `reproduce` found: whether the same set came out, and in words what differs."""

    same: bool
    differences: tuple[Text, ...]


@dataclass(frozen=True)
class Verification:
    """`verified/<id>/<by>-<nonce>.json`: others' students on the sets of a result, with seeds derived from a commit.

    Args:
        id: of the result. `commit`: of the results repository, from which seeds follow; zeros for a folder.
        columns: as in a result; agreement is computed from the counts of both.
    """

    format: int
    board: BoardRef
    id: Id
    commit: Commit
    columns: tuple[Column, ...]
    remade: Remade | None
    provenance: Provenance
    submitted: Submitted

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))

    @property
    def place(self) -> str:
        """Its path in the results repository."""
        nonce = hashlib.sha256(canonical_json(self).encode()).hexdigest()[:8]
        return f"verified/{self.id}/{self.submitted.by}-{nonce}.json"


@dataclass(frozen=True)
class Withdrawal:
    """`withdrawn/<id>.json`: the row turns grey; only the reason "licence" hides pictures and links."""

    format: int
    id: Id
    reason: Literal["claim", "licence", "error"]
    by: User
    date: Date

    def __post_init__(self) -> None:
        need(self.format == FORMAT, "format", self.format, str(FORMAT))

    @property
    def place(self) -> str:
        """Its path in the results repository."""
        return f"withdrawn/{self.id}.json"
