"""Publishes a built site as a static Space, in one commit."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import HfApi

from hf_condense.config import check
from hf_condense.hub.card import readable_bytes
from hf_condense.hub.commits import Commit
from hf_condense.hub.refusals import clear_hub_errors
from hf_condense.hub.visibility import Target, answers
from hf_condense.leaderboard.place import TABLE, open_place
from hf_condense.leaderboard.serve import built_site

OWNED = ("methods", "tasks", "plots", "pictures")  # folders in which only pages of the newest build stay


def push_space(site: Path | str, repo_id: str, *, private: bool | None = None, dry_run: bool = False) -> str:
    """Makes the Space `repo_id` hold a built site; it is made where there is none, with `sdk: static`.

    Files that are there already are not sent, and without a difference there is no commit: it is safe to repeat.

    Args:
        repo_id: `owner/name`; the token's owner where there is only a name.
        private: whether a new Space is private; the owner's default where not given.
        dry_run: only say what would go up; a Hub that does not answer counts as empty.

    Returns:
        What was sent and where it is, for a person.

    Raises:
        ArtefactError: `site` is no built site.
        HubError: the Hub refuses, or cannot be reached; the Space is as it was, and the same call goes on.
    """
    folder = built_site(site)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    api = HfApi()
    target = Target(None if dry_run and not answers(api) else api, private, None, dry_run)
    if "/" not in repo_id and target.api is not None:
        with clear_hub_errors(repo_id):
            repo_id = f"{api.whoami()['name']}/{repo_id}"
    digest = json.loads((folder / "board.json").read_text(encoding="utf-8"))["digest"]
    done = target.send(repo_id, "space", files, f"Pages of the results with {digest}", owned=OWNED)
    return _text(done, dry_run)


def push_table(site: Path | str, leaderboard: str) -> str:
    """Puts the table of a built site into its results repository, for the Hub's dataset viewer; gives the address.

    Raises:
        ArtefactError: `site` is no built site. ConfigError: it is the site of another board, or the board is a folder.
        HubError: the Hub refuses, or cannot be reached.
    """
    folder = built_site(site)
    built = json.loads((folder / "board.json").read_text(encoding="utf-8"))
    place = open_place(leaderboard)
    check(
        place.repo is not None,
        "leaderboard",
        leaderboard,
        "a results repository; `build` writes the table of a folder",
    )
    check(built["fingerprint"] == place.board.fingerprint, "site", built["board"], f"the site of {place.board.name}")
    return place.add({TABLE: folder / "board.parquet"}, f"Table of the results with {built['digest']}")


def _text(done: Commit, dry_run: bool) -> str:
    gone = sum(change.state == "gone" for change in done.changes)
    same = sum(change.state == "same" for change in done.changes)
    verb, size = "would send" if dry_run else "sent", readable_bytes(done.bytes)
    line = f"space {done.repo_id}: {verb} {len(done.sent)} files, {size}; {same} unchanged, {gone} deleted"
    return line if done.url is None else f"{line}\n  {done.url}"
