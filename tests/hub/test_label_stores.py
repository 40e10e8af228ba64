"""Every kind of label store from a run, or from an artefact, to the batches that somebody trains on."""

import os

import pytest
import torch
from datasets import load_dataset

from hf_condense.config import LabelSettings
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.hub import provenance
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.inspection import inspect_folder
from hf_condense.hub.teachers import needs_teacher
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.trainer import CondensationTrainer
from tests.hub.test_distilled import POLICY, colours, network

CPU = torch.device("cpu")
KINDS = {
    "int8": {},
    "pruned": {"keep_every": 3},
    "packed": {"views_per_image": 2, "top_k": 1},
    "virtual": {},
}
TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "squeeze_epochs": 2, "protocol": "small", "student_epochs": 4, "student_seeds": 1, "students": "convnet_d1",
    "min_top1_over_chance": 0.0, "threads": 1, "precision": "fp32", "regimes": "stored", "baselines": "initial",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_store_gives_training_batches(artefact, content_of, tmp_path, kind):
    images, labels, teacher = colours(), torch.arange(3).repeat_interleave(4), Ensemble([network()])
    form = store_format(LabelSettings(kind, **KINDS[kind]))
    store = write_store(tmp_path / "labels", images, labels, teacher, POLICY, Key(0), 6, 6, CPU, form=form)
    content = content_of(
        training=provenance.training_block("small", POLICY, 6, 6), regimes=["hard", "stored"], store=store.settings
    )
    write_artefact(tmp_path / "set", artefact(images=images, content=content, store_folder=store.folder))
    data = DistilledDataset.load(tmp_path / "set")
    assert needs_teacher(data.content) == ["stored"] * (kind == "virtual")
    for epoch in (0, 5):  # a store with fewer epochs begins again
        expected = list(store.replay(epoch % store.epochs, images, labels, teacher=teacher))
        found = list(data.training_batches("stored", epoch, teacher=teacher))
        assert all(torch.equal(a.images, b.images) and torch.equal(a.soft, b.soft) for a, b in zip(found, expected))
        assert len(found) == 2
    if kind == "virtual":
        with pytest.raises(ConfigError, match="teacher"):
            list(data.training_batches("stored", 0))
        with pytest.raises(ArtefactError, match="different"):
            list(data.training_batches("stored", 0, teacher=Ensemble([network(5)])))
    read = load_dataset(str(tmp_path / "set"), "soft_labels", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == {"int8": 72, "pruned": 24, "packed": 24, "virtual": 72}[kind]


@pytest.mark.parametrize("kind", ["packed", "virtual"])
def test_a_run_makes_scores_and_publishes_the_store_it_was_asked_for(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))
    trainer = CondensationTrainer("random", output_dir=str(tmp_path / "run"), store=kind, **TINY)
    folder = trainer.run()
    data = DistilledDataset.load(folder)
    assert data.store.settings["store"] == kind == data.content["labels"]["store"]["store"]
    teacher = trainer.teacher()
    (line,) = data.content["scores"]["table"]
    assert line["label_bytes"] == data.store.bytes + (teacher.bytes if kind == "virtual" else 0)
    batches = list(data.training_batches("stored", 1, teacher=teacher))
    assert all(b.soft.shape == (len(b.labels), 4) and b.soft.isfinite().all() for b in batches)
    facts = inspect_folder(folder)
    weights = 4 * sum(m["parameters"] for m in data.content["models"])
    extra = facts["needed"]["stored"] - sum(facts["bytes"][part] for part in ("image", "label", "soft_labels"))
    assert extra == (weights if kind == "virtual" else 0)
    assert not [name for name, state in facts["files"].items() if state != "holds"]
    again = CondensationTrainer("random", output_dir=str(tmp_path / "run"), store=kind, **TINY)
    before = os.stat(folder / "soft_labels" / "manifest.json").st_mtime_ns
    again.relabel()  # done stages are skipped
    assert os.stat(again.stages()["relabel"].folder / "views" / "manifest.json").st_mtime_ns == before
