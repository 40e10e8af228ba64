"""The card is what the Hub understands, and its examples run."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from hf_condense.data.licenses import KNOWN_LICENSE
from hf_condense.files import read_json
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.card import card_facts, hub_dataset, render_card, title
from hf_condense.methods import create_method, list_methods, method_info
from tests.examples import given, python_examples


def card_of(folder) -> DatasetCard:
    return DatasetCard.load(folder / "README.md")


def test_yaml_is_what_the_hub_reads(artefact, tmp_path):
    content = write_artefact(tmp_path / "set", artefact())
    data = card_of(tmp_path / "set").data
    assert data.license == "mit"
    assert data.source_datasets == ["uoft-cs/cifar10"]
    assert data.task_categories == ["image-classification"]
    assert data.size_categories == ["n<1K"]
    assert {"dataset-distillation", "dataset-condensation", "edc"} <= set(data.tags)
    assert (
        data.pretty_name == "cifar10 in 4 images per class, EDC (Elucidating the Design Space of Dataset Condensation)"
    )
    assert data.configs[0]["config_name"] == "default" and data.configs[0]["default"] is True
    block = data.to_dict()["distillation"]
    assert block["content_hash"] == content["content_hash"]
    assert block["teachers"] == ["convnet_w32"] and block["images_per_class"] == 4


def test_no_title_has_brackets_in_brackets(content_of):
    """Not those of a method over another one either, which would end a link or be hard to read."""
    made = [create_method(name) for name in list_methods()]
    made += [create_method("pdd", base_method=name) for name in ("edc", "idc")]
    for method in made:
        open_brackets = most = 0
        for sign in title({**content_of(method=method.info), "images": {"per_class": (10, 10)}}):
            open_brackets += (sign == "(") - (sign == ")")
            most = max(most, open_brackets)
        assert most <= 1 and not {*"[]"} & {*method.info.title}, method.info.title


def test_text_says_scores_cost_limits_and_citation(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    text = card_of(tmp_path / "set").text
    assert "| edc | 51.2 ± 0.4 |" in text
    assert "| squeeze | 61.5 s | 500.0 MB |" in text and "| condense | 2.2 min | 1.00 GB |" in text
    assert "No privacy is claimed" in text
    assert "![" in text and "preview.png" in text
    assert method_info("edc").citation in text
    assert "contain real pixels" not in text


def test_a_shortened_run_says_what_it_left_out(artefact, content_of, tmp_path):
    def words(name, **data):
        line = {"student": "convnet_w32", "regime": "hard", "top1": {"mean": 0.5, "std": None, "n": 1}}
        scores = {"table": [{**line, "row": "edc", "images": 12}, {**line, "row": "full", "images": 1_600}]}
        write_artefact(tmp_path / name, artefact(content=content_of(config={"run": {}, "data": data}, scores=scores)))
        return " ".join(card_of(tmp_path / name).text.split())

    text = words("short", max_per_class=60, max_test=400)
    assert "stand for 1,600 images (at most 60 a class) of the `train` split" in text
    assert "`full` included, are 1,600 images" in text and "held-out real images (400 of them at most)" in text
    text = words("whole", max_per_class=None, max_test=None)
    assert "that stand for the `train` split" in text and "at most" not in text


def test_a_selection_of_real_images_says_so(artefact, content_of, tmp_path):
    content = content_of(method=method_info("random"), source={"id": "/data/mine", "license": None}, models=[])
    write_artefact(tmp_path / "set", artefact(content=content))
    card = card_of(tmp_path / "set")
    assert "contain real pixels" in card.text
    assert "bibtex" not in card.text
    assert card.data.license == "unknown"
    assert not card.data.source_datasets
    assert "/data/mine" not in card.content and "local:mine" in card.content


def test_examples_of_the_card_run(artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = artefact()
    write_artefact(tmp_path / "set", made)
    text = card_of(tmp_path / "set").text.replace("path/to/this/folder", str(tmp_path / "set"))
    blocks, found = python_examples(text), {}
    assert len(blocks) == 3
    for block in blocks:
        found |= given(block, tmp_path / "out", 3, 3, 8)
        exec(block, found)
    assert 0.9 < found["trainer"].state.log_history[0]["loss"] < 1.4, "cross-entropy of three classes"
    assert found["train"][0].keys() == {"image", "label", "soft_label"}
    assert sum(len(batch.labels) for batch in found["batches"]) == len(made.labels)


@pytest.mark.parametrize("stages", [None, torch.arange(12) // 6])
def test_what_the_card_says_of_columns_is_what_the_files_hold(artefact, tmp_path, stages):
    made = artefact(stages=stages, class_names=["1", "no", "bird: a 'kind'"])
    write_artefact(tmp_path / "set", made)
    (said,) = DatasetInfosDict.from_dataset_card_data(card_of(tmp_path / "set").data).values()
    file = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    assert said.features == Dataset(pq.read_table(file)).features and said.features["label"].names == made.class_names
    assert said.splits["train"].num_examples == 12 and said.download_size == file.stat().st_size
    found = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features == said.features and found["label"] == made.labels.tolist()


def test_images_have_a_page_index(artefact, tmp_path):
    """The Hub's viewer then reads the rows that it shows and no others."""
    write_artefact(tmp_path / "set", artefact(float_images=torch.randn(12, 3, 8, 8)))
    for folder in ("data", "tensors"):
        group = pq.ParquetFile(tmp_path / "set" / folder / "train-00000-of-00001.parquet").metadata.row_group(0)
        assert all(group.column(i).has_offset_index for i in range(group.num_columns))


