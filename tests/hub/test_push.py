"""A push makes a repository hold the set, whole, in one commit; what the Hub refuses is said and loses nothing."""

import json
from itertools import count

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi, constants

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ArtefactError, ConfigError, HubError
from hf_condense.files import sha256_file
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.inspection import inspect_folder, report
from hf_condense.hub.push import push
from hf_condense.hub.record import read_record
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel

NUMBERS = count()
CARDS = {
    "license of its card": "license: cc-by-nc-4.0",
    "a license among others": "license:\n- mit\n- cc-by-nc-4.0",
    "a license by name": "license: other\nlicense_name: somebody-non-commercial",
}


def network() -> ImageModel:
    with keyed(Key(0, "network")):
        backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return ImageModel(backbone, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def run(artefact, content_of, tmp_path):
    """Writes the dataset of a run with stored labels; its source is embedded, so nobody's terms apply."""

    def write(source="digits", regimes=("hard", "stored"), **changes):
        made, number = (
            artefact(content=content_of(regimes=list(regimes), source={"id": source, **changes})),
            next(NUMBERS),
        )
        made.images[0, 0, 0, :2] = torch.tensor(divmod(number, 256))  # large files that the Hub does not know yet
        folder, policy, cpu = tmp_path / f"run-{number}", ViewPolicy(size=8), torch.device("cpu")
        made.store_folder = folder / "labels"
        write_store(made.store_folder, made.images, made.labels, Ensemble([network()]), policy, Key(0), 2, 6, cpu)
        write_artefact(folder / "dataset", made)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "state.safetensors").write_bytes(b"not for others")
        return folder

    return write


def commits(repo_id: str) -> list[str]:
    return [c.title for c in HfApi().list_repo_commits(repo_id, repo_type="dataset")]


def test_the_set_is_pushed_once_and_loaded_by_everybody(run, hub, tmp_path):
    repo_id, folder = hub.fresh("set"), run()
    done = push(folder, repo_id)
    assert (
        commits(repo_id)[0].startswith("digits in 4 images per class") and len(commits(repo_id)) == 2
    )  # made, filled
    assert set(hub.api().list_repo_files(repo_id, repo_type="dataset")) == {
        ".gitattributes", "README.md", "condensation.json", "preview.png", "data/train-00000-of-00001.parquet",
        "soft_labels/manifest.json", "soft_labels/views-00000.parquet",
    }  # fmt: skip
    default = load_dataset(repo_id, split="train", cache_dir=str(tmp_path / "cache"))
    assert default.column_names == ["image", "label", "soft_label"] and len(default) == 12
    assert len(load_dataset(repo_id, "soft_labels", split="train", cache_dir=str(tmp_path / "cache"))) == 24

    here, there = DistilledDataset.load(folder), DistilledDataset.load(repo_id, revision=done.dataset.revision)
    assert there.content == here.content and there.content_hash == here.content_hash
    for mine, theirs in zip(here.training_batches("stored", 1), there.training_batches("stored", 1), strict=True):
        assert torch.equal(mine.images, theirs.images) and torch.equal(mine.soft, theirs.soft)

    card = DatasetCard.load(repo_id)
    card.validate()
    assert f'load_dataset("{repo_id}", split="train")' in card.text and "path/to" not in card.text
    facts = inspect_folder(repo_id)
    assert facts["content_hash"]["holds"] and set(facts["files"].values()) == {"holds"}
    assert f"at {done.dataset.revision}" in report(facts)


def test_a_repeated_push_sends_nothing_and_a_changed_set_only_what_changed(run, hub):
    repo_id, folder = hub.fresh("again"), run()
    first = push(folder, repo_id)
    hub.requests.clear()
    again = push(folder, repo_id)
    assert not again.dataset.sent and again.dataset.revision == first.dataset.revision
    assert len(commits(repo_id)) == 2 and not {"commit", "lfs_batch", "lfs_put"} & {route for route, _ in hub.requests}

    hub.api().upload_file(
        path_or_fileobj=b"of an older set", path_in_repo="data/train-00001-of-00002.parquet", repo_id=repo_id,
        repo_type="dataset",
    )  # fmt: skip
    hub.api().upload_file(path_or_fileobj=b"kept", path_in_repo="notes.md", repo_id=repo_id, repo_type="dataset")
    card = folder / "dataset" / "README.md"
    card.write_text(card.read_text() + "\nA word of its keeper.\n")
    mended = push(folder, repo_id).dataset
    assert {c.path: c.state for c in mended.changes if c.state != "same"} == {
        "README.md": "changed", "data/train-00001-of-00002.parquet": "gone",
    }  # fmt: skip
    files = hub.api().list_repo_files(repo_id, repo_type="dataset")
    assert "notes.md" in files and "data/train-00001-of-00002.parquet" not in files
    text = DatasetCard.load(repo_id).text
    assert "A word of its keeper." in text and f'load_dataset("{repo_id}"' in text


