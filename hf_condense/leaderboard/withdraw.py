"""Withdrawal: a result turns grey with its reason, and its numbers stay."""

from __future__ import annotations

from pathlib import Path

from hf_condense.config import check
from hf_condense.leaderboard.entries import file_of
from hf_condense.leaderboard.place import author_of, open_place
from hf_condense.leaderboard.result import FORMAT
from hf_condense.leaderboard.stamp import today
from hf_condense.leaderboard.statements import Withdrawal

REASONS = ("claim", "licence", "error")


def withdraw(id: str, leaderboard: str | Path, reason: str, *, by: str | None = None) -> str:
    """Withdraws a result: a further file, as a pull request where the board is a repository.

    Args:
        reason: "claim" (its authors no longer make it), "licence" (which alone hides pictures and links), or "error".
        by: the Hub's user, or for a folder the system's, where not given.

    Returns:
        Where it went.

    Raises:
        ConfigError: another reason, or a result that is withdrawn already.
        ArtefactError, HubError: no such result or board, or the Hub refuses.
    """
    check(reason in REASONS, "reason", reason, ", ".join(REASONS))
    place = open_place(leaderboard)
    result = place.result(id)
    entry = Withdrawal(FORMAT, id, reason, author_of(place, by), today())
    check(not (place.folder / entry.place).exists(), "id", id, "a result that is not withdrawn yet")
    message = f"Withdraw {result.content.method.title}, {id} ({reason})"
    return place.add({entry.place: file_of(entry)}, message, create_pr=place.repo is not None)
