"""LGM on digits, on a network that a pool has trained: what it learns, how it resumes, and the probes that it is for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hf_condense import CondensationTrainer, DistilledDataset, create_method
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.probe import Probed
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.embedding import embed
from hf_condense.selection.real import random_real
from tests.matching import stopped_and_resumed, synthesise

TINY = {
    "dataset": "digits", "ipc": 1, "max_per_class": 40, "max_test": 200, "base_model": "convnet_d1", "squeeze_epochs": 5,
    "squeeze_lr": 0.05, "threads": 1, "precision": "fp32", "min_top1_over_chance": 0.0,
}  # fmt: skip
FAST = {
    "head_scale": 0.0, "real": "means", "real_passes": 0, "copies": 2, "crop_min": 0.5, "noise": 0.0, "lr": 0.05,
    "grow_every": 10, "iterations": 80,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> CondensationTrainer:
    return CondensationTrainer("lgm", output_dir=str(tmp_path_factory.mktemp("lgm")), **TINY)


@pytest.fixture(scope="module")
def given(base):
    return base.prepare()


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    return synthesise("lgm", given, tmp_path_factory.mktemp("made"), **FAST)


@pytest.fixture(scope="module")
def backbone(given, tmp_path_factory) -> str:
    """The pool's network as a folder, as a person would name it."""
    folder = tmp_path_factory.mktemp("networks") / "trained"
    folder.mkdir()
    write_checkpoint(given.observers[0].model, folder, 8)
    return str(folder)


