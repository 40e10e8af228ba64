"""Inspection tells what is there, what it weighs and what does not hold, without stopping at the first fault."""

import pyarrow.parquet as pq
import torch

from hf_condense.cli import main
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.inspection import inspect_folder, report
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel


def test_bytes_a_student_needs_by_regime(artefact, content_of, tmp_path):
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    teacher = Ensemble([ImageModel(backbone, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)])
    made = artefact(content=content_of(regimes=["hard", "stored", "online"]))
    policy, device = ViewPolicy(size=8), torch.device("cpu")
    store = write_store(tmp_path / "labels", made.images, made.labels, teacher, policy, Key(0), 3, 6, device)
    made.store_folder = tmp_path / "labels"
    write_artefact(tmp_path / "set", made)
    facts = inspect_folder(tmp_path / "set")
    data = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    columns = facts["bytes"]
    assert columns["soft_labels"] == store.bytes
    inside = columns["image"] + columns["label"] + columns["soft_label"]
    assert 0.5 * data.stat().st_size < inside < data.stat().st_size  # the rest is Parquet's own bookkeeping
    hard = columns["image"] + columns["label"]
    assert facts["needed"] == {"hard": hard, "stored": hard + store.bytes, "online": hard + 4 * 12_345}


def test_an_untouched_set_holds(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    (tmp_path / "set" / "README.md").write_text("an edited card")
    facts = inspect_folder(tmp_path / "set")
    assert facts["holds"] and facts["content_hash"]["holds"] and set(facts["files"].values()) == {"holds"}
    text = report(facts)
    assert "content  holds" in text and "2 of 2 hold" in text and "uoft-cs/cifar10 @ 0b27" in text
    assert str(tmp_path) not in text
    assert main(["inspect", str(tmp_path / "set")]) == 0


def test_what_does_not_hold_is_said_and_nothing_raises(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    path = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, *range(2, 12)]), path)
    (tmp_path / "set" / "preview.png").unlink()
    facts = inspect_folder(tmp_path / "set")
    assert not facts["holds"] and not facts["content_hash"]["holds"]
    assert facts["files"] == {"data/train-00000-of-00001.parquet": "changed", "preview.png": "missing"}
    text = report(facts)
    assert "DOES NOT HOLD" in text and "changed: data/" in text and "missing: preview.png" in text
    assert main(["inspect", str(tmp_path / "set")]) == main(["inspect", str(tmp_path / "set"), "--json"]) == 1


def test_one_missing_file_is_enough(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    (tmp_path / "set" / "preview.png").unlink()
    assert inspect_folder(tmp_path / "set")["content_hash"]["holds"]
    assert main(["inspect", str(tmp_path / "set")]) == 1