def test_a_push_renders_the_card_again_with_its_name(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    both = read_json(tmp_path / "set" / "condensation.json")
    again = render_card(card_facts(both["content"], both["record"]))
    assert again == (tmp_path / "set" / "README.md").read_text()
    named = render_card(card_facts(both["content"], both["record"], "org/cifar10-ipc4"))
    assert 'load_dataset("org/cifar10-ipc4", split="train")' in named and "path/to" not in named


@pytest.mark.parametrize("name", list_methods())
def test_the_card_of_every_method_is_valid_and_says_what_it_must(artefact, content_of, tmp_path, hub, name):
    info = method_info(name)
    store = tmp_path / "labels"
    store.mkdir()
    pq.write_table(pa.table({"logits": [0.0]}), store / "views-00000.parquet")
    floats = torch.zeros(12, 3, 8, 8)
    write_artefact(
        tmp_path / "set", artefact(content=content_of(method=info), store_folder=store, float_images=floats)
    )
    card = card_of(tmp_path / "set")
    card.validate(repo_type="dataset")
    data = card.data.to_dict()
    assert KNOWN_LICENSE.fullmatch(data["license"])
    assert re.fullmatch(r"n<1K|\d+[KM]?<n<\d+[KM]", data["size_categories"][0])
    assert data["task_categories"] == ["image-classification"] and name in data["tags"]
    assert [c["config_name"] for c in data["configs"]] == ["default", "soft_labels", "tensors"]
    assert [c.get("default", False) for c in data["configs"]] == [True, False, False]
    for config in data["configs"]:
        assert list((tmp_path / "set").glob(config["data_files"][0]["path"])), config
    assert " ".join(info.summary.split()) in " ".join(card.text.split())
    for words in (info.citation, info.paper, "No privacy is claimed", "## License"):
        assert words in card.text
    assert ("contain real pixels" in card.text) is info.real_pixels


def test_a_license_of_its_own_links_to_the_source(artefact, content_of, tmp_path):
    write_artefact(tmp_path / "set", artefact(content=content_of(source={"license": "ImageNet agreement"})))
    data = card_of(tmp_path / "set").data.to_dict()
    assert data["license_name"] == "imagenet-agreement" and data["license_link"].endswith("/datasets/uoft-cs/cifar10")


@pytest.mark.parametrize(
    "source_id, hub_id",
    [
        ("cifar10", "uoft-cs/cifar10"),
        ("CIFAR-10", "uoft-cs/cifar10"),
        ("imagenet", "ILSVRC/imagenet-1k"),
        ("imagewoof", "ILSVRC/imagenet-1k"),
        ("org/name", "org/name"),
        ("digits", None),
        ("local:mine", None),
        ("object", None),
    ],
)
def test_the_link_back_to_the_source_is_a_hub_id_or_absent(source_id, hub_id):
    assert hub_dataset(source_id) == hub_id
