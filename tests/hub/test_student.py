"""A student on the Hub says what taught it and how well it does, and comes back as it was."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ConfigError, ModelError
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.student import BoardEntry, push_student
from hf_condense.models.loading import load_model


@pytest.fixture
def trained(artefact, content_of, hub, tmp_path):
    """(data, student trained on it a little, id of its source on the Hub)."""
    source = hub.fresh("source")
    hub.api().create_repo(source, repo_type="dataset")
    tasks = b"evaluation_framework: hf-condense\ntasks:\n- id: top-1\n"
    done = hub.api().upload_file(path_or_fileobj=tasks, path_in_repo="eval.yaml", repo_id=source, repo_type="dataset")
    origin = {"id": source, "revision": done.oid}
    write_artefact(tmp_path / "set", artefact(content=content_of(source=origin, regimes=["hard"], models=[])))
    data = DistilledDataset.load(tmp_path / "set")
    student = load_model(
        "convnet_d1",
        ImageSpec(num_classes=3, image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=data.class_names),
        key=Key(0),
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for batch in data.training_batches("hard", 0):
        F.cross_entropy(student(batch.images), batch.labels).backward()
        optimizer.step()
    return data, student.eval(), source


def test_card_result_and_weights(trained, hub):
    (data, student, source), repo_id = trained, hub.fresh("student")
    said = {"top1": 0.6125, "regime": "hard", "epochs": 1, "dataset_revision": "ab" * 20}
    done = push_student(student, repo_id, data, "lab/tiny", **said)
    assert not push_student(student, repo_id, data, "lab/tiny", **said).sent
    assert {Path(c.path).suffix for c in done.sent} <= {".safetensors", ".json", ".md", ".yaml"}

    card = ModelCard.load(repo_id)
    card.validate()
    assert card.data.datasets == ["lab/tiny"] and card.data.license == "mit" and card.data.library_name == "timm"
    assert "61.25 %" in card.text and "hard" in card.text and "small" in card.text

    place = f".eval_results/{source.replace('/', '-')}.yaml"
    written = yaml.safe_load(Path(hub.api().hf_hub_download(repo_id, place)).read_text())
    assert written == [
        {
            "dataset": {
                "id": source,
                "task_id": "top-1",
                "revision": data.content["source"]["revision"],
            },
            "value": 61.25,
            "source": {"url": "https://huggingface.co/datasets/lab/tiny", "name": "hf-condense"},
            "notes": written[0]["notes"],
        }
    ]
    assert "lab/tiny at " + "ab" * 20 in written[0]["notes"] and "hard labels" in written[0]["notes"]

    there = load_model(f"hf-hub:{repo_id}", ImageSpec(num_classes=3, image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3, class_names=data.class_names), key=Key(1))  # fmt: skip
    with torch.no_grad():
        assert torch.equal(there.eval()(data.images / 255), student(data.images / 255))


def eval_results(hub, repo_id: str) -> dict[str, list]:
    """Path -> content of a model's evaluation results."""
    paths = [p for p in hub.api().list_repo_files(repo_id) if p.startswith(".eval_results/")]
    return {p: yaml.safe_load(Path(hub.api().hf_hub_download(repo_id, p)).read_text()) for p in paths}


def test_an_entry_for_the_board(trained, hub):
    (data, student, source), repo_id = trained, hub.fresh("student")
    board = BoardEntry("lab/board", "digits-ipc10-hard", "cd" * 20, "a" * 20)
    push_student(student, repo_id, data, "lab/tiny", top1=0.5, regime="hard", epochs=1, board=board)
    found = eval_results(hub, repo_id)
    assert found.keys() == {".eval_results/lab-board.yaml", f".eval_results/{source.replace('/', '-')}.yaml"}
    (entry,) = found[".eval_results/lab-board.yaml"]
    assert entry["dataset"] == {"id": "lab/board", "task_id": "digits-ipc10-hard", "revision": "cd" * 20}
    assert entry["value"] == 50.0 and "result " + "a" * 20 in entry["notes"]


def test_no_entry_for_a_source_without_an_evaluation(trained, hub):
    (data, student, _), repo_id = trained, hub.fresh("student")
    other = hub.fresh("source")
    hub.api().create_repo(other, repo_type="dataset")
    data.content["source"] |= {"id": other, "revision": None}
    push_student(student, repo_id, data, "lab/tiny", top1=0.5, regime="hard", epochs=1)
    assert eval_results(hub, repo_id) == {}


def test_a_source_that_is_not_for_everybody_keeps_the_student_closed(trained, hub):
    (data, student, source), repo_id = trained, hub.fresh("student")
    hub.api().update_repo_settings(source, gated="auto", repo_type="dataset")
    push_student(student, repo_id, data, "lab/tiny", top1=0.5, regime="hard", epochs=1)
    assert hub.api().model_info(repo_id).private and hub.api().model_info(repo_id).gated == "manual"


def test_a_network_of_timm_comes_back_from_timm(trained, hub):
    data, _, _ = trained
    with keyed(Key(4)):
        mine = timm.create_model("resnet10t", num_classes=3)
    repo_id = hub.fresh("timm-student")
    normalised = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}
    push_student(mine, repo_id, data, "lab/tiny", top1=0.5, regime="stored", **normalised)
    back = timm.create_model(f"hf-hub:{repo_id}", pretrained=True)
    images = data.images / 255
    with torch.no_grad():
        assert torch.equal(back.eval()(images), mine.eval()(images))
    assert back.pretrained_cfg["mean"] == pytest.approx((0.4, 0.5, 0.6))
    assert list(back.pretrained_cfg["label_names"]) == data.class_names
    assert f"{data.content['training']['epochs']} epochs" in ModelCard.load(repo_id).text


def test_a_network_of_transformers_comes_back_from_transformers(trained, hub):
    data, _, _ = trained
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    with keyed(Key(4)):
        mine = ViTForImageClassification(config).eval()
    repo_id = hub.fresh("vit-student")
    push_student(mine, repo_id, data, "lab/tiny", top1=0.5, regime="stored", epochs=3)
    back = AutoModelForImageClassification.from_pretrained(repo_id).eval()
    images = data.images / 255
    with torch.no_grad():
        assert torch.equal(back(images).logits, mine(images).logits)
    assert list(back.config.id2label.values()) == list(data.class_names)


def test_a_network_whose_making_cannot_be_read_from_it_is_refused(trained, hub):
    data, _, _ = trained
    odd = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
    few = timm.create_model("resnet10t", num_classes=2)
    with pytest.raises(ModelError, match="num_classes, in_chans and img_size alone"):
        push_student(odd, "lab/x", data, "lab/tiny", top1=0.5, regime="hard")
    with pytest.raises(ConfigError, match="2 outputs.*3 outputs"):
        push_student(few, "lab/x", data, "lab/tiny", top1=0.5, regime="hard")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"top1": 61.0}, "a share from 0 to 1"),
        ({"kind": torch.nn.Linear(3, 3)}, "model='Linear'.*load_model"),
        ({"names": "abc"}, "class_names"),
    ],
)
def test_what_does_not_fit_is_refused(trained, hub, wrong, message):
    data, student, _ = trained
    if "kind" in wrong:
        student = wrong.pop("kind")
    elif "names" in wrong:
        student.class_names = tuple(wrong.pop("names"))
    with pytest.raises((ConfigError, ModelError), match=message):
        push_student(student, "lab/x", data, "lab/tiny", **{"top1": 0.5, "regime": "hard", "epochs": 1, **wrong})
