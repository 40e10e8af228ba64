"""DM: learning that fails with the sign flipped, shards that change nothing, resume."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_condense import create_method
from hf_condense.errors import ConfigError
from hf_condense.plan import SetSpec
from hf_condense.run.settle import settle
from hf_condense.trainer import CondensationTrainer
from tests.matching import context, matching_loss, stopped_and_resumed, synthesise

SHORT = {"iterations": 8, "real_batch": 8}
SAMPLERS = ({}, {"sampler": "centres", "cluster_every": 3, "cluster_weights": "size"})


def test_defaults_are_those_of_the_script():
    dm = create_method("dm")
    recipe = dm.recipe(None, SetSpec(10, 10, 28))
    assert (recipe.steps, recipe.lr, recipe.momentum, recipe.optimizer) == (20000, 1.0, 0.5, "sgd")
    assert (recipe.schedule, recipe.clamp_every, dm.settings.real_batch, dm.settings.init) == (
        "constant",
        0,
        256,
        "real",
    )
    assert dm.protocol("cifar10") == "dsa" and dm.protocol("somebody/photos") == "small"
    assert [len(shard.rows) for shard in dm.plan(10, 10).groups[-1]] == [50, 50]  # two processes have work
    with pytest.raises(ConfigError, match="per_cluster"):
        create_method("dm", per_cluster=3)


@pytest.mark.parametrize("sampler", ["random", "centres"])
def test_means_come_nearer_and_go_away_with_the_sign_flipped(sampler, tmp_path):
    """In networks and random real batches that synthesis has not seen."""
    settings, given = {"iterations": 20, "real_batch": 16}, context(ipc=1)
    for sign in (1, -1):
        made = synthesise("dm", given, tmp_path / str(sign), sign, sampler=sampler, **settings)
        first, last = (
            matching_loss("dm", given, made, images, 4, **settings)
            for images in (made.initial.float() / 255, made.pixels)
        )
        said = f"{first:.1f} -> {last:.1f}"
        assert last < 0.6 * first if sign > 0 else last > 1.5 * first, said


@pytest.mark.parametrize("method", ["dm", "pdd"])
@pytest.mark.parametrize(("network", "classes"), [("convnet_d1", 5), ("convnet_bn_w32", 10)])
def test_all_classes_go_together_where_batch_norms_tie_them(method, network, classes, tmp_path):
    """Also where DM is the base of another method; what a person gives stays, or is refused before any work."""
    own = {"base_method": "dm", "stages": 2} if method == "pdd" else {}
    shared = {"base_model": network, "ipc": 2, "regimes": "hard", "output_dir": str(tmp_path / "run"), **own}
    shared |= {"max_per_class": 12, "max_test": 20, "students": "convnet_d1", "threads": 1}
    run = settle(method, "digits", shared)
    used = getattr(run.method, "base", run.method).settings.classes_per_shard
    assert run.config.method.classes_per_shard == used == classes
    assert run.config.came_from["classes_per_shard"] == "network"
    if classes == 5:
        assert settle(method, "digits", {**shared, "classes_per_shard": 3}).config.method.classes_per_shard == 3
    else:
        with pytest.raises(ConfigError, match="classes_per_shard.*3.*convnet_bn_w32 has batch norms"):
            settle(method, "digits", {**shared, "classes_per_shard": 3})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_classes_are_made_alike_however_they_are_cut_into_shards(sampler, tmp_path):
    # with real batches of 8 rounding carries a ReLU of one class over its edge
    given, settings = context(ipc=2), {**SHORT, "real_batch": 9, **sampler}
    plan = create_method("dm", classes_per_shard=3).plan(10, 2)
    assert [len(shard.rows) for shard in plan.groups[-1]] == [6, 6, 6, 2] and not plan.joint
    whole = synthesise("dm", given, tmp_path / "whole", classes_per_shard=10, **settings)
    parts = synthesise("dm", given, tmp_path / "parts", classes_per_shard=3, **settings)
    assert torch.equal(whole.initial, parts.initial) and not torch.equal(whole.images, whole.initial)
    assert float((whole.pixels - parts.pixels).abs().max()) < 1e-5


def test_an_image_may_hold_several_and_their_means_come_nearer(tmp_path):
    settings, given = {"iterations": 20, "real_batch": 16, "formation_factor": 2}, context(ipc=2)
    made = synthesise("dm", given, tmp_path / "run", **settings)
    assert made.images.shape == (20, 1, 8, 8) and made.origin.shape == (20, 4)
    whole = given.train.images(made.origin[:, 3])
    small = F.interpolate(whole, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(made.initial[..., 4:, 4:], small)
    first, last = (
        matching_loss("dm", given, made, images, 4, **settings) for images in (made.initial.float() / 255, made.pixels)
    )
    assert last < 0.6 * first
    method = create_method("dm", formation_factor=2)
    assert method.formation_factor == 2 and method.fewer == "a smaller --ipc or --formation_factor"
    with pytest.raises(ConfigError, match="formation_factor=0"):
        create_method("dm", formation_factor=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stopped_run_goes_on_exactly(sampler, tmp_path):
    """Stopped after five steps of eight, in the first shard and in the second: picks then hold for one step more."""
    given, settings = context(ipc=2), {**SHORT, **sampler}
    whole = synthesise("dm", given, tmp_path / "whole", **settings)
    for stop_at in (1, 2):
        again = stopped_and_resumed("dm", given, tmp_path / f"{stop_at}", stop_at, every=5, **settings)
        assert torch.equal(again.pixels, whole.pixels), f"stopped in shard {stop_at}"


def test_equal_seeds_make_equal_images_and_other_seeds_others(tmp_path):
    made = [
        synthesise("dm", context(ipc=1, seed=seed), tmp_path / f"{i}", **SHORT) for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(made[0].pixels, made[1].pixels) and not torch.equal(made[0].pixels, made[2].pixels)


def test_how_many_students_are_trained_changes_no_image(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))
    made = []
    for seeds in (1, 3):
        trainer = CondensationTrainer(
            "dm", dataset="digits", ipc=1, max_per_class=12, max_test=20, output_dir=str(tmp_path / f"{seeds}"),
            base_model="convnet_d1", iterations=3, real_batch=8, students="convnet_d1", student_seeds=seeds,
            regimes="hard", threads=1, precision="fp32",
        )  # fmt: skip
        trainer.condense()
        made.append({p.name: p.read_bytes() for p in (tmp_path / f"{seeds}" / "shards").glob("*.safetensors")})
    assert len(made[0]) == 10 + 2 and made[0] == made[1]
