"""The local Hub answers unmodified clients as the real one does, and fails when it is told to."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfFileSystem,
    get_session,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests import forked
from tests.hub_server.large_files import PART_BYTES

TEXT, LARGE = b"some text", bytes(range(256)) * 40


def pushed(hub, numbers=(1, 2, 3), **options) -> str:
    """A dataset repository with one column of numbers."""
    from datasets import Dataset

    repo = options.pop("repo", None) or hub.fresh("numbers")
    Dataset.from_dict({"a": list(numbers)}).push_to_hub(repo, **options)
    return repo


def loaded(repo, *config, **options) -> list[int]:
    from datasets import load_dataset

    return [row["a"] for row in load_dataset(repo, *config, split="train", **options)]


def files_of(hub, repo, **options) -> set[str]:
    return set(hub.api().list_repo_files(repo, repo_type="dataset", **options)) - {".gitattributes"}


def commits_of(hub, repo, **options) -> list[str]:
    return [c.title for c in hub.api().list_repo_commits(repo, repo_type="dataset", **options)]


def made(hub, **options) -> str:
    """An empty dataset repository."""
    return hub.api().create_repo(hub.fresh("made"), repo_type="dataset", **options).repo_id


def upload(hub, repo, user="ada", path="a.bin", data=LARGE, **options):
    return hub.api(user).upload_file(
        path_or_fileobj=data, path_in_repo=path, repo_id=repo, repo_type="dataset", **options
    )


def status_of(caught) -> int:
    return caught.value.response.status_code


# --- what clients do


def test_datasets_with_two_configs_load_by_name_by_revision_and_offline(hub):
    repo = pushed(hub)
    first = hub.api().dataset_info(repo).sha
    pushed(hub, (7, 8), repo=repo, config_name="others")
    pushed(hub, (4,), repo=repo)
    assert loaded(repo, revision=first) == [1, 2, 3]
    assert loaded(repo) == [4]
    assert loaded(repo, "others") == [7, 8]
    assert loaded(repo, "others", streaming=True) == [7, 8]
    assert commits_of(hub, repo) == ["Upload dataset"] * 3 + ["initial commit"]
    before = len(hub.requests)
    with hub.offline():
        assert loaded(repo, "default") == [4]
        with pytest.raises(OfflineModeIsEnabled):
            hub.api().dataset_info(repo)
    assert len(hub.requests) == before
    with pytest.raises(ValueError, match="BuilderConfig 'none' not found"):
        loaded(repo, "none")


def test_branches_and_tags_hold_what_they_held(hub):
    repo, api = pushed(hub), hub.api()
    api.create_tag(repo, tag="v1", repo_type="dataset")
    api.create_branch(repo, branch="wip/next", repo_type="dataset")
    pushed(hub, (5,), repo=repo, revision="wip/next")
    pushed(hub, (6,), repo=repo)
    assert [loaded(repo, revision=r) for r in ("v1", "wip/next", "main")] == [[1, 2, 3], [5], [6]]
    refs = api.list_repo_refs(repo, repo_type="dataset")
    assert {r.name for r in refs.branches} == {"main", "wip/next"}
    assert [r.name for r in refs.tags] == ["v1"]
    for again in (lambda: api.create_tag(repo, tag="v1", repo_type="dataset"),
                  lambda: api.create_branch(repo, branch="wip/next", repo_type="dataset")):  # fmt: skip
        with pytest.raises(HfHubHTTPError) as caught:
            again()
        assert status_of(caught) == 409
    for unknown in ("v2", "0" * 40, "main~1"):
        with pytest.raises(RevisionNotFoundError):
            api.dataset_info(repo, revision=unknown)


def test_a_pull_request_of_a_stranger_waits_until_it_is_merged(hub):
    repo = made(hub)
    opened = upload(hub, repo, "eve", create_pr=True, commit_message="numbers")
    assert files_of(hub, repo) == set()
    assert files_of(hub, repo, revision=opened.pr_revision) == {"a.bin"}
    (told,) = hub.api().get_repo_discussions(repo, repo_type="dataset")
    assert (told.num, told.author, told.status, told.is_pull_request) == (opened.pr_num, "eve", "open", True)
    upload(hub, repo, path="b.bin")  # the branch moves on in between
    hub.api().merge_pull_request(repo, opened.pr_num, repo_type="dataset")
    assert files_of(hub, repo) == {"a.bin", "b.bin"}
    assert commits_of(hub, repo)[0] == "numbers (#1)"
    with pytest.raises(HfHubHTTPError) as caught:
        hub.api().merge_pull_request(repo, opened.pr_num, repo_type="dataset")
    assert status_of(caught) == 409


def test_a_pull_request_is_talked_about_grown_by_its_author_and_merged(hub):
    repo, eve, ada = made(hub), hub.api("eve"), hub.api()
    opened = upload(hub, repo, "eve", create_pr=True, commit_message="numbers", commit_description="ten of them")
    number = opened.pr_num
    upload(hub, repo, "eve", path="b.txt", data=TEXT, revision=opened.pr_revision, commit_message="more")
    with pytest.raises(HfHubHTTPError) as caught:
        hub.api(None).comment_discussion(repo, number, "hello", repo_type="dataset")
    assert status_of(caught) == 401
    with pytest.raises(HfHubHTTPError) as caught:
        eve.merge_pull_request(repo, number, repo_type="dataset")
    assert status_of(caught) == 403
    assert ada.comment_discussion(repo, number, "**holds**", repo_type="dataset").content == "**holds**"
    ada.merge_pull_request(repo, number, repo_type="dataset", comment="thanks")
    details = eve.get_discussion_details(repo, number, repo_type="dataset")
    assert (details.status, details.target_branch, details.conflicting_files) == ("merged", "refs/heads/main", False)
    assert details.merge_commit_oid == ada.dataset_info(repo).sha
    assert "+some text" in details.diff and "a.bin" in details.diff
    kinds = [(e.type, e.author) for e in details.events]
    assert kinds == [("comment", "eve"), ("commit", "eve"), ("commit", "eve"), ("comment", "ada"),
                     ("status-change", "ada"), ("comment", "ada")]  # fmt: skip
    assert [e.content for e in details.events if e.type == "comment"] == ["ten of them", "**holds**", "thanks"]


def test_conflicts_are_seen_and_discussions_are_listed_by_kind_and_status(hub):
    repo, api = made(hub), hub.api()
    upload(hub, repo, path="a.txt", data=b"one\n")
    clash = upload(hub, repo, "eve", path="a.txt", data=b"two\n", create_pr=True).pr_num
    upload(hub, repo, path="a.txt", data=b"three\n")
    assert api.get_discussion_details(repo, clash, repo_type="dataset").conflicting_files
    with pytest.raises(HfHubHTTPError) as caught:
        api.merge_pull_request(repo, clash, repo_type="dataset")
    assert status_of(caught) == 409
    talk = hub.api("eve").create_discussion(repo, "A question", description="Why?", repo_type="dataset")
    assert (talk.is_pull_request, talk.events[0].content) == (False, "Why?")
    hub.api("eve").change_discussion_status(repo, clash, "closed", repo_type="dataset")

    def numbers(**asked):
        return [d.num for d in api.get_repo_discussions(repo, repo_type="dataset", **asked)]

    for i in range(30):  # more than a page
        api.create_discussion(repo, f"Talk {i}", repo_type="dataset")
    assert len(numbers()) == 32
    assert numbers(author="eve") == [talk.num, clash]
    assert numbers(discussion_type="pull_request") == [clash]
    assert numbers(discussion_type="pull_request", discussion_status="open") == []
    with pytest.raises(HfHubHTTPError) as caught:
        api.get_discussion_details(repo, 99, repo_type="dataset")
    assert status_of(caught) == 404


def test_a_static_space_is_made_filled_and_refused_with_a_wrong_card(hub, tmp_path):
    api, repo = hub.api(), hub.fresh("space")
    url = api.create_repo(repo, repo_type="space", space_sdk="static")
    assert (url.repo_type, url.repo_id) == ("space", repo)
    card = b"---\ntitle: Board\nsdk: static\nshort_description: %s\n---\n"

    def send(name, data):
        return api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=repo, repo_type="space")

    for name, data in (("README.md", card % b"Scores"), ("index.html", b"<p>hello</p>"), ("a.png", LARGE)):
        send(name, data)
    assert api.space_info(repo).sdk == "static"
    down = snapshot_download(repo, repo_type="space", local_dir=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == LARGE, down
    with pytest.raises(ValueError, match="short_description"):
        send("README.md", card % (b"long " * 13))
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info(repo)


def test_a_folder_goes_up_once_and_comes_down_the_same(hub, tmp_path):
    sent = {f"many/{i:03}.txt": b"%d" % i for i in range(30)}  # more than a page of the tree
    sent |= {"large.bin": LARGE, "in parts.bin": bytes(PART_BYTES) + LARGE, "empty.txt": b""}
    for path, data in sent.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(data)
    repo = made(hub)

    def send():
        return hub.api().upload_folder(repo_id=repo, repo_type="dataset", folder_path=tmp_path / "up").oid

    head = send()
    start = len(hub.requests)
    assert send() == head
    assert not {"commit", "lfs_put"} & {name for name, _ in hub.requests[start:]}
    (tmp_path / "up" / "large.bin").write_bytes(LARGE[1:])
    assert send() != head
    for revision, large in ((head, LARGE), ("main", LARGE[1:])):
        down = snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=tmp_path / revision)
        got = {p: (tmp_path / revision / p).read_bytes() for p in sent}
        assert got == {**sent, "large.bin": large}, down
    infos = hub.api().get_paths_info(repo, ["large.bin", "empty.txt", "none"], repo_type="dataset")
    assert {i.path: i.lfs and i.lfs.size for i in infos} == {"large.bin": len(LARGE) - 1, "empty.txt": None}


def test_one_commit_adds_and_deletes_or_does_neither(hub):
    repo, api = made(hub), hub.api()
    for path in ("old/a.txt", "old/b.txt", "keep.txt"):
        upload(hub, repo, path=path, data=TEXT)
    commits = commits_of(hub, repo)
    add = CommitOperationAdd("new.txt", TEXT)
    with pytest.raises(RemoteEntryNotFoundError):
        wrong = [add, CommitOperationDelete("none.txt")]
        api.create_commit(repo, wrong, commit_message="both", repo_type="dataset")
    assert commits_of(hub, repo) == commits
    add, deletion = CommitOperationAdd("new.txt", TEXT), CommitOperationDelete("old/")
    api.create_commit(repo, [add, deletion], commit_message="both", commit_description="why", repo_type="dataset")
    assert files_of(hub, repo) == {"keep.txt", "new.txt"}
    assert api.list_repo_commits(repo, repo_type="dataset")[0].message == "why"


@pytest.mark.parametrize("asked, start, stop", [("300-309", 300, 310), ("300-", 300, None), ("-7", -7, None)])
def test_ranges_of_a_file_are_its_bytes(hub, asked, start, stop):
    repo = made(hub)
    for path, data in (("a.bin", LARGE), ("a.txt", TEXT * 80)):
        upload(hub, repo, path=path, data=data)
        url, told = hf_hub_url(repo, path, repo_type="dataset"), {"Range": f"bytes={asked}"}
        got = get_session().get(url, headers=told)
        assert (got.status_code, got.content) == (206, data[start:stop])
        beyond = get_session().get(url, headers={"Range": f"bytes={len(data)}-"})
        assert beyond.status_code == 416
    fs = HfFileSystem(endpoint=hub.endpoint, token=hub.tokens["ada"], skip_instance_cache=True)
    assert fs.cat_file(f"datasets/{repo}/a.bin", start=300, end=310) == LARGE[300:310]
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"datasets/{repo}/none.txt")


def test_cards_are_read_and_refused(hub):
    repo = made(hub)
    card = DatasetCard("---\nlicense: mit\ntags: [small]\n---\n# Title\n")
    card.push_to_hub(repo)
    info = hub.api().dataset_info(repo)
    assert info.card_data.license == "mit"
    assert info.tags == ["small", "license:mit"]
    twice = "configs:\n- config_name: a\n  default: true\n- config_name: b\n  default: true\n"
    for wrong, said in ((twice, "one default"), ("license: {a: 1}\n", '"license"'), ("tags: [\n", "YAML")):
        with pytest.raises(ValueError, match=said):
            upload(hub, repo, path="README.md", data=f"---\n{wrong}---\n".encode())
    assert DatasetCard.load(repo).content == card.content


def test_timm_models_go_up_and_come_back(hub):
    import timm

    repo = hub.fresh("net")
    shape = {"depth": 1, "embed_dim": 24, "num_heads": 3, "img_size": 32, "in_chans": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape).eval()
    timm.models.push_to_hf_hub(model, repo, model_args=shape, safe_serialization=True)
    back = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(back(images), model(images))


def test_transformers_models_go_up_and_come_back(hub):
    from transformers import ResNetConfig, ResNetForImageClassification

    repo = hub.fresh("net")
    small = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(small).eval()
    model.push_to_hub(repo)
    back = ResNetForImageClassification.from_pretrained(repo).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(back(images).logits, model(images).logits)


def test_forked_children_push_and_load(hub):
    repo = pushed(hub)

    def work():
        assert loaded(repo) == [1, 2, 3]
        pushed(hub, (9,), repo=repo)

    assert forked.run(work) == 0
    assert loaded(repo) == [9]


# --- who may do what


def test_tokens_say_who_may_read_and_write(hub):
    repo = made(hub)
    upload(hub, repo)
    assert [hub.api(u).whoami()["name"] for u in ("ada", "eve")] == ["ada", "eve"]
    assert hub.api(None).repo_exists(repo, repo_type="dataset")
    refused = {"nobody-at-all": 401, None: 401, "eve": 403}
    for user, status in refused.items():
        with pytest.raises(HfHubHTTPError) as caught:
            upload(hub, repo, user, path="b.bin")
        assert status_of(caught) == status
    upload(hub, repo, "grace", path="c.bin")
    assert files_of(hub, repo) == {"a.bin", "c.bin"}
    with pytest.raises(HfHubHTTPError) as caught:
        hub.api("eve").create_repo("lab/mine")
    assert status_of(caught) == 403


def test_private_repositories_are_hidden_and_gated_ones_are_closed(hub, tmp_path):
    repo = made(hub, private=True)
    upload(hub, repo)
    assert hub.api().dataset_info(repo).private
    for user in ("eve", None):
        with pytest.raises(RepositoryNotFoundError):
            hub.api(user).dataset_info(repo)
    hub.api().update_repo_settings(repo, private=False, gated="auto", repo_type="dataset")
    told = hub.api("eve").dataset_info(repo)
    assert (told.private, told.gated) == (False, "auto")

    def download(user):
        return hub.api(user).hf_hub_download(repo, "a.bin", repo_type="dataset", local_dir=tmp_path)

    for user in ("eve", None):
        with pytest.raises(GatedRepoError):
            download(user)
    hub.api().grant_access(repo, "eve", repo_type="dataset")
    with open(download("eve"), "rb") as file:
        assert file.read() == LARGE


def test_a_name_is_taken_until_it_is_deleted(hub):
    repo, api = made(hub), hub.api()
    upload(hub, repo)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(repo, repo_type="dataset")
    assert status_of(caught) == 409
    assert api.create_repo(repo, repo_type="dataset", exist_ok=True).repo_id == repo
    api.create_repo(repo)  # a model of the same name is another repository
    api.delete_repo(repo, repo_type="dataset")
    assert not api.repo_exists(repo, repo_type="dataset")
    assert api.repo_exists(repo)
    api.create_repo(repo, repo_type="dataset")
    assert files_of(hub, repo) == set()


# --- faults


@pytest.mark.parametrize("status", [401, 403, 409, 412, 500])
@pytest.mark.parametrize("route", ["create", "commit"])
def test_a_refusal_reaches_the_client_and_publishes_nothing(hub, route, status):
    repo = hub.fresh("refused") if route == "create" else made(hub)
    with hub.fault(route, status), pytest.raises(HfHubHTTPError) as caught:
        hub.api().create_repo(repo, repo_type="dataset") if route == "create" else upload(hub, repo)
    assert status_of(caught) == status
    if route == "create":
        assert not hub.api().repo_exists(repo, repo_type="dataset")
        return
    assert files_of(hub, repo) == set()
    upload(hub, repo)
    assert files_of(hub, repo) == {"a.bin"}


def test_a_commit_that_comes_between_is_seen_by_its_parent(hub):
    repo = made(hub)
    seen = hub.api().dataset_info(repo).sha
    theirs = hub.fault("commit", meanwhile=lambda: upload(hub, repo, "grace", path="theirs.bin"))
    with theirs, pytest.raises(HfHubHTTPError) as caught:
        upload(hub, repo, parent_commit=seen)
    assert status_of(caught) == 412
    assert files_of(hub, repo) == {"theirs.bin"}
    upload(hub, repo, parent_commit=hub.api().dataset_info(repo).sha)
    assert files_of(hub, repo) == {"theirs.bin", "a.bin"}


def test_of_commits_at_the_same_time_on_one_parent_one_is_made(hub):
    repo = made(hub)
    seen = hub.api().dataset_info(repo).sha

    def send(name):
        try:
            upload(hub, repo, path=name, data=TEXT, parent_commit=seen)
        except HfHubHTTPError as error:
            return error.response.status_code
        return name

    with ThreadPoolExecutor(4) as pool:
        came = list(pool.map(send, ["a.txt", "b.txt", "c.txt", "d.txt"]))
    assert came.count(412) == 3
    assert files_of(hub, repo) == set(came) - {412}


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop_after": 0}, {"drop_after": 1000}, {"lose_answer": True}])
def test_an_upload_broken_once_is_healed_and_broken_for_good_publishes_nothing(hub, fault):
    repo, data = made(hub), LARGE + repr(fault).encode()
    with hub.fault("lfs_put", **fault, times=6) as met, pytest.raises(RuntimeError, match="Error while uploading"):
        upload(hub, repo, data=data)
    assert met.hits == 6
    assert files_of(hub, repo) == set()
    healed = data + b"more"
    with hub.fault("lfs_put", **fault):
        upload(hub, repo, data=healed)
    assert len(commits_of(hub, repo)) == 2
    with open(hub.api().hf_hub_download(repo, "a.bin", repo_type="dataset"), "rb") as file:
        assert file.read() == healed


def test_a_commit_cut_off_is_not_there_and_one_without_answer_is(hub):
    repo = made(hub)
    with hub.fault("commit", drop_after=20), pytest.raises(Exception, match="disconnected|reset|pipe"):
        upload(hub, repo, data=TEXT, path="a.txt")
    assert len(commits_of(hub, repo)) == 1
    with hub.fault("commit", lose_answer=True), pytest.raises(Exception, match="disconnected|reset|pipe"):
        upload(hub, repo, data=TEXT, path="a.txt")
    upload(hub, repo, data=TEXT, path="a.txt")  # nothing left to do, and no empty commit
    assert len(commits_of(hub, repo)) == 2


def test_a_broken_connection_is_seen_though_a_child_holds_a_copy_of_it(hub):
    repo, long = made(hub), TEXT * 10**6  # longer than what sockets hold unread; the connection stays open
    child = forked.fork(lambda: time.sleep(20))
    try:
        with hub.fault("commit", drop_after=0), pytest.raises(Exception, match="disconnected|reset|pipe"):
            upload(hub, repo, data=long, path="a.txt")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_commit_cannot_point_to_bytes_that_never_came(hub, monkeypatch):
    repo = made(hub)
    monkeypatch.setattr("huggingface_hub._commit_api.lfs_upload", lambda **_: None)
    with pytest.raises(HfHubHTTPError, match="never uploaded"):
        upload(hub, repo, data=LARGE + b"unsent")
    assert files_of(hub, repo) == set()


def test_a_fault_that_nobody_met_fails_the_test(hub):
    with pytest.raises(AssertionError, match="commit"), hub.fault("commit", 500):
        pass
