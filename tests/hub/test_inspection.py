"""Inspection tells what is there, what it weighs and what does not hold, without stopping at the first fault."""

import pyarrow.parquet as pq
import pytest
import torch

from hf_condense.cli import main
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
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


def test_images_without_content_are_named_in_run_card_and_inspection(artefact, tmp_path, caplog):
    """Saturated, of one colour, all the same: they can be written, and train nothing."""
    images = artefact().images
    for name, bad, told in (
        ("black", torch.zeros_like(images), ["12 of 12 images are of one colour", "100.0% of all values", "11 of 12"]),
        ("clipped", (images > 127).to(torch.uint8) * 255, ["100.0% of all values are 0 or 255"]),
        ("same", images[:1].expand_as(images).contiguous(), ["11 of 12 images are copies of others"]),
        ("twice", torch.cat([images[:10], images[:2]]), ["2 of 12 images are copies of others"]),
    ):
        caplog.clear()
        write_artefact(tmp_path / name, artefact(images=bad))
        text, card = report(inspect_folder(tmp_path / name)), (tmp_path / name / "README.md").read_text()
        for words in told:
            assert words in caplog.text and f"WARNING  {words}" in text and f"- **{words}" in card
        assert len(caplog.records) == len(told)
    caplog.clear()
    write_artefact(tmp_path / "good", artefact())
    assert not caplog.records and "WARNING" not in report(inspect_folder(tmp_path / "good"))


def test_soft_labels_that_are_no_numbers_are_not_written(artefact):
    soft = artefact().soft_labels
    soft[3, 1] = torch.nan
    with pytest.raises(ArtefactError, match="soft_labels='infinite or no numbers'"):
        artefact(soft_labels=soft)
