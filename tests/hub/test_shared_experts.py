"""Experts go to the Hub as safetensors and are taken from there by name, bit for bit."""

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.hub.experts import push_experts
from hf_condense.models.expert_training import ExpertRecipe
from hf_condense.models.experts import train_experts
from tests.matching import CPU, digits, networks

RECIPE = ExpertRecipe(2, lr=0.05, batch=32, families=())
SOURCE = {"id": "digits", "license": "mit"}


@pytest.fixture
def few():
    return digits().subset(range(0, 600, 10))


def experts(few, **given):
    return train_experts(networks(few), few, RECIPE, 2, **{"key": Key(0, "experts"), "device": CPU} | given)


def test_pushed_experts_are_taken_by_their_id(few, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path))
    trained, repository = experts(few), hub.fresh("experts")
    push_experts(trained.folder, repository, SOURCE)
    assert sorted(hub.api().list_repo_files(repository)) == [
        ".gitattributes", "README.md", "expert-00000.safetensors", "expert-00001.safetensors", "manifest.json",
    ]  # fmt: skip
    fetched = experts(few, folder=repository)
    assert fetched.folder != trained.folder
    for expert in range(2):
        for epoch in range(3):
            assert torch.equal(fetched.snapshot(expert, epoch), trained.snapshot(expert, epoch))
    assert not push_experts(trained.folder, repository, SOURCE).sent


def test_damaged_experts_are_not_pushed_and_missing_ones_are_named(few, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path))
    trained, repository = experts(few), hub.fresh("experts")
    path = trained.folder / "expert-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match="expert-00001"):
        push_experts(trained.folder, repository, SOURCE)
    with pytest.raises(ArtefactError, match="expert_folder='lab/nobody'.*cannot be read|expert_folder='lab/nobody'"):
        experts(few, folder="lab/nobody")
