"""Pushes a set of files as one commit: the files are compared with the repository, and only changed ones are sent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from hf_condense.hub.refusals import TransportError, lost_answer, status_of

ATTEMPTS = 3  # at a commit, when another process pushes at the same time
Files = Mapping[str, Path | bytes]
Kind = Literal["dataset", "model", "space"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """One file and its state in a push: new, changed, same (not sent) or gone (deleted)."""

    path: str
    state: Literal["new", "changed", "same", "gone"]
    bytes: int


@dataclass(frozen=True)
class Commit:
    """The changes that a push makes, or has made, in a repository.

    Args:
        kind: dataset, model or space.
        changes: every file of the push, and those that it deletes.
        revision: commit that holds the files now; of a dry run, the one that it would start from (or None).
        url: of the pull request or commit; None where nothing was sent.
    """

    repo_id: str
    kind: Kind
    changes: tuple[Change, ...]
    revision: str | None
    url: str | None = None

    @property
    def sent(self) -> list[Change]:
        """Files that are uploaded."""
        return [change for change in self.changes if change.state in ("new", "changed")]

    @property
    def bytes(self) -> int:
        """Size of the uploaded files in bytes."""
        return sum(change.bytes for change in self.sent)


def compare(
    api: HfApi | None, repo_id: str, kind: Kind, files: Files, revision: str | None = None, owned: tuple[str, ...] = ()
) -> Commit:
    """The changes that a commit of `files` would make; all files are new if the repository does not exist.

    Args:
        api: None if the Hub cannot be reached; the repository then counts as missing.
        files: path in the repository -> file, or its bytes.
        revision: branch; defaults to main.
        owned: folders of the repository in which nothing but `files` may stay.
    """
    head = None if api is None else _head(api, repo_id, kind, revision)
    there = {}
    if head is not None:
        tree = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=kind)
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    changes = [Change(path, _state(there.get(path), file), _size(file)) for path, file in files.items()]
    stale = [p for p in there if p not in files and p.split("/", 1)[0] in owned]
    changes += [Change(path, "gone", there[path].size) for path in stale]
    return Commit(repo_id, kind, tuple(changes), head)


def commit(
    api: HfApi,
    repo_id: str,
    kind: Kind,
    files: Files,
    message: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    owned: tuple[str, ...] = (),
) -> Commit:
    """Writes `files` into an existing repository in a single commit; makes no commit if nothing differs.

    If another process pushes between comparison and commit, both are repeated, up to three times.

    Args: see `compare`; `create_pr` opens a pull request instead of changing the branch.

    Raises: what the Hub's client raises (`refusals.clear_hub_errors`).
    """
    for attempt in range(1, ATTEMPTS + 1):
        planned = compare(api, repo_id, kind, files, revision, owned)
        operations = [CommitOperationAdd(change.path, _as_source(files[change.path])) for change in planned.sent]
        gone = [change.path for change in planned.changes if change.state == "gone"]
        operations += [CommitOperationDelete(path) for path in gone]
        if not operations:
            return planned
        try:
            # with the parent named, the commit fails if the branch has changed since the comparison
            done = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=kind,
                revision=revision,
                create_pr=create_pr,
                parent_commit=planned.revision,
            )
        except HfHubHTTPError as error:
            if status_of(error) != 412 or attempt == ATTEMPTS:
                raise
            log.warning(
                "%s was changed by another push during the push: looking again (attempt %d of %d)",
                repo_id,
                attempt + 1,
                ATTEMPTS,
            )
        except (TransportError, ConnectionError) as error:
            raise lost_answer(repo_id, error) from error
        else:
            return Commit(repo_id, kind, planned.changes, done.oid, done.pr_url or done.commit_url)
    raise AssertionError


def _head(api: HfApi, repo_id: str, kind: Kind, revision: str | None) -> str | None:
    """The commit of a branch; None where repository or branch are not there."""
    try:
        return api.repo_info(repo_id, repo_type=kind, revision=revision).sha
    except HfHubHTTPError as error:
        if status_of(error) == 404:
            return None
        raise


def _state(there: RepoFile | None, file: Path | bytes) -> Literal["new", "changed", "same"]:
    if there is None:
        return "new"
    if there.lfs is not None:
        return "same" if there.lfs.sha256 == _digest(file) else "changed"
    content = file if isinstance(file, bytes) else file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)  # git's name of a file
    return "same" if there.blob_id == blob.hexdigest() else "changed"


def _digest(file: Path | bytes) -> str:
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _size(file: Path | bytes) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _as_source(file: Path | bytes) -> str | bytes:
    return file if isinstance(file, bytes) else str(file)
