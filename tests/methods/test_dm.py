"""DM: learning that fails with the sign flipped, shards that change nothing, resume."""

from __future__ import annotations

import pytest
import torch

from hf_condense import create_method, files
from tests.matching import context, matching_loss, synthesise

SHORT = {"iterations": 8, "real_batch": 8}


def test_defaults_are_those_of_the_script():
    dm = create_method("dm")
    recipe = dm.recipe(10, 10, 28)
    assert (recipe.steps, recipe.lr, recipe.momentum, recipe.optimizer) == (20000, 1.0, 0.5, "sgd")
    assert (recipe.schedule, recipe.clamp_every, dm.settings.real_batch, dm.settings.init) == (
        "constant",
        0,
        256,
        "real",
    )
    assert dm.protocol("cifar10") == "dsa" and dm.protocol("somebody/photos") == "small"


def test_means_come_nearer_and_go_away_with_the_sign_flipped(tmp_path):
    """In networks and real batches that synthesis has not seen."""
    settings, given = {"iterations": 20, "real_batch": 16}, context(ipc=1)
    for sign in (1, -1):
        made = synthesise("dm", given, tmp_path / str(sign), sign, **settings)
        first, last = (
            matching_loss("dm", given, made, images, 4, **settings)
            for images in (made.initial.float() / 255, made.pixels)
        )
        said = f"{first:.1f} -> {last:.1f}"
        assert last < 0.6 * first if sign > 0 else last > 1.5 * first, said


def test_classes_are_made_alike_however_they_are_cut_into_shards(tmp_path):
    given = context(ipc=2)
    plan = create_method("dm", classes_per_shard=3).plan(10, 2)
    assert [len(shard.rows) for shard in plan.groups[-1]] == [6, 6, 6, 2] and not plan.joint
    assert len(create_method("dm", classes_per_shard=None).plan(10, 2).groups[-1]) == 1
    whole = synthesise("dm", given, tmp_path / "whole", **SHORT)
    parts = synthesise("dm", given, tmp_path / "parts", classes_per_shard=3, **SHORT)
    assert torch.equal(whole.initial, parts.initial) and not torch.equal(whole.images, whole.initial)
    assert float((whole.pixels - parts.pixels).abs().max()) < 1e-5


def test_a_stopped_run_goes_on_exactly(tmp_path):
    given = context(ipc=2)
    whole = synthesise("dm", given, tmp_path / "whole", **SHORT)

    class Stop(BaseException):
        pass

    def fault(when, path):
        if path.parent.name == "checkpoints" and when == "after":
            raise Stop

    files.on_replace = fault
    try:
        with pytest.raises(Stop):
            synthesise("dm", given, tmp_path / "stopped", every=5, **SHORT)
    finally:
        files.on_replace = None
    assert torch.equal(synthesise("dm", given, tmp_path / "stopped", every=5, **SHORT).pixels, whole.pixels)


def test_equal_seeds_make_equal_images_and_other_seeds_others(tmp_path):
    made = [
        synthesise("dm", context(ipc=1, seed=seed), tmp_path / f"{i}", **SHORT) for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(made[0].pixels, made[1].pixels) and not torch.equal(made[0].pixels, made[2].pixels)