def test_a_push_reads_its_record_once(run, hub, monkeypatch):
    reads, folder, repo_id = [], run(), hub.fresh("once")
    monkeypatch.setattr("hf_condense.hub.push.read_record", lambda folder: reads.append(folder) or read_record(folder))
    push(folder, repo_id)
    assert len(reads) == 1


def test_a_dry_run_says_what_would_go_up_and_does_nothing(run, hub):
    repo_id, folder = hub.fresh("dry"), run()
    would = push(folder, repo_id, dry_run=True)
    sizes = {c.path: c.bytes for c in would.dataset.sent}
    for name in ("condensation.json", "data/train-00000-of-00001.parquet", "soft_labels/views-00000.parquet"):
        assert sizes[name] == (folder / "dataset" / name).stat().st_size
    assert "would send 6 files" in would.text() and "soft_labels/views-00000.parquet" in would.text()
    assert not hub.api().repo_exists(repo_id, repo_type="dataset")
    done = push(folder, repo_id)
    assert {c.path: c.bytes for c in done.dataset.sent} == sizes
    assert "sent 0 files" not in done.text() and not push(folder, repo_id, dry_run=True).dataset.sent


def test_a_dry_run_notes_what_would_be_refused_and_needs_no_hub(run, hub):
    repo_id, folder = hub.fresh("dry"), run("org/source", regimes=("hard", "stored", "online"))
    with pytest.raises(ConfigError, match="online labels need convnet_w32"):
        push(folder, repo_id)
    would = push(folder, repo_id, dry_run=True)
    assert (
        "without --dry_run this is refused: invalid push_models" in would.text()
        and "would send 6 files" in would.text()
    )
    with hub.offline():
        alone = push(folder, repo_id, dry_run=True)
        assert push(folder, "of-mine", dry_run=True).dataset.repo_id == "of-mine"
        with pytest.raises(HubError, match="[Cc]heck the network"):
            push(run(), repo_id)
    assert "the Hub does not answer: assumed that nothing is there yet" in alone.text()
    assert {c.path: c.bytes for c in alone.dataset.sent} == {c.path: c.bytes for c in would.dataset.sent}
    assert "does not answer" not in would.text() and not hub.api().repo_exists(repo_id, repo_type="dataset")


def test_who_is_not_logged_in_is_told_so(run, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    folder = run()
    for repo_id in ("of-mine", hub.fresh("mine")):
        for options in ({}, {"dry_run": True}):
            with pytest.raises(HubError, match="Run `hf auth login` or set HF_TOKEN"):
                push(folder, repo_id, **options)


def test_branches_pull_requests_and_private_repositories(run, hub):
    repo_id, folder = hub.fresh("ways"), run()
    push(folder, repo_id, private=True)
    assert hub.api().dataset_info(repo_id).private
    main = commits(repo_id)
    (folder / "dataset" / "README.md").write_text("---\nlicense: mit\n---\nanother card\n")
    asked = push(folder, repo_id, create_pr=True).dataset
    assert "/discussions/" in asked.url and commits(repo_id) == main
    push(folder, repo_id, revision="trial")
    assert commits(repo_id) == main
    assert "another card" in DatasetCard.load(hub.api().hf_hub_download(repo_id, "README.md", repo_type="dataset", revision="trial")).text  # fmt: skip
    hub.api().update_repo_settings(repo_id, private=False, repo_type="dataset")
    push(folder, repo_id, private=True)
    assert hub.api().dataset_info(repo_id).private  # asked for, so an open repository is closed before it is filled


@pytest.mark.parametrize("why", ["gated", "private", "gone", "license", *CARDS])
def test_a_source_that_is_not_for_everybody_keeps_the_set_closed(run, hub, why):
    source, api = hub.fresh("source"), hub.api()
    if why != "gone":
        api.create_repo(source, repo_type="dataset", private=why == "private")
    if why == "gated":
        api.update_repo_settings(source, gated="auto", repo_type="dataset")
    if why in CARDS:
        card = f"---\n{CARDS[why]}\n---\n".encode()
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=source, repo_type="dataset")
    license = {"license": "CC BY-NC 4.0"}.get(why)
    repo_id, folder = hub.fresh("closed"), run(source, license=license)
    with pytest.raises(ConfigError, match="Say --public"):
        push(folder, repo_id, private=False)
    would = push(folder, repo_id, dry_run=True)
    assert "private and gated, because the " in would.text() and not api.repo_exists(repo_id, repo_type="dataset")
    push(folder, repo_id)
    info = api.dataset_info(repo_id)
    assert info.private and info.gated == "manual"
    other = hub.fresh("open")
    push(folder, other, public=True)
    assert not api.dataset_info(other).private and not api.dataset_info(other).gated


