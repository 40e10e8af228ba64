"""Discussions and pull requests of one repository: who wrote what, in order, in the form that clients read."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime


def hub_time(seconds: float) -> str:
    """The one spelling of a date that the clients read."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class Discussion:
    """One numbered thread. A pull request is a thread with a branch of its own.

    Args:
        base: ref that a pull request is merged into; None for a plain discussion.
        status: open, closed or merged (a pull request that was opened without a commit starts as draft).
        events: comments, commits and changes of status, oldest first.
        merge_commit: of a merged pull request.
    """

    number: int
    title: str
    author: str
    base: str | None = None
    status: str = "open"
    events: list[dict] = field(default_factory=list)
    merge_commit: str | None = None
    created: str = field(default_factory=lambda: hub_time(time.time()))

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"

    def comment(self, author: str, text: str) -> dict:
        latest = {"raw": text, "html": "", "updatedAt": hub_time(time.time()), "author": {"name": author}}
        return self._event("comment", author, {"edited": False, "hidden": False, "latest": latest, "history": []})

    def commit(self, author: str, subject: str, oid: str) -> dict:
        return self._event("commit", author, {"subject": subject, "oid": oid})

    def change_status(self, author: str, status: str) -> dict:
        self.status = status
        return self._event("status-change", author, {"status": status})

    def _event(self, kind: str, author: str, data: dict) -> dict:
        name = hashlib.sha256(f"{self.number}/{len(self.events)}".encode()).hexdigest()[:24]
        event = {"id": name, "type": kind, "createdAt": hub_time(time.time()), "author": {"name": author}}
        self.events.append({**event, "data": data})
        return self.events[-1]
