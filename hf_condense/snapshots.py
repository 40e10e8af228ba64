"""Repositories of the Hub as local folders, and the error where one cannot be fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hf_condense.errors import CondensationError


def fetch_snapshot(
    id: str,
    kind: Literal["dataset", "model"],
    *,
    error: type[CondensationError],
    field: str,
    allowed: str,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """The folder of a Hub repository in the Hub's cache, fetched if it is not there.

    Args:
        error, field, allowed: the error raised if it cannot be fetched: its class, the setting that names the
            repository, and what that setting may name.
        revision: a branch, tag or commit; defaults to the main branch.
        patterns: only files whose names match one of these.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(id, repo_type=kind, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as failure:
        reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        if getattr(failure, "doc", "").lstrip().startswith("<"):  # no JSON
            reason = "a web page came instead of the Hub's answer, as a network's login sends it"
        step = "check the name and revision, and the network; for a private repository run `hf auth login`"
        if isinstance(failure, GatedRepoError):
            page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{id}"
            step = f"ask for access on {page}, then run `hf auth login`"
        raise error(field, id, f"{allowed} ({reason})", step) from failure
