"""What `leaderboard check` takes: a file, a board's folder or a pull request; with comment, merge, and a site as witness."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from hf_condense.config import check
from hf_condense.errors import ArtefactError
from hf_condense.hub.refusals import clear_hub_errors
from hf_condense.leaderboard.board import FILE
from hf_condense.leaderboard.check import ADDED, Checker, check_file, check_folder
from hf_condense.leaderboard.limits import MAX_BYTES
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.leaderboard.report import Line, Report
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.result_checks import MAX_PREDICTIONS

_ID = re.compile(r"[0-9a-f]{20}")
MAX_FILES = 100  # of a pull request


@dataclass(frozen=True)
class Checked:
    """The reports of a check, and what was done with a pull request."""

    reports: list[Report]
    done: str = ""

    @property
    def refused(self) -> bool:
        return any(report.refused for report in self.reports)

    def text(self) -> str:
        """For a terminal, or for a comment."""
        refused = sum(report.refused for report in self.reports)
        flags = sum(line.state == "flag" for report in self.reports for line in report.lines)
        head = f"{len(self.reports)} files checked, {refused} refused, {flags} flags"
        return "\n".join([*(report.text() for report in self.reports), head, *[self.done] * bool(self.done)])


def check_target(
    target: str,
    *,
    leaderboard: str | None = None,
    pr: int | None = None,
    comment: bool = False,
    merge: bool = False,
    against: str | None = None,
    data: bool = True,
) -> Checked:
    """Runs the eight checks.

    Args:
        target: result file, folder of a board, or its repository.
        leaderboard: the board of a result file; the folder around it where not given.
        pr: number of a pull request of the repository. `comment` writes the report into it, `merge` merges it if nothing
            is refused.
        against: a built site; ids that it shows and that are gone are refused.
        data: False leaves out checks that need source and sets.

    Raises:
        ConfigError: options that do not fit the target.
        ArtefactError, HubError: the board cannot be read.
    """
    check(
        pr is not None or not (comment or merge), "pr", None, "the number of a pull request with --comment or --merge"
    )
    path = Path(target)
    if pr is not None:
        check(not path.exists(), "target", target, "a repository with --pr")
        return _check_pr(target, pr, comment, merge, data)
    if path.is_file():
        found = Checked(check_file(path, open_place(leaderboard or _around(path)), data))
    else:
        place = open_place(target, predictions=True)
        found = Checked(check_folder(place, data))
        if against is not None:
            found.reports.append(_against(place, Path(against)))
    return found


def _around(path: Path) -> Path:
    for folder in path.resolve().parents:
        if (folder / FILE).is_file():
            return folder
    raise ArtefactError("leaderboard", None, f"the board of {path.name}", "say which one with --leaderboard")


def _against(place: Place, site: Path) -> Report:
    """Ids of a built site that the board no longer has."""
    shown = site / "board.json"
    try:
        text = shown.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError) as error:
        raise ArtefactError("against", str(site), f"the folder of a built site ({error})", "check the path") from None
    there = {r.id for r in place.entries(Result)}
    gone = sorted(set(_ids(json.loads(text))) - there)
    state = "refused" if gone else "holds"
    return Report(str(site), [Line(2, state, f"ids that vanished: {', '.join(gone)}" if gone else "")])


def _ids(value) -> list[str]:
    """All values called `id` that look like one of a result."""
    if isinstance(value, dict):
        own = [v for k, v in value.items() if k == "id" and isinstance(v, str) and _ID.fullmatch(v)]
        return own + [id for v in value.values() for id in _ids(v)]
    return [id for v in value for id in _ids(v)] if isinstance(value, list) else []


def _check_pr(repo: str, number: int, comment: bool, merge: bool, data: bool) -> Checked:
    api = HfApi()
    with clear_hub_errors(repo):
        discussion = api.get_discussion_details(repo, number, repo_type="dataset")
    check(discussion.is_pull_request, "pr", number, "a pull request, not a discussion")
    place = open_place(repo)
    with clear_hub_errors(repo):
        head = api.repo_info(repo, repo_type="dataset", revision=discussion.git_reference).sha
        stray, files = _changes(api, place, head)
    reports = [Report(path, [Line(2, "refused", reason)]) for path, reason in stray]
    reports += Checker(place, data).check(files, author=discussion.author)
    if not reports:
        reports = [Report(f"pull request {number}", [Line(2, "refused", "adds no result")])]
    found = Checked(reports)
    done = []
    with clear_hub_errors(repo):
        if comment:
            fence = "```"  # the report quotes strangers: as code it is shown, not rendered
            body = f"{fence}\n{found.text().replace(fence, '')[:20_000]}\n{fence}"
            api.comment_discussion(repo, number, body, repo_type="dataset")
            done.append("comment written")
        if merge and not found.refused:
            now = api.repo_info(repo, repo_type="dataset", revision=discussion.git_reference).sha
            check(
                now == head, "pr", number, "a pull request that does not change while it is checked", "check it again"
            )
            api.merge_pull_request(repo, number, repo_type="dataset", comment="All checks hold.")
            done.append("merged")
    return Checked(reports, "; ".join(done) or ("not merged" if merge else ""))


def _changes(api: HfApi, place: Place, head: str) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """(path, reason) of changes that are never taken, and the bytes of added files; nothing large is fetched."""
    trees = []
    for revision in (place.commit, head):
        tree = api.list_repo_tree(place.repo, recursive=True, revision=revision, repo_type="dataset")
        trees.append({entry.path: entry for entry in tree if isinstance(entry, RepoFile)})
    before, after = trees
    changed = [p for p in before if p in after and before[p].blob_id != after[p].blob_id]
    stray = [(p, "only adding is allowed: this file is changed") for p in changed]
    stray += [(p, "only adding is allowed: this file is deleted") for p in before if p not in after]
    added = [p for p in after if p not in before]
    if len(added) > MAX_FILES:
        return [("pull request", f"{len(added)} files are added, of at most {MAX_FILES}")], {}
    files = {}
    for path in added:
        limit = MAX_BYTES if path.endswith(".json") else MAX_PREDICTIONS
        if path.split("/", 1)[0] not in ADDED:
            stray.append((path, f"only {', '.join(ADDED)} are added to"))
        elif after[path].size > limit:
            stray.append((path, f"{after[path].size} bytes, of at most {limit}"))
        else:
            local = api.hf_hub_download(place.repo, path, repo_type="dataset", revision=head)
            files[path] = Path(local).read_bytes()
    return stray, files
