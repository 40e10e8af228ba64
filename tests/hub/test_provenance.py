"""Content carries nothing of this machine or moment; the record carries both. Real images are named by their rows."""

import json
from datetime import datetime

import numpy as np
import pytest
import torch

from hf_condense import CondensationTrainer, DistilledDataset
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.errors import ArtefactError
from hf_condense.files import canonical_json
from hf_condense.hub.provenance import portable, training_block, versions
from tests.data.small_images import image_dataset


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


def test_each_published_image_names_the_rows_of_the_real_images_in_it(tmp_path):
    """Tiles cell by cell, by rows of the split as it was opened, though classes and images were left out of it."""
    from datasets import DatasetDict

    train = image_dataset([0, 1, 2, 1] * 8, width=12, height=12)
    folder = CondensationTrainer(
        "coreset", DatasetDict(train=train, test=image_dataset([0, 1, 2])), classes="emu,dog", output_dir=str(tmp_path),
        ipc=1, max_per_class=6, image_size=12, selection="pca_tiles", dynamics_epochs=1, base_model="convnet_d1",
        regimes="hard", store="none", baselines="random", protocol="small", student_epochs=1, student_seeds=1,
        students="convnet_d1", threads=1,
    ).run()  # fmt: skip
    data = DistilledDataset.load(folder)
    found = data.content["source_rows"]
    assert found["split"] == "train" and np.shape(found["rows"]) == (2, 4)
    for image, label, rows in zip(data.images, data.labels.tolist(), found["rows"]):
        assert {train[row]["label"] for row in rows} == {[2, 1][label]}
        for cell, row in enumerate(rows):
            top, left = 6 * (cell // 2), 6 * (cell % 2)
            whole = torch.from_numpy(np.array(train[row]["image"])).permute(2, 0, 1)[None]
            small = torch.nn.functional.interpolate(whole, (6, 6), mode="bilinear", antialias=True)[0]
            assert torch.equal(image[:, top : top + 6, left : left + 6], small)
    assert "`source_rows` in `condensation.json`" in (folder / "README.md").read_text()
    both = json.loads((folder / "condensation.json").read_text())
    both["content"]["source_rows"]["rows"].pop()
    (folder / "condensation.json").write_text(json.dumps(both))
    with pytest.raises(ArtefactError, match="source_rows.rows: 2 lists, one per image"):
        DistilledDataset.load(folder)
