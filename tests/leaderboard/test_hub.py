"""A board on the local Hub: submit as a pull request, check with a comment, merge, verify; refusals and broken connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_condense.cli import main
from hf_condense.errors import CondensationError, HubError
from hf_condense.hub.push import push
from hf_condense.leaderboard.checking import check_target
from hf_condense.leaderboard.keep import push_board
from hf_condense.leaderboard.place import open_place
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.statements import Verification
from hf_condense.leaderboard.submit import submit
from hf_condense.leaderboard.verify import verify
from tests.hub.test_student import eval_results


@pytest.fixture
def repo(hub, made_board) -> str:
    """The board, published."""
    name = hub.fresh("board")
    push_board(made_board[0], name)
    return name


@pytest.fixture
def published(hub, make_set) -> str:
    """A set, published."""
    name = hub.fresh("set")
    push(make_set(1, floats=True), name, public=True)
    return name


def pull_requests(hub, repo: str) -> list[int]:
    return [d.num for d in hub.api().get_repo_discussions(repo, repo_type="dataset") if d.is_pull_request]


def test_submit_check_merge_verify(hub, repo, published, work, capsys):
    done = submit([published], repo, work=work)
    assert done.result.submitted.by == "ada" and done.result.content.sets[0].repo == published
    assert len(done.result.content.sets[0].revision) == 40
    (number,) = pull_requests(hub, repo)
    assert open_place(repo).commit == open_place(repo).commit and not _submissions(repo)
    assert main(["leaderboard", "check", repo, "--pr", str(number), "--comment", "--merge"]) == 0
    assert "merged" in capsys.readouterr().out
    events = hub.api().get_discussion_details(repo, number, repo_type="dataset").events
    assert any("1 files checked, 0 refused" in getattr(event, "content", "") for event in events)
    assert _submissions(repo) == [done.result]
    whole = check_target(repo)
    assert not whole.refused, whole.text()
    again = submit([published], repo, work=work)
    assert "already there" in again.where and pull_requests(hub, repo) == [number]
    found = verify(done.result.id, repo, seeds=3, work=work)
    assert found.entry.commit == open_place(repo).commit and set(found.entry.commit) != {"0"}
    second = max(pull_requests(hub, repo))
    checked = check_target(repo, pr=second, merge=True)
    assert not checked.refused, checked.text()
    (entry,) = open_place(repo).entries(Verification)
    assert entry == found.entry


def _submissions(repo: str) -> list[Result]:
    return [r for r in open_place(repo).entries(Result) if r.content.kind == "submission"]


def test_the_same_bytes_after_a_412_and_a_dropped_connection(hub, made_board, published, work):
    names = [hub.fresh("board") for _ in range(2)]
    ids = []
    for name, faulty in zip(names, (False, True)):
        push_board(made_board[0], name)
        if faulty:
            with hub.fault("commit", status=500, times=9), pytest.raises(HubError):
                submit([published], name, work=work)
            assert not pull_requests(hub, name)
            with hub.fault("commit", status=412):
                submit([published], name, work=work)
        else:
            submit([published], name, work=work)
        (number,) = pull_requests(hub, name)
        assert not check_target(name, pr=number, merge=True).refused
        (result,) = _submissions(name)
        ids.append(result.id)
    assert ids[0] == ids[1]


def test_the_median_student_of_each_column_is_published_with_its_entry(hub, repo, published, work, capsys):
    command = ["submit", published, "--leaderboard", repo, "--work_dir", str(work), "--push_students"]
    assert main(command) == 0
    said = capsys.readouterr().out
    pushed = [line.removeprefix("student ") for line in said.splitlines() if line.startswith("student ")]
    (number,) = pull_requests(hub, repo)
    assert not check_target(repo, pr=number, merge=True).refused
    (result,) = _submissions(repo)
    assert len(pushed) == len(result.content.columns) == 3
    for column, name in zip(result.content.columns, pushed):
        assert name.startswith("ada/") and name.endswith(f"-digits-ipc2-dm-{column.regime}-{column.student}")
        (entries,) = eval_results(hub, name).values()
        median = sorted(column.correct)[1]
        assert (
            entries[0]["dataset"]["id"] == repo and entries[0]["dataset"]["task_id"] == f"digits-ipc2-{column.regime}"
        )
        assert entries[0]["value"] == round(100 * median / column.tested, 2) and result.id in entries[0]["notes"]
    assert main(command) == 0  # again: the result is there, and its students are
    said = capsys.readouterr().out
    assert "already there" in said and all(f"student {name}" in said for name in pushed)


def test_students_of_a_folder_are_not_published(board, make_set, work):
    with pytest.raises(CondensationError, match="push_students.*on the Hub"):
        submit([str(make_set(1))], board, work=work, push_students=True)


def test_a_run_folder_has_to_be_published_first(hub, repo, make_set, work):
    with pytest.raises(CondensationError, match="hf-condense push"):
        submit([str(make_set(1))], repo, work=work)
    assert not pull_requests(hub, repo)


def test_pull_requests_that_do_more_are_refused(hub, repo, published, work):
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, place = hub.api(), open_place(repo)
    result = place.entries(Result)[0]
    operations = [CommitOperationDelete(result.place), CommitOperationAdd("board.yaml", b"name: mine\n")]
    operations += [CommitOperationAdd("results/x.json", b"{}"), CommitOperationAdd("evil.py", b"import os")]
    api.create_commit(repo, operations, commit_message="more", repo_type="dataset", create_pr=True)
    (number,) = pull_requests(hub, repo)
    found = check_target(repo, pr=number, merge=True)
    refused = {r.name for r in found.reports if r.refused}
    assert refused == {result.place, "board.yaml", "results/x.json", "evil.py"}
    assert "not merged" in found.text()
    assert open_place(repo).commit == place.commit


def test_forged_authors_are_refused(hub, repo, published, work):
    done = submit([published], repo, work=work, by="grace", dry_run=True)
    assert done.where is None
    submit([published], repo, work=work, by="grace")
    (number,) = pull_requests(hub, repo)
    found = check_target(repo, pr=number)
    assert found.refused and "ada, who opened the change" in found.text()


def test_offline(hub, repo, tmp_path: Path):
    with hub.offline(), pytest.raises(CondensationError, match=r"leaderboard=.*network"):
        open_place(hub.fresh("never-fetched"))
