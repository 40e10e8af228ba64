"""What synthesis promises step by step, seen from outside: the optimiser's rates, and the files of a run's checkpoints."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hf_condense import files
from hf_condense.files import load_tensors
from hf_condense.trainer import CondensationTrainer

STEPS = 4
TINY = {
    "dataset": "digits", "classes": "0,1", "ipc": 2, "max_per_class": 12, "max_test": 20, "squeeze_epochs": 1,
    "min_top1_over_chance": 0.0, "threads": 1, "precision": "fp32", "regimes": "hard", "iterations": STEPS,
}  # fmt: skip
WITH_NORMS = {"base_model": "convnet_bn_w32", "shard_size": 4}


def trainer(method: str, folder: Path, **settings) -> CondensationTrainer:
    return CondensationTrainer(method, output_dir=str(folder), **{**TINY, **settings})


def steps_on_images(work) -> list[tuple[str, list[dict]]]:
    """Name of the optimiser and its groups (without parameters) at each step that moves four images of 8 pixels."""
    seen = []

    def note(optimiser, *_) -> None:
        groups = optimiser.param_groups
        if tuple(groups[0]["params"][0].shape) == (4, 1, 8, 8):
            seen.append((type(optimiser).__name__, [{k: v for k, v in g.items() if k != "params"} for g in groups]))

    handle = register_optimizer_step_pre_hook(note)
    try:
        work()
    finally:
        handle.remove()
    return seen


def cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


@pytest.mark.parametrize("method", ["sre2l", "cda"])
def test_the_rate_of_a_step_is_that_of_its_number_from_zero(method, tmp_path):
    """SRe2L's script sets it before the step: the first step takes the whole rate, the last one not none of it."""
    seen = steps_on_images(trainer(method, tmp_path, **WITH_NORMS, lr=0.2).condense)
    assert [name for name, _ in seen] == ["Adam"] * STEPS
    assert [groups[0]["lr"] for _, groups in seen] == pytest.approx([0.2 * cosine(step) for step in range(STEPS)])
    assert {groups[0]["betas"] for _, groups in seen} == {(0.5, 0.9)}


def test_what_is_learned_beside_images_has_a_rate_of_its_own(tmp_path):
    own = {
        "lr": 3.0, "lr_lr": 1e-5, "student_steps": 2, "student_batch": 4, "first_epochs": 1, "span": 1, "experts": 1,
        "expert_lr": 0.05, "base_model": "convnet_d1",
    }  # fmt: skip
    seen = steps_on_images(trainer("mtt", tmp_path, **own).condense)
    assert [(name, [g["lr"] for g in groups]) for name, groups in seen] == [("SGD", [3.0, 1e-5])] * STEPS


def checkpoints(work) -> list[dict[str, torch.Tensor]]:
    """The tensors of every checkpoint that `work` writes, in order."""
    found = []

    def note(when: str, path: Path) -> None:
        if when == "after" and path.parent.name == "checkpoints":
            found.append(load_tensors(path)[0])

    files.on_replace = note
    try:
        work()
    finally:
        files.on_replace = None
    return found


def test_averaged_images_follow_those_that_a_step_has_seen_and_not_the_new_ones(tmp_path):
    """EDC's flatness term (Eq. 7) with a decay of 0: the average is the images that the newest step began with."""
    run = trainer(
        "edc", tmp_path, base_model="convnet_d1", flatness_decay=0.0, checkpoint_every=1, lr=0.5, shard_size=4
    )
    mean, std = run.train.mean[0], run.train.std[0]
    found = checkpoints(run.condense)
    assert len(found) == STEPS - 1
    for before, after in pairwise(found):
        seen, new = (tensors["pixels"] * std + mean for tensors in (before, after))
        torch.testing.assert_close(after["objective.flat_images"], seen, rtol=0, atol=1e-5)
        assert (seen - new).abs().max() > 1e-2


def test_images_are_clamped_to_what_bytes_can_hold_after_each_step(tmp_path):
    run = trainer("sre2l", tmp_path, **WITH_NORMS, lr=5.0, checkpoint_every=1)
    mean, std = run.train.mean[0], run.train.std[0]
    for tensors in checkpoints(run.condense):
        unit = tensors["pixels"] * std + mean
        assert unit.min() > -1e-5 and unit.max() < 1 + 1e-5
        assert ((unit < 1e-5) | (unit > 1 - 1e-5)).any(), "the rate is large enough to leave the range"