def loss(given, images: torch.Tensor) -> float:
    """Of unit pixels, in views that synthesis did not draw."""
    unseen = replace(given, key=Key(77, "unseen"))
    method = create_method("lgm", **{**FAST, "copies": 8})
    shard = method.plan(given.num_classes, len(images) // given.num_classes).optimised[0]
    objective = method.objective(unseen, method.ready(shard, unseen, None))
    labels = torch.tensor(shard.labels)
    objective.start(shard, images, labels, unseen.key)
    return float(next(objective.terms(images, labels, 0, unseen.key)).logs["loss"])


def probed(base, given) -> Probed:
    test = base.settled.test
    return Probed(
        "probe:pool", given.observers[0].model, 8, given.device, 10, test.decoded(), torch.from_numpy(test.labels)
    )


def test_it_learns_and_with_the_sign_flipped_it_does_not(given, made, tmp_path):
    grey = torch.full((10, 1, 8, 8), 0.5)
    learned = loss(given, made.images / 255)
    assert learned < 0.4 < loss(given, made.initial / 255) and learned < loss(given, grey)
    flipped = synthesise("lgm", given, tmp_path, sign=-1, **FAST)
    assert loss(given, flipped.images / 255) > 0.9, "the gate fails where the objective is turned around"


def test_probes_on_it_are_better_than_on_random_images(base, given, made, tmp_path):
    """By more than two standard errors over five draws; and not with the sign flipped."""
    probe, protocol = probed(base, given), get_protocol("probe-fast", steps=150)
    labels = tuple(made.labels.tolist())

    def top1(images, seed: int) -> float:
        return probe.train(TrainingSet(images, made.labels), protocol, Key(seed)).top1

    draws = [top1(random_real(given.train, labels, 8, Key(seed, "draw"))[0], seed) for seed in range(5)]
    random, error = torch.tensor(draws).mean(), torch.tensor(draws).std() / 5**0.5
    assert sum(top1(made.images, seed) for seed in range(2)) / 2 > random + 2 * error
    flipped = synthesise("lgm", given, tmp_path, sign=-1, **FAST).images
    assert top1(flipped, 0) < random


def test_a_run_that_stopped_before_or_after_a_new_level_goes_on_to_the_same_bytes(given, tmp_path):
    settings = {**FAST, "iterations": 14, "grow_every": 4}
    whole = synthesise("lgm", given, tmp_path / "whole", **settings)
    for every in (3, 4, 5):
        again = stopped_and_resumed("lgm", given, tmp_path / str(every), 2, every, **settings)
        assert torch.equal(again.images, whole.images), every


def test_the_optimiser_begins_again_with_each_level(given, tmp_path, monkeypatch):
    """Adam counts its steps: what its counter says at the end is the number of steps since the last level."""
    from hf_condense import shard_optimiser

    states, step = [], shard_optimiser.ShardOptimiser.step

    def watched(self, number):
        logs = step(self, number)
        state = self.optimiser.state_dict()["state"]
        states.append((self.z.shape[2], int(state[0]["step"]) if state else 0))
        return logs

    monkeypatch.setattr(shard_optimiser.ShardOptimiser, "step", watched)
    synthesise("lgm", given, tmp_path, **{**FAST, "iterations": 9, "grow_every": 3})
    assert states == [(1, 1), (1, 2), (5, 0), (5, 1), (5, 2), (21, 0), (21, 1), (21, 2), (85, 0)]


def test_batches_with_a_random_head_and_plain_pixels_work_too(given, tmp_path):
    settings = {**FAST, "head_scale": 0.01, "real": "batches", "real_batch": 200, "noise": 0.05}
    for space in ("pyramid", "normalised"):
        made = synthesise("lgm", given, tmp_path / space, space=space, **settings)
        assert loss(given, made.images / 255) < loss(given, made.initial / 255) - 0.2, space


def test_class_means_with_a_random_head_are_refused():
    with pytest.raises(ConfigError, match="real='means'.*batches with a random head.*--head_scale 0"):
        create_method("lgm", real="means", head_scale=0.01)


def test_its_students_are_probes_of_its_backbone_and_labels_are_hard(backbone, tmp_path):
    own = {**TINY, **FAST, "backbone": backbone}
    run = CondensationTrainer("lgm", output_dir=str(tmp_path / "a"), **own).settled
    assert run.config.evaluation.students == (f"probe:{backbone}",) and not run.needs_pool
    assert run.protocol.name == "probe-fast" and run.config.evaluation.regimes == ("hard",)
    with pytest.raises(ConfigError, match="regimes='online'.*linear probes"):
        CondensationTrainer("lgm", output_dir=str(tmp_path / "b"), **own, regimes="hard,online")
    with pytest.raises(ConfigError, match="baselines='centroids'.*--students probe"):
        CondensationTrainer("random", output_dir=str(tmp_path / "c"), **TINY, baselines="centroids")


def test_a_run_on_a_backbone_of_ones_own(given, backbone, tmp_path):
    width = embed(given.observers[0].model, torch.zeros(1, 1, 8, 8)).shape[1]
    own = {**TINY, **FAST, "iterations": 4, "protocol": "probe-fast", "student_epochs": 20, "student_seeds": 2}
    run = CondensationTrainer(
        "lgm", output_dir=str(tmp_path), backbone=backbone, **own, baselines="full,random,centroids,class_means"
    )
    folder = run.run()
    content = json.loads((folder / "condensation.json").read_text())["content"]
    (network,) = content["models"]
    assert network["roles"] == ["probe"] and network["id"] == "local:trained"
    assert backbone not in json.dumps(content) and "probe:trained" in json.dumps(content["scores"])
    table = run.evaluate()
    rows = {row: regime for row, student, regime in table.groups()}
    assert rows == dict.fromkeys(("full", "class means", "centroids", "random", "lgm"), "hard")
    means = next(c for c in table.cells if c["row"] == "class means")
    assert means["steps"] == 0 and means["image_bytes"] == 4 * 10 * width and means["top1"] > 0.7
    full = next(c for c in table.cells if c["row"] == "full")
    assert full["top1"] > 0.8 and full["steps"] == 20
    student = DistilledDataset.load(folder).train(f"probe:{backbone}", "hard")
    images = given.train.images(given.train.rows_of(0)[:1]) / 255
    assert torch.equal(embed(student, images), embed(given.observers[0].model, images)), "the head alone is trained"
    card = (folder / "README.md").read_text()
    assert "linear probes" in card and "`local:trained`" in card


def test_the_pool_is_the_backbone_where_none_is_named(base, tmp_path):
    assert base.settled.config.evaluation.students == ("probe:convnet_d1",) and base.settled.needs_pool
    plain = CondensationTrainer("lgm", "digits", output_dir=str(tmp_path)).settled.config
    assert plain.evaluation.students == ("probe:convnet_d1", "probe:convnet_d2")
