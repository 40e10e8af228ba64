"""CCFS: the algebra of its candidates, the plan of its curricula, and what it shares with its base method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError, DataError
from hf_condense.methods import METHODS
from hf_condense.methods.missed import student_of
from hf_condense.run.resolve import load_preset, preset_names, resolve
from hf_condense.selection.curriculum import added, parts

SHORT = {"base_method": "rded", "rded_candidates": 20, "dynamics_epochs": 3, "dynamics_batch": 64}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return CondensationTrainer(
        "ccfs", "digits", output_dir=str(tmp_path_factory.mktemp("ccfs")), ipc=6, max_per_class=40, max_test=100,
        base_model="convnet_d1", squeeze_epochs=4, squeeze_lr=0.05, threads=1, precision="fp32", protocol="small",
        student_epochs=4, **SHORT,
    ).prepare()  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))


def make(context, folder, name="ccfs", **settings):
    method = create_method(name, **({**SHORT, **settings} if name == "ccfs" else settings))
    return method, Engine(Accelerator(cpu=True), folder, 10**9).run(method, context)


def test_images_are_dealt_to_curricula_with_the_larger_ones_first():
    assert parts(40, 3) == [14, 13, 13] and parts(2, 3) == [1, 1] and parts(0, 3) == [] and parts(5, 0) == []


def test_candidates_are_unused_images_that_the_teacher_knows_and_the_student_misses():
    known = torch.tensor([1, 1, 1, 0, 1, 1, 1, 0]).bool()
    missed = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0]).bool()
    used = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]).bool()
    hard = torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0, 5.0, 2.0, 0.0])
    assert [i for i in range(8) if known[i] and missed[i] and not used[i]] == [0, 1, 6]
    picks, short = added(known, missed, used, hard, 2, Key(0))
    assert picks.tolist() == [1, 6] and short == 0
    picks, short = added(known, missed, used, hard, 7, Key(0))
    assert picks[:5].tolist() == [1, 6, 0, 2, 5] and short == 4  # then known ones, then the rest, and never a used one
    assert set(picks[5:]) == {3, 7}
    ties = {tuple(added(known, missed, used, torch.zeros(8), 2, Key(s))[0]) for s in range(9)}
    assert len(ties) > 1


def test_the_plan_has_the_base_s_groups_and_a_group_a_curriculum():
    method, base = create_method("ccfs", share=0.2, **SHORT), create_method("rded", rded_candidates=20)
    plan, one = method.plan(3, 50), base.plan(3, 10)
    assert plan.groups[: len(one.groups)] == one.groups and len(plan.groups) == len(one.groups) + 3
    assert [len(group[0].rows) for group in plan.groups[1:]] == [14, 13, 13]
    rows = [row for group in plan.groups for shard in group for row in shard.rows]
    assert sorted(rows) == list(range(150)) and not plan.staged
    for shard in (shard for group in plan.groups for shard in group):
        assert tuple(plan.labels[row] for row in shard.rows) == shard.labels


def test_the_first_part_is_the_base_s_and_the_rest_are_distinct_real_images(context, tmp_path):
    method, made = make(context, tmp_path / "ccfs", share=0.34)
    _, base = make(replace(context, ipc=2), tmp_path / "rded", "rded", rded_candidates=20)
    assert torch.equal(made.images[:20], base.images) and made.stages is None
    rest = made.origin[20:]
    assert len(set(rest.tolist())) == 40 and torch.equal(made.images[20:], context.train.images(rest))
    assert (context.train.labels[rest] == made.labels[20:].numpy()).all()
    assert sorted(made.labels.tolist()) == sorted(list(range(10)) * 6)
    # the first curriculum holds what the algebra says, from the answers that are kept
    looked = student_of(replace(made, images=base.images, labels=base.labels), context, context.key / "filter" / 2)
    candidates = looked["known"] & looked["missed"]
    assert float(looked["known"].float().mean()) > 0.3 and bool(looked["missed"].any())
    candidates[torch.from_numpy(base.origin)] = False
    for c in range(10):
        first = made.origin[20 + 2 * c : 22 + 2 * c]
        there = int(candidates[torch.from_numpy(context.train.rows_of(c))].sum())
        assert int(candidates[torch.from_numpy(first)].sum()) == min(2, there)


@pytest.mark.parametrize("settings", [{"curricula": 0}, {"share": 1.0}])
def test_without_curricula_it_is_the_base_method_s_set(context, tmp_path, settings):
    _, made = make(context, tmp_path / "ccfs", **settings)
    _, base = make(context, tmp_path / "rded", "rded", rded_candidates=20)
    assert torch.equal(made.images, base.images) and made.origin.tolist() == base.origin.tolist()


def test_a_class_with_too_few_candidates_is_filled_and_reported(context, tmp_path, caplog):
    _, made = make(context, tmp_path, share=0.2, curricula=1, order="filter")
    assert len(set(made.origin[10:].tolist())) == 50
    few = replace(
        context, train=context.train.subset(np.concatenate([context.train.rows_of(c)[:6] for c in range(10)]))
    )
    with caplog.at_level("WARNING"):
        _, filled = make(few, tmp_path / "few", share=0.2, curricula=1, rded_candidates=6)
    assert "lacks" in caplog.text and len(set(filled.origin[10:].tolist())) == 50


def test_the_order_flipped_takes_harder_images(context, tmp_path):
    """The gate: simple first takes images that are forgotten less often than hard first would."""
    hard = torch.arange(10.0)
    all_ = torch.ones(10, dtype=torch.bool)
    easy = added(all_, all_, ~all_, hard, 3, Key(0))[0]
    flipped = added(all_, all_, ~all_, -hard, 3, Key(0))[0]
    assert easy.tolist() == [0, 1, 2] and flipped.tolist() == [9, 8, 7]


def test_what_cannot_be_is_refused(context):
    with pytest.raises(ConfigError, match="base_method='pdd'"):
        create_method("ccfs", base_method="pdd")
    with pytest.raises(ConfigError, match="base_method='idc': expected a method whose images are single"):
        create_method("ccfs", base_method="idc")
    with pytest.raises(ConfigError, match="share=0.0"):
        create_method("ccfs", **{**SHORT, "share": 0.0})
    with pytest.raises(DataError, match="ipc=41: expected at most 40"):
        create_method("ccfs", **SHORT).check(replace(context, ipc=41))
    with pytest.raises(ConfigError, match="student_trainer"):
        student_of(None, replace(context, student_trainer=None), Key(0))
    assert {name for name, info in METHODS.items() if info.wraps} == {"ccfs", "pdd"}


def test_presets_are_for_the_base_of_the_paper():
    assert preset_names("ccfs-cda") == ["cifar100", "cifar100-ipc100", "cifar100-ipc50", "tiny-imagenet"]
    for ipc, share in ((25, 0.2), (50, 0.1), (100, 0.1), (150, 0.2)):
        values = load_preset("ccfs-cda", "cifar100", ipc, "paper").values
        assert (values["share"], values["curricula"], values["order"]) == (share, 3, "forgetting")
    config = resolve({"method": "ccfs", "dataset": "cifar100", "ipc": 50}, lambda data: pytest.fail("asked for facts"))
    assert config.preset == "ccfs-cda/cifar100-ipc50" and config.evaluation.protocol == "ccfs-cifar100"
    assert config.method.base_method == "cda" and config.method.share == 0.1
