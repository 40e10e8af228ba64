"""Publishes a finished run: its dataset in one commit and its networks, no more openly than the source allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.hub.artefact import DATA, SOFT_LABELS, TENSORS
from hf_condense.hub.card import PLACE, card_facts, readable_bytes, render_card, title
from hf_condense.hub.commits import Commit
from hf_condense.hub.models import find_member, model_files, model_repository, unpublished
from hf_condense.hub.place import locate
from hf_condense.hub.record import CONDENSATION, check_files, listed_file, read_record
from hf_condense.hub.refusals import clear_hub_errors
from hf_condense.hub.teachers import needs_teacher, refuse_lost_teachers
from hf_condense.hub.visibility import Target
from hf_condense.records.base import write_record
from hf_condense.records.sets import Condensation
from hf_condense.text import printable

OWNED = (DATA, SOFT_LABELS, TENSORS)
CARD = "README.md"
POOL = Path("pool/models")  # of a run folder
POOL_ROLES = {"observer", "teacher"}  # of networks in the run's pool; others are taken as they were published


@dataclass(frozen=True)
class Pushed:
    """The result of a push, or of a dry run.

    Args:
        commits: of the model repositories, then of the dataset.
        target: visibility, and whether this was a dry run.
        refused: reason for which a real push would be refused, or None.
    """

    commits: tuple[Commit, ...]
    target: Target
    refused: ConfigError | None = None

    @property
    def dataset(self) -> Commit:
        return self.commits[-1]

    def text(self) -> str:
        """Readable summary: each repository with the uploaded files and their size."""
        lines = []
        for done in self.commits:
            shown = [c for c in done.changes if c.state != "same"]
            same = len(done.changes) - len(shown)
            verb = "would send" if self.target.dry_run else "sent"
            size = readable_bytes(done.bytes)
            lines.append(f"{done.kind} {done.repo_id}: {verb} {len(done.sent)} files, {size}; {same} unchanged")
            lines += [f"  {c.state:<8} {readable_bytes(c.bytes):>10}  {c.path}" for c in shown]
            lines += [f"  {done.url}"] * bool(done.url)
        if self.target.reason:
            lines.append(f"private and gated, because {self.target.reason}; --public says otherwise")
        elif self.target.private:
            lines.append("private")
        if self.target.api is None:
            lines.append(
                "the Hub does not answer: assumed that nothing is there yet; the source's terms were not looked up"
            )
        if self.refused:
            lines.append(f"without --dry_run this is refused: {self.refused}")
        return "\n".join(map(printable, lines))


def push(
    place: Path | str,
    repo_id: str,
    *,
    private: bool | None = None,
    public: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    push_models: bool = False,
) -> Pushed:
    """Publishes the distilled dataset of a run as the dataset repository `repo_id`, in one commit.

    Files that are there already are not sent, and without a difference there is no commit: it is safe to repeat. Models
    go first, each in one commit of its own, so that the dataset never names a missing model. A source that is gated,
    not public or not for commercial use makes all of them private and gated.

    Args:
        place: run folder, or a folder with a distilled dataset.
        repo_id: `owner/name`; the token's owner where there is only a name.
        private: whether repositories are made private; defaults to the owner's setting.
        public: publishes openly what comes from such a source.
        create_pr: opens a pull request on the dataset instead of changing it.
        revision: branch of the dataset, created where it is missing; defaults to main.
        dry_run: only reports what would be uploaded or refused; a Hub that does not answer counts as empty.
        push_models: sends the networks that are not published to `<repo>-<model>`, as safetensors, and names them by
            revision and sha256 in the set's record.

    Raises:
        ArtefactError: there is no whole distilled dataset.
        ConfigError: options that contradict each other, or a label regime whose teacher is not published.
        ModelError: a network to send is not in the run's pool, or damaged.
        HubError: the Hub refuses, or cannot be reached. The same command goes on.
    """
    folder, content, record = _whole(place)
    refused = None
    try:
        if not push_models:
            refuse_lost_teachers(needs_teacher(content), unpublished(content, record, "teacher"))
    except ConfigError as refusal:
        if not dry_run:
            raise
        refused = refusal
    target = Target.of_source(content["source"], private, public, dry_run)
    if "/" not in repo_id and target.api is not None:
        with clear_hub_errors(repo_id):
            repo_id = f"{target.api.whoami()['name']}/{repo_id}"
    commits = []
    if push_models:
        commits, sent = _send_models(Path(place) / POOL, content, repo_id, target)
        if not dry_run and sent != record.get("published_models", {}):
            record = {**record, "published_models": sent}
            write_record(folder / CONDENSATION, Condensation, {"content": content, "record": record})
    files = dataset_files(folder, content, record, repo_id)
    message = f"{title(content)}, {content['content_hash']}"
    commits.append(
        target.send(repo_id, "dataset", files, message, revision=revision, create_pr=create_pr, owned=OWNED)
    )
    return Pushed(tuple(commits), target, refused)


def _send_models(
    pool: Path, content: dict[str, Any], repo_id: str, target: Target
) -> tuple[list[Commit], dict[str, Any]]:
    """Commits of the networks that are not published, and name -> id, revision and sha256 for the set's record."""
    commits, sent = [], {}
    names = unpublished(content, {})
    for model in content["models"]:
        if model["name"] in names and set(model["roles"]) <= POOL_ROLES:
            name = model_repository(repo_id, model["name"])
            files = model_files(find_member(pool, model), name, content["source"]["id"])
            commits.append(target.send(name, "model", files, f"{model['name']}, {title(content)}"))
            sent[model["name"]] = {"id": name, "revision": commits[-1].revision, "sha256": model["sha256"]}
    return commits, sent


def dataset_files(
    folder: Path, content: dict[str, Any], record: dict[str, Any], repo_id: str
) -> dict[str, Path | bytes]:
    """Path in the repository -> file of a distilled dataset's folder; the card says the repository's name.

    Args:
        folder: of the dataset; `content` and `record`: the two halves of its record, as they were read.
        repo_id: where the dataset goes.

    Raises:
        ArtefactError: a file outside the folder is listed, or linked to.
    """
    files: dict[str, Path | bytes] = {name: listed_file(folder, name) for name in (*record["files"], CONDENSATION)}
    card = listed_file(folder, CARD).read_text(encoding="utf-8")
    as_written = {k: v for k, v in record.items() if k != "published_models"}
    if card == render_card(card_facts(content, as_written)):
        card = render_card(card_facts(content, record, repo_id))
    else:  # another process wrote into it: its files stay
        card = card.replace(PLACE, repo_id)
    return {**files, CARD: card.encode()}


def _whole(place: Path | str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """(folder, content, record) of the distilled dataset, with every file as it was written."""
    if not Path(place).is_dir():
        raise ArtefactError("run_folder", str(place), "a run folder on this machine", "check the path")
    folder = locate(place)
    both = read_record(folder)
    for name, state in check_files(folder, both["record"]["files"]).items():
        if state != "holds":
            raise ArtefactError(str(folder / name), state, "the file as it was written", "run the same command again")
    return folder, both["content"], both["record"]