def test_a_source_for_everybody_does_not(run, hub):
    source = hub.fresh("source")
    hub.api().create_repo(source, repo_type="dataset")
    repo_id = hub.fresh("open")
    assert "private" not in push(run(source), repo_id).text()
    assert not hub.api().dataset_info(repo_id).private


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"route": "create", "status": 401}, "hf auth login"),
        ({"route": "create", "status": 403}, "write access"),
        ({"route": "commit", "status": 409}, "run the same command again"),
        ({"route": "lfs_put", "status": 500, "times": 99}, "run the same command again"),
        ({"route": "lfs_put", "drop_after": 100, "times": 99}, "check the network"),
        ({"route": "commit", "status": 500}, "run the same command again"),
        ({"route": "commit", "drop_after": 100}, "check the network"),
        ({"route": "commit", "status": 412, "times": 3}, "other push is done"),
        ({"route": "validate_yaml", "status": 500}, "run the same command again"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v['route']}-{v.get('status', 'dropped')}",
)  # fmt: skip
def test_what_goes_wrong_is_said_publishes_nothing_and_is_gone_on_with(run, hub, fault, message):
    repo_id, folder = hub.fresh("faults"), run()
    with hub.fault(**fault), pytest.raises(HubError) as caught:
        push(folder, repo_id)
    assert message in caught.value.next_step and caught.value.value == repo_id
    if hub.api().repo_exists(repo_id, repo_type="dataset"):
        assert hub.api().list_repo_files(repo_id, repo_type="dataset") == [".gitattributes"]
    push(folder, repo_id)
    assert DistilledDataset.load(repo_id).content_hash == DistilledDataset.load(folder).content_hash


def test_files_that_arrived_are_not_sent_twice(run, hub):
    repo_id, folder = hub.fresh("resume"), run()
    hub.requests.clear()
    with hub.fault("commit", drop_after=10), pytest.raises(HubError):
        push(folder, repo_id)
    assert "lfs_put" in {route for route, _ in hub.requests}
    hub.requests.clear()
    push(folder, repo_id)
    assert "lfs_put" not in {route for route, _ in hub.requests}


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_push(run, hub):
    repo_id, folder = hub.fresh("lost"), run()
    with hub.fault("commit", lose_answer=True), pytest.raises(HubError, match="may have landed"):
        push(folder, repo_id)
    assert not push(folder, repo_id).dataset.sent and len(commits(repo_id)) == 2


@pytest.mark.parametrize("route", ["whoami", "create", "info", "commit"])
def test_a_page_of_the_network_is_named_as_such(run, hub, route):
    """A captive portal answers everything with its own page."""
    repo_id, folder = hub.fresh("portal"), run()
    name = repo_id.split("/")[1] if route == "whoami" else repo_id
    with hub.fault(route, page=True, times=99), pytest.raises(HubError, match=r"web page \(Airport WiFi\).*log in"):
        push(folder, name)
    push(folder, repo_id)


def test_another_push_in_between_is_built_upon(run, hub, caplog):
    repo_id, folder = hub.fresh("race"), run()
    hub.api().create_repo(repo_id, repo_type="dataset")

    def somebody():
        hub.api("grace").upload_file(
            path_or_fileobj=b"theirs", path_in_repo="theirs.md", repo_id=repo_id, repo_type="dataset"
        )

    with hub.fault("commit", meanwhile=somebody):
        push(folder, repo_id)
    assert "changed by another push during the push" in caplog.text
    assert {"theirs.md", "condensation.json"} <= set(hub.api().list_repo_files(repo_id, repo_type="dataset"))


