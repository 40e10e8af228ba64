"""A method from outside: FADRM's blend and resize, registered and run, with nothing else touched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hf_condense import CondensationTrainer, files
from hf_condense.config import setting
from hf_condense.errors import ConfigError
from hf_condense.methods import METHODS, MethodInfo, create_method, register
from hf_condense.methods.base import Context
from hf_condense.methods.sre2l import SRe2L, SRe2LSettings
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import SetSpec, Shard

TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "ipc": 2, "max_per_class": 20, "max_test": 40, "squeeze_epochs": 1,
    "base_model": "convnet_bn_w32", "protocol": "small", "student_epochs": 1, "student_seeds": 1, "students": "convnet_d1",
    "threads": 1, "precision": "fp32", "checkpoint_every": 2, "regimes": "hard", "iterations": 9, "init": "real",
    "min_top1_over_chance": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class BlendSettings(SRe2LSettings):
    """SRe2L's; the images of each block begin as a blend with their own first images, at another side."""

    blocks: int = setting(3, "blocks of steps (K), an odd number: the last one has the whole side")
    residual: float = setting(0.5, "share of the first images in a blend (a)")
    small_side: int = setting(6, "side in pixels of every other block")


class BlendedStatistics(FeatureStatistics):
    """Between blocks: x <- a P + (1 - a) x, both resized to the side of the next block (arXiv:2506.24125)."""

    def blend(self, settings: BlendSettings, side: int) -> BlendedStatistics:
        self.own, self.side = settings, side
        return self

    def start(self, shard, images, labels, key) -> None:
        self.first = images.clone()
        super().start(shard, images, labels, key)

    def revises(self, step):
        block, over = divmod(step + 1, self.own.iterations // self.own.blocks)
        return not over and block < self.own.blocks

    def revise(self, images, step, key):
        block = (step + 1) // (self.own.iterations // self.own.blocks)
        side = self.own.small_side if block % 2 else self.side
        mixed = [F.interpolate(x, size=(side, side), mode="bilinear") for x in (self.first, images)]
        return self.own.residual * mixed[0] + (1 - self.own.residual) * mixed[1]


class Blend(SRe2L):
    name = "blend"
    Settings = BlendSettings

    def objective(self, context: Context, ready: Any = None) -> BlendedStatistics:
        s = self.settings
        models = [member.model for member in context.observers]
        made = BlendedStatistics(
            models, context.statistics, s.matching(), lambda step: self._view(context, step), context.precision
        )
        return made.blend(s, context.image_size)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr("hf_condense.methods.registry.METHODS", METHODS)
    register(
        MethodInfo("blend", "Blend", f"{__name__}:Blend", "", "", pool=True, real_pixels=True, summary="A blend.")
    )
    yield
    METHODS.pop("blend")
    files.on_replace = None


class Stop(BaseException):
    pass


def run(folder, **settings) -> CondensationTrainer:
    return CondensationTrainer("blend", output_dir=str(folder), **{**TINY, **settings})


def test_it_runs_to_a_published_set_and_its_images_change_their_side_on_the_way(tmp_path):
    sides = []
    terms = BlendedStatistics.terms

    def watched(self, images, *rest):
        sides.append(images.shape[-1])
        return terms(self, images, *rest)

    BlendedStatistics.terms = watched
    try:
        folder = run(tmp_path).run()
    finally:
        BlendedStatistics.terms = terms
    assert sides == [8, 8, 8, 6, 6, 6, 8, 8, 8]
    content = json.loads((folder / "condensation.json").read_text())["content"]
    assert content["method"]["name"] == "blend" and content["config"]["method"]["residual"] == 0.5


def test_a_residual_of_one_gives_the_first_images_back_but_for_resizing(tmp_path):
    still = {"lr": 1e-12, "small_side": 8, "residual": 1.0}
    made = run(tmp_path, **still).condense()
    assert torch.equal(made.images, made.initial)


@pytest.mark.parametrize("stop_at", [1, 2, 3])  # after steps 2, 4 (of small images) and 6 (on a border)
def test_a_run_killed_in_a_block_of_small_images_goes_on_to_the_same_bytes(tmp_path, stop_at):
    whole = run(tmp_path / "whole").condense()
    seen = []

    def fault(when, path):
        if when == "after" and path.parent.name == "checkpoints":
            seen.append(path)
            if len(seen) == stop_at:
                raise Stop

    files.on_replace = fault
    with pytest.raises(Stop):
        run(tmp_path / "again").condense()
    files.on_replace = None
    assert torch.equal(run(tmp_path / "again").condense().images, whole.images)


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="method='blend'.*a name of its own"):
        register(MethodInfo("blend", "", "a:B", "", "", pool=False, real_pixels=False, summary=""))
    with pytest.raises(ConfigError, match="where='no class'"):
        register(MethodInfo("other", "", "no class", "", "", pool=False, real_pixels=False, summary=""))
    assert "other" not in METHODS


def test_shards_of_one_plan_may_have_recipes_of_their_own():
    method = create_method("blend")
    shard = Shard("s", "optimise", (0,), (0,))
    assert method.recipe(shard, SetSpec(10, 1, 8)).steps == method.settings.iterations
