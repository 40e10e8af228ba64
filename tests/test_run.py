"""One run as data flow: stages that are not used bind nothing, outputs are made once, and every part counts images alike."""

from __future__ import annotations

import json

import pytest

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.loading import load_model
from hf_condense.run import pipeline, settle
from hf_condense.run.condense import Condense
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.relabel import Relabel
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.statistics import Statistics
from hf_condense.trainer import CondensationTrainer

TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 1, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1", "threads": 1,
    "precision": "fp32", "squeeze_epochs": 1, "min_top1_over_chance": 0.0,
}  # fmt: skip
DM = {"iterations": 2, "real_batch": 8}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_setting_that_nothing_uses_leaves_finished_scores_alone(tmp_path):
    shared = {**TINY, **DM, "regimes": "hard", "output_dir": str(tmp_path)}
    first = CondensationTrainer("dm", **shared)
    table = first.evaluate()
    cells = times(tmp_path / "scores" / "cells")
    again = CondensationTrainer("dm", **shared, label_epochs=7)
    assert Relabel not in again.pipeline and Evaluate in again.pipeline
    assert again.evaluate().without_cost() == table.without_cost()
    assert times(tmp_path / "scores" / "cells") == cells


def test_a_regime_that_is_added_keeps_the_scores_of_the_others(tmp_path):
    shared = {**TINY, **DM, "baselines": "random", "output_dir": str(tmp_path)}
    CondensationTrainer("dm", **shared, regimes="hard").evaluate()
    before = times(tmp_path / "scores" / "cells")
    CondensationTrainer("dm", **shared, regimes="hard,online").evaluate()
    after = times(tmp_path / "scores" / "cells")
    assert before.items() <= after.items() and len(after) > len(before)


@pytest.mark.parametrize(("factor", "ipc", "epochs"), [(1, 1, 1000), (2, 1, 300), (1, 4, 300)])
def test_a_protocol_by_ipc_counts_training_images_everywhere(tmp_path, factor, ipc, epochs):
    own = {"formation_factor": factor, "protocol": "edc-tiny-imagenet", "regimes": "hard", "student_epochs": None}
    trainer = CondensationTrainer("idc", output_dir=str(tmp_path), **{**TINY, **own, "ipc": ipc})
    run = trainer.settled
    assert run.training_ipc == ipc * factor**2 == run.student_trainer.ipc
    assert run.student_protocol.epochs == epochs
    assert run.training_images == 4 * run.training_ipc


def test_each_output_is_made_and_read_once(tmp_path, monkeypatch):
    counted: dict[str, int] = {}

    def counting(name, own):
        def call(self, *args):
            counted[name] = counted.get(name, 0) + 1
            return own(self, *args)

        return call

    for kind in pipeline.STAGES:
        for name in ("settings", "make", "load"):
            monkeypatch.setattr(kind, name, counting(f"{kind.name}.{name}", getattr(kind, name)))
    trainer = CondensationTrainer("edc", **{**TINY, "iterations": 2, "output_dir": str(tmp_path)})
    folder = trainer.run()
    read = {name: times for name, times in counted.items() if name.endswith((".make", ".load"))}
    # what evaluation makes it gives on; its way through finished cells is the same
    assert read == {f"{kind.name}.make": 1 for kind in pipeline.STAGES} | {
        f"{kind.name}.load": 1 for kind in pipeline.STAGES
    }
    assert folder.is_dir() and list(trainer.stages()) == ["squeeze", "statistics", "condense", "relabel", "evaluate"]


def test_the_card_says_which_times_lack_what_came_from_the_cache(tmp_path):
    """A second run finds the network of the first; a run that is started again counts the time of its own network."""
    shared = {**TINY, **DM, "regimes": "online", "baselines": "random", "seed": 7}

    def record(name):
        CondensationTrainer("dm", **shared, output_dir=str(tmp_path / name)).run()
        card = (tmp_path / name / "dataset" / "README.md").read_text()
        (line,) = [line for line in card.splitlines() if line.startswith("| squeeze |")]
        found = json.loads((tmp_path / name / "dataset" / "condensation.json").read_text())["record"]["stages"]
        return {stage["name"]: stage["reused"] for stage in found}, "without convnet_d1: from the cache" in line

    assert (
        record("first") == record("first") == ({"squeeze": [], "condense": [], "relabel": [], "evaluate": []}, False)
    )
    assert record("second") == ({"squeeze": ["convnet_d1"], "condense": [], "relabel": [], "evaluate": []}, True)


def test_a_run_is_frozen(tmp_path):
    run = settle.settle("random", "digits", {**TINY, "regimes": "hard", "output_dir": str(tmp_path)})
    with pytest.raises(AttributeError):
        run.folder = tmp_path / "other"
    assert not any(tmp_path.iterdir()), "settling writes nothing"
    used = pipeline.Pipeline(run)
    assert set(used.stages) == {Condense, Evaluate} and not {Squeeze, Statistics, Relabel} & set(used.stages)


def test_a_backbone_is_in_the_provenance(tmp_path):
    images = ImageSpec(4, 8, (0.3,), (0.4,), channels=1)
    write_checkpoint(load_model("convnet_d2", images, key=Key(5)), tmp_path / "backbone", 8)
    used = load_model(str(tmp_path / "backbone"), images, pretrained=True, key=Key(0, "backbone"))  # with a new head
    own = {"selection": "backbone_centres", "backbone": str(tmp_path / "backbone"), "regimes": "hard"}
    shared = {**TINY, **own, "baselines": "random", "output_dir": str(tmp_path / "run")}
    for _ in range(2):  # also where the stage is done already
        folder = CondensationTrainer("coreset", **shared).run()
        (entry,) = json.loads((folder / "condensation.json").read_text())["content"]["models"]
        assert (
            entry["roles"] == ["backbone"]
            and entry["sha256"] == used.sha256()
            and entry["id"] == "local:backbone"
            and entry["parameters"] > 0
        )
