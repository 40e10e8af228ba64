"""Networks go to the Hub as safetensors, are named by where exactly their weights can be had, and come back unchanged."""

import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.hub.inspection import needed_bytes
from hf_condense.hub.models import fetch_model, find_member, model_files, model_repository, published_place
from hf_condense.hub.teachers import needs_teacher
from hf_condense.hub.visibility import Target
from hf_condense.models.loading import load_model
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.pruning import prune

TAKEN = {"name": "net", "id": "org/net", "revision": "ab" * 20, "pretrained": True, "epochs": 0}


@pytest.mark.parametrize(
    ("changes", "record", "place"),
    [
        ({}, {}, ("org/net", "ab" * 20)),
        ({"id": "org/net@v2"}, {}, ("org/net", "ab" * 20)),
        ({"epochs": 3}, {}, None),  # trained on from there: nobody else has these weights
        ({"revision": None}, {}, None),
        ({"pretrained": False}, {}, None),
        ({"id": "local:net"}, {}, None),
        ({"id": "torchvision/resnet18", "revision": "IMAGENET1K_V1"}, {}, None),
        ({"epochs": 3}, {"published_models": {"net": {"id": "lab/x-net", "revision": "cd"}}}, ("lab/x-net", "cd")),
    ],
)
def test_where_exactly_these_weights_are(changes, record, place):
    assert published_place({**TAKEN, **changes}, record) == place


@pytest.mark.parametrize(
    ("regimes", "store", "needed"),
    [
        (["hard"], None, []),
        (["hard", "stored"], {"store": "full"}, []),
        (["hard", "stored", "online"], {"store": "packed"}, ["online"]),
        (["hard", "stored"], {"store": "virtual"}, ["stored"]),
    ],
)
def test_label_regimes_that_need_a_teacher(regimes, store, needed):
    models = [
        {"name": "net", "roles": ["teacher"], "parameters": 10},
        {"name": "other", "roles": ["observer"], "parameters": 7},
    ]
    content = {"labels": {"regimes": regimes, "store": store}, "models": models}
    assert needs_teacher(content) == needed
    sizes = {"image": 100, "label": 20, "soft_labels": 5}
    stored = 5 * ("stored" in regimes)
    for regime, count in needed_bytes(content, sizes).items():
        assert count == 120 + stored * (regime == "stored") + 40 * (regime in needed)  # fp32 weights of the teacher


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("convnet_w32", "lab/set-convnet_w32"),
        ("hf-hub:org/net@v1", "lab/set-org-net-v1"),
        ("resnet18@pruned0.2-0", "lab/set-resnet18-pruned0.2-0"),
        ("local:..net--", "lab/set-net"),
    ],
)
def test_names_the_hub_takes(name, repository):
    assert model_repository("lab/set", name) == repository


@pytest.fixture
def pool(tmp_path):
    """A base and a pruned copy of it, kept as a run keeps them, and their images."""

    def member(model, **facts):
        return PoolMember(
            model.name, model.eval(), 0.5, model.sha256(), {"id": str(tmp_path), "revision": None, "pretrained": False},
            2, model.parameter_count, 8, **facts,
        )  # fmt: skip

    base = load_model(
        "convnet_d1",
        ImageSpec(num_classes=3, image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, class_names="abc"),
        key=Key(0),
    )
    weak = prune(base, 0.3, Key(1), 0.3, 8)
    weak.name = "convnet_d1@pruned0.3-0"
    ModelPool([member(base), member(weak, kind="post", ratio=0.3)]).save(tmp_path / "models")
    return tmp_path / "models"


def test_base_and_weak_models_go_and_come_back(pool, hub):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for member in ModelPool.load(pool):
        name = model_repository(hub.fresh("set"), member.name)
        files = model_files(find_member(pool, {"name": member.name, "sha256": member.sha256}), name, "cifar10")
        assert all(
            str(pool.parent) not in content.decode() for content in files.values() if isinstance(content, bytes)
        )
        done = Target(hub.api(), None, None, False).send(name, "model", files, "a network")
        there = fetch_model(name, done.revision, member.sha256)
        assert there.sha256() == member.sha256
        with torch.no_grad():
            assert torch.equal(there.eval()(images), member.model(images))
        card = files["README.md"].decode()
        assert f'"{name}"' in card or f"hf-hub:{name}" in card
        assert '- "uoft-cs/cifar10"' in card


def test_other_weights_and_pickles_are_refused(pool, hub):
    member = ModelPool.load(pool)[0]
    folder = find_member(pool, {"name": "x", "sha256": member.sha256})
    with pytest.raises(ModelError, match="with its pool"):
        find_member(pool, {"name": "x", "sha256": "0" * 64})
    name = hub.fresh("net")
    done = Target(hub.api(), None, None, False).send(name, "model", model_files(folder, name, "digits"), "a network")
    with pytest.raises(ModelError, match="Name the revision"):
        fetch_model(name, done.revision, "0" * 64)
    with pytest.raises(ModelError, match="can be read"):
        fetch_model(hub.fresh("none"), done.revision, member.sha256)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors and JSON only"):
        model_files(folder, name, "digits")
