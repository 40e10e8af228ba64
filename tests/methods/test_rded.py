"""RDED on digits: what its choice promises, and the gate failing when the score's sign is flipped."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.pixels import to_unit
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.methods.rded import PROTOCOLS
from hf_condense.models.frozen import freeze
from hf_condense.run.resolve import load_preset, preset_names
from hf_condense.selection.realism import cross_entropy_of

SEEDS = 3


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The observer, which chooses, and a judge that takes no part."""
    trainer = CondensationTrainer(
        "rded", "digits", output_dir=str(tmp_path_factory.mktemp("rded")), ipc=5, max_per_class=40, max_test=100,
        base_model="convnet_d1,convnet_d2", squeeze_epochs=4, squeeze_lr=0.05, threads=1, precision="fp32",
    )  # fmt: skip
    return trainer.prepare()


def choose(context, folder, seed=0, ipc=5, observer=None, **settings):
    observers = [SimpleNamespace(model=observer)] if observer else context.observers
    changed = replace(context, key=context.key / seed, ipc=ipc, observers=observers)
    return Engine(Accelerator(cpu=True), folder, 10**9).run(create_method("rded", **settings), changed)


class Flipped(nn.Module):
    """Finds easy what the observer finds hardest."""

    def __init__(self, observer):
        super().__init__()
        self.observer, self.mean = observer, observer.mean

    def forward(self, images):
        return -self.observer(images)


@torch.no_grad()
def hard_for_the_judge(context, made) -> float:
    judge = list(context.observers)[1].model
    return float(F.cross_entropy(judge(to_unit(made.images)), made.labels))


def test_chosen_crops_are_easier_than_random_ones_for_a_network_that_did_not_choose(pool, tmp_path):
    for seed in range(SEEDS):
        random = choose(pool, tmp_path / f"random{seed}", seed, rded_candidates=5, rded_crops=1)
        chosen = choose(pool, tmp_path / f"chosen{seed}", seed)
        flipped = choose(pool, tmp_path / f"flipped{seed}", seed, observer=Flipped(pool.observers[0].model))
        easy, chance, hard = (hard_for_the_judge(pool, made) for made in (chosen, random, flipped))
        assert easy < 0.7 * chance < 0.7 * hard, f"seed {seed}: {easy:.3f}, {chance:.3f}, {hard:.3f}"


def test_images_are_published_as_they_were_chosen(pool, tmp_path):
    made = choose(pool, tmp_path / "a", rded_factor=2)
    assert made.images.dtype == torch.uint8 and made.images.shape == (50, 1, 8, 8)
    assert torch.equal(made.images, made.initial)
    assert made.origin.shape == (50, 4) and len(set(made.origin.ravel().tolist())) == 200  # of all cells
    assert (torch.from_numpy(pool.train.labels[made.origin]) == made.labels[:, None]).all()
    assert torch.equal(choose(pool, tmp_path / "b", rded_factor=2).images, made.images)
    assert not torch.equal(choose(pool, tmp_path / "c", seed=1, rded_factor=2).images, made.images)


def test_fewer_images_are_the_first_of_more(pool, tmp_path):
    """At factor 1: an image is a rank."""
    few, many = choose(pool, tmp_path / "few", ipc=2), choose(pool, tmp_path / "many", ipc=5)
    assert torch.equal(few.images.view(10, 2, -1), many.images.view(10, 5, -1)[:, :2])


def test_a_class_that_goes_leaves_the_others_as_they_were(pool):
    """Class 0 loses its images, so that every other row has another number."""
    method = create_method("rded", rded_factor=2)
    shards = method.plan(10, 3).groups[0]
    rest = (pool.train.labels != 0).nonzero()[0]
    smaller = replace(pool, train=pool.train.subset(rest))
    for shard in shards[1:4]:
        whole, part = method.start(shard, pool), method.start(shard, smaller)
        assert torch.equal(whole.images, part.images) and whole.origin.tolist() == rest[part.origin].tolist()


def test_bf16_is_taken_where_asked_for_and_scores_nearly_the_same(pool):
    pieces, observer, cpu = pool.train.images()[:60], pool.observers[0].model, torch.device("cpu")
    single, half = (
        cross_entropy_of(pieces, 3, freeze(observer, precision), 8, cpu, precision) for precision in ("fp32", "bf16")
    )
    assert not torch.equal(single, half) and (single - half).abs().max() < 0.05 * single.abs().max()
    (start,) = create_method("rded").plan(1, 2).groups[0]
    assert create_method("rded").start(start, replace(pool, precision="bf16")).images.shape == (2, 1, 8, 8)


def test_published_datasets_have_their_protocol_and_others_the_small_one():
    method = create_method("rded")
    for dataset in PROTOCOLS:
        protocol = get_protocol(method.protocol(dataset)).resolve("resnet18", 10)
        assert protocol.regime == "online" and (protocol.shuffle == 1) == (protocol.crop is None)
    assert method.protocol("digits") == "small"


@pytest.mark.parametrize("name", preset_names("rded"))
def test_students_shuffle_as_many_strips_as_images_have_cells(name):
    preset = load_preset("rded", name, 10, "paper")
    protocol = get_protocol(preset.values["protocol"]).resolve("resnet18", 10)
    if protocol.name != "small":
        assert protocol.name == f"rded-{name}" and protocol.shuffle == preset.values["rded_factor"]
    create_method("rded", **{k: v for k, v in preset.values.items() if k.startswith("rded_")})
    assert set(preset.sources) == set(preset.values)


def test_settings_below_one_are_refused():
    with pytest.raises(ConfigError, match="rded_crops=0: expected 1 or more"):
        create_method("rded", rded_crops=0)
