"""Where a board's files are: a folder, or a dataset repository of which a snapshot is read and to which commits go."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_condense.config import check
from hf_condense.errors import ArtefactError
from hf_condense.files import atomic_path
from hf_condense.leaderboard.board import FILE, Board
from hf_condense.leaderboard.board_file import read_board
from hf_condense.leaderboard.entries import E, read_all, read_file
from hf_condense.leaderboard.fields import USER
from hf_condense.leaderboard.result import Result
from hf_condense.snapshots import fetch_snapshot

NO_COMMIT = "0" * 40
TABLE = "table/board.parquet"  # of all rows, for the dataset viewer; written by `build`
_READ = [FILE, "results/**", "verified/**", "withdrawn/**", "teachers/**"]


@dataclass(frozen=True)
class Place:
    """A board with its files.

    Args:
        folder: on this machine; of a repository the snapshot of one commit, which is only read.
        repo: Hub id, None for a folder.
        commit: of the repository; zeros for a folder.
    """

    folder: Path
    board: Board
    repo: str | None = None
    commit: str = NO_COMMIT

    def entries(self, kind: type[E]) -> list[E]:
        """All results, verifications or withdrawals that are of the form, in the order of their paths."""
        return read_all(self.folder, kind)[0]

    def result(self, id: str) -> Result:
        """The result of that id.

        Raises:
            ArtefactError: there is none.
        """
        found = sorted((self.folder / "results").glob(f"*/ipc*/{id[:2]}/{id}.json")) if id.isalnum() else []
        if not found:
            raise ArtefactError("id", id, f"the id of a result of {self.board.name}", "see the board's pages for ids")
        return read_file(Result, found[0])

    def add(self, files: Mapping[str, Path | bytes], message: str, *, create_pr: bool = False) -> str:
        """Adds files by their paths: at once into a folder, in one commit or pull request to a repository.

        Returns:
            The folder, or the address of the commit or pull request.

        Raises:
            HubError: the Hub refuses, or cannot be reached; the repository is as it was.
        """
        if self.repo is None:
            for name, file in files.items():
                with atomic_path(self.folder / name) as temporary:
                    temporary.write_bytes(file if isinstance(file, bytes) else file.read_bytes())
            return str(self.folder)
        from huggingface_hub import HfApi

        from hf_condense.hub.commits import commit
        from hf_condense.hub.refusals import clear_hub_errors

        with clear_hub_errors(self.repo):
            done = commit(HfApi(), self.repo, "dataset", files, message, create_pr=create_pr)
        return done.url or f"{self.repo} at {done.revision}, unchanged"


def open_place(name: str | Path, revision: str | None = None, predictions: bool = False) -> Place:
    """The board of a folder or of a dataset repository, of which `predictions` are only fetched if asked for.

    Raises:
        ArtefactError: neither, a board of another format, or no network.
    """
    folder = Path(name)
    if folder.is_dir() or (folder / FILE).is_file():
        return Place(folder, read_board(folder))
    fetched = fetch_snapshot(
        str(name),
        "dataset",
        revision=revision,
        patterns=[*_READ, *["predictions/**"] * predictions],
        error=ArtefactError,
        field="leaderboard",
        allowed="a folder or a Hub dataset repository with a board.yaml",
    )
    return Place(fetched, read_board(fetched), str(name), fetched.name)


def author_of(place: Place, by: str | None = None) -> str:
    """Who submits: `by`, else the Hub's user, or the system's where the board is a folder.

    Raises:
        ConfigError: a name that no user of the Hub can have.
    """
    if by is not None:
        known = re.fullmatch(USER, by) is not None
        check(known, "by", by, "the name of a Hub user: letters, digits, '-', '_' and '.'")
        return by
    if place.repo is None:
        return re.sub(r"[^\w.-]", "-", getpass.getuser(), flags=re.ASCII).lstrip("-._") or "unknown"
    from huggingface_hub import HfApi

    from hf_condense.hub.refusals import clear_hub_errors

    with clear_hub_errors(place.repo):
        return HfApi().whoami()["name"]
