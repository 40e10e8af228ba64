"""Decides how openly something may be published, and sets the repository's visibility before any upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from hf_condense.config import check
from hf_condense.data.licenses import non_commercial
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.commits import Commit, Files, Kind, commit, compare
from hf_condense.hub.refusals import NoAnswer, clear_hub_errors, status_of

PATIENCE = 10  # seconds that a dry run waits for the Hub


def restriction(source: dict[str, Any], api: HfApi) -> str | None:
    """Why data made from this source may not be public, or None. Asks the Hub about sources that it hosts.

    Args:
        source: `content["source"]` of the provenance.
    """
    said, hub_id = [source.get("license")], hub_dataset(source["id"])
    if hub_id:
        try:
            info = api.dataset_info(hub_id)
        except HfHubHTTPError as error:
            if status_of(error) not in (401, 403, 404):
                raise
            return f"the source {hub_id} is not public"
        if info.private or info.gated:
            return f"the source {hub_id} is {'private' if info.private else 'gated'}"
        card = info.card_data or {}
        said += [card.get("license"), card.get("license_name")]
    for license in said:  # any of them may be a list
        words = ", ".join(map(str, license)) if isinstance(license, list) else str(license or "")
        if non_commercial(words):
            return f"the license of the source ({words}) is not for commercial use"
    return None


def answers(api: HfApi) -> bool:
    """Whether the Hub responds."""
    try:
        with clear_hub_errors(api.endpoint):
            get_session().head(api.endpoint, timeout=PATIENCE)
    except NoAnswer:
        return False
    return True


@dataclass(frozen=True)
class Target:
    """The visibility of every repository of a push.

    Args:
        api: None in a dry run that no Hub answers; nothing is then known of repositories and of the source's terms.
        private: None leaves it to the owner's default, and a repository that exists as it is.
        reason: why they are private and gated (each reader is approved by hand), or None.
        dry_run: look, and change nothing.
    """

    api: HfApi | None
    private: bool | None
    reason: str | None
    dry_run: bool

    @classmethod
    def of_source(
        cls, source: dict[str, Any], private: bool | None = None, public: bool = False, dry_run: bool = False
    ) -> Target:
        """The requested visibility, limited by the source's terms unless `public` is set.

        Raises:
            ConfigError: the options contradict each other, or the source's terms.
            HubError: the Hub could not be asked about the source.
        """
        check(not (public and private), "private", private, "one of --private and --public", "drop one of them")
        api = HfApi()
        if dry_run and not answers(api):
            return cls(None, False if public else private, None, dry_run)
        with clear_hub_errors(source["id"]):
            reason = None if public else restriction(source, api)
        check(
            not (reason and private is False),
            "private",
            private,
            f"True or nothing, because {reason}",
            "say --public to publish it openly all the same",
        )
        return cls(api, True if reason else False if public else private, reason, dry_run)

    def send(self, repo_id: str, kind: Kind, files: Files, message: str, **options: Any) -> Commit:
        """One commit to a repository, which is created if missing and made private before any upload.

        Args: see `commits.commit`; a branch (`revision`) that is missing is made.

        Raises:
            HubError: the Hub refuses, or cannot be reached; the repository then is as it was.
        """
        revision = options.get("revision")
        with clear_hub_errors(repo_id):
            if self.dry_run:
                return compare(self.api, repo_id, kind, files, revision, options.get("owned", ()))
            static = {"space_sdk": "static"} if kind == "space" else {}  # static pages, no server-side code
            self.api.create_repo(repo_id, repo_type=kind, private=self.private, exist_ok=True, **static)
            self._close(repo_id, kind)
            if revision is not None:
                self._make_branch(repo_id, kind, revision)
            return commit(self.api, repo_id, kind, files, message, **options)

    def _close(self, repo_id: str, kind: Kind) -> None:
        if self.private:  # one that was there before keeps its settings unless they are changed
            info = self.api.repo_info(repo_id, repo_type=kind)
            if self.reason and not info.gated:
                self.api.update_repo_settings(repo_id, repo_type=kind, private=True, gated="manual")
            elif not info.private:
                self.api.update_repo_settings(repo_id, repo_type=kind, private=True)

    def _make_branch(self, repo_id: str, kind: Kind, revision: str) -> None:
        try:
            self.api.repo_info(repo_id, repo_type=kind, revision=revision)
        except RevisionNotFoundError:
            self.api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