def test_what_cannot_be_published_is_refused_before_anything_is_sent(run, hub, tmp_path):
    folder = run()
    hub.requests.clear()
    with pytest.raises(ConfigError, match="one of --private and --public"):
        push(folder, "lab/x", private=True, public=True)
    with pytest.raises(ArtefactError, match="a run folder on this machine"):
        push("no-such/run", "lab/x")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ArtefactError, match="condensation.json"):
        push(tmp_path / "bare", "lab/x")
    whole = (folder / "dataset" / "preview.png").read_bytes()
    (folder / "dataset" / "preview.png").write_bytes(b"")
    with pytest.raises(ArtefactError, match="preview.png"):
        push(folder, "lab/x")
    assert not hub.requests
    (folder / "dataset" / "preview.png").write_bytes(whole)
    with pytest.raises(HubError, match="Choose such a name"):
        push(folder, "lab/a name/too long")
    with hub.online("eve"), pytest.raises(HubError, match="write access"):
        push(folder, hub.fresh("theirs"))


def test_offline_after_a_download_and_a_revision_that_is_gone(run, hub):
    repo_id, folder = hub.fresh("kept"), run()
    done = push(folder, repo_id)
    DistilledDataset.load(repo_id, revision=done.dataset.revision)
    DistilledDataset.load(repo_id)
    with hub.offline():
        assert len(DistilledDataset.load(repo_id)) == 12
        assert len(DistilledDataset.load(repo_id, revision=done.dataset.revision)) == 12
        with pytest.raises(HubError, match="[Cc]heck the network"):
            push(folder, repo_id)
    with pytest.raises(ArtefactError, match="Check the name and revision"):
        DistilledDataset.load(repo_id, revision="no-such-branch")
    with pytest.raises(ArtefactError, match="Check the name and revision"):
        DistilledDataset.load(hub.fresh("never"))


def test_a_gated_set_says_how_to_get_in(run, hub):
    repo_id = hub.fresh("gated")
    push(run(), repo_id)
    hub.api().update_repo_settings(repo_id, gated="manual", repo_type="dataset")
    with hub.online("eve"), pytest.raises(ArtefactError, match="Ask for access on"):
        DistilledDataset.load(repo_id)
    hub.api().grant_access(repo_id, "eve", repo_type="dataset")
    with hub.online("eve"):
        assert len(DistilledDataset.load(repo_id)) == 12


def test_a_revision_is_the_set_as_it_was(run, hub):
    repo_id, first, second = hub.fresh("versions"), run(), run()
    before = push(first, repo_id).dataset.revision
    push(second, repo_id)
    assert DistilledDataset.load(repo_id, revision=before).content_hash == DistilledDataset.load(first).content_hash
    assert DistilledDataset.load(repo_id).content_hash == DistilledDataset.load(second).content_hash


def test_a_set_changed_on_the_hub_is_refused(run, hub):
    repo_id, folder = hub.fresh("tampered"), run()
    push(folder, repo_id)
    both = json.loads((folder / "dataset" / "condensation.json").read_text())
    both["content"]["content_hash"] = "sha256:" + "0" * 64
    hub.api().upload_file(
        path_or_fileobj=json.dumps(both).encode(), path_in_repo="condensation.json", repo_id=repo_id,
        repo_type="dataset",
    )  # fmt: skip
    with pytest.raises(ArtefactError, match="as published"):
        DistilledDataset.load(repo_id)


def test_a_name_without_an_owner_is_the_tokens(run, hub):
    assert push(run(), hub.fresh("mine").split("/")[1], dry_run=True).dataset.repo_id.startswith("ada/mine")


@pytest.mark.parametrize("way", ["absolute", "parent", "link", "card"])
def test_nothing_outside_the_folder_is_opened_or_sent(run, hub, tmp_path, way):
    repo_id, folder = hub.fresh("outside"), run() / "dataset"
    private = tmp_path / "private.txt"
    private.write_text("of nobody else")
    if way == "card":
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to(private)
    else:
        (folder / "linked.txt").symlink_to(private)
        name = {"absolute": str(private), "parent": "../../private.txt", "link": "linked.txt"}[way]
        both = json.loads((folder / "condensation.json").read_text())
        both["record"]["files"][name] = {"bytes": 14, "sha256": sha256_file(private)}
        (folder / "condensation.json").write_text(json.dumps(both))
        with pytest.raises(ArtefactError, match="inside the folder"):
            inspect_folder(folder)
    with pytest.raises(ArtefactError, match="inside the folder"):
        push(folder, repo_id)
    assert not hub.api().repo_exists(repo_id, repo_type="dataset")
