"""Content carries nothing of this machine or moment; the record carries both."""

from datetime import datetime

import torch

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.files import canonical_json
from hf_condense.hub.provenance import portable, training_block, versions


def test_paths_and_settings_without_effect_go(tmp_path):
    config = {"data": {"dataset": str(tmp_path / "mine")}, "run": {"output_dir": "x", "overwrite": True, "seed": 3}}
    assert portable(config) == {"data": {"dataset": "local:mine"}, "run": {"seed": 3}}
    assert portable(["timm/resnet18", f"local-dir:{tmp_path}/net", (1, None)]) == [
        "timm/resnet18",
        "local:net",
        [1, None],
    ]


def test_equal_settings_give_equal_bytes_from_another_folder(content_of):
    there = {"run": {"ipc": 4, "seed": 0, "output_dir": "/elsewhere/2"}, "data": {"dataset": "cifar10"}}
    assert canonical_json(content_of()) == canonical_json(content_of(config=there))
    other = {"run": {"ipc": 4, "seed": 1}, "data": {"dataset": "cifar10"}}
    assert canonical_json(content_of()) != canonical_json(content_of(config=other))


def test_content_names_source_models_and_method(content_of):
    content = content_of()
    assert content["source"]["revision"].startswith("0b27") and "class_names" not in content["source"]
    assert content["class_names"] == ["plane", "car", "bird"]
    assert content["models"][0]["sha256"] == "ab" * 32 and content["models"][0]["roles"] == ["observer", "teacher"]
    assert content["method"]["paper"].startswith("https://arxiv.org/")


def test_the_training_block_holds_the_whole_policy():
    policy = ViewPolicy(size=32, crop=(0.5, 1.0), flip=0.5, mix="cutmix")
    block = training_block("small", policy, 50, 100, learned_rate=0.01)
    assert ViewPolicy(**portable(block)["policy"]) == policy
    assert block["learned_rate"] == 0.01 and block["epochs"] == 100


def test_the_record_says_when_on_what_and_with_which_versions(record_of):
    record = record_of(processes=2)
    assert datetime.fromisoformat(record["created"]).tzinfo is not None
    assert torch.__version__.startswith(record["versions"]["torch"])  # without the local build tag
    assert record["processes"] == 2 and record["device"]
    assert {"torch", "datasets", "numpy"} <= set(versions())
    assert record["git"] is None or len(record["git"]["commit"]) == 40
