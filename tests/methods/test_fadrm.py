"""FADRM: the residual by itself, blocks and their borders, and what it learns on digits, with its gate failing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hf_condense import CondensationTrainer, create_method, shard_optimiser
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError, ModelError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.methods import method_info
from hf_condense.methods.base import Context
from hf_condense.objectives.residual import Blocks, ResidualStatistics
from hf_condense.run.resolve import preset_names, resolve
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import observed

FEW = {
    "iterations": 8,
    "lr": 0.1,
    "match_weight": 0.05,
    "shard_size": 10,
    "crop_min": 0.3,
    "roll": 2,
    "rded_candidates": 6,
}
SIXES = {**FEW, "blocks": 4, "small_side": 0.75}
LONG = {**FEW, "iterations": 24, "match_weight": 0.0, "crop_min": None, "roll": 0}
KEY = Key(0, "fadrm")


@pytest.fixture(scope="module")
def given() -> Context:
    return observed()


def numbers(*shape: int, name: str = "") -> torch.Tensor:
    return torch.from_numpy((KEY / name / str(shape)).uniform(*shape))


def residual(first: torch.Tensor, **blocks) -> ResidualStatistics:
    """The objective without observers, which has seen its first images."""
    made = object.__new__(ResidualStatistics)
    made.blocks, made.first = Blocks(**{"steps": 8, "sides": (8, 8, 8, 8), "alpha": 0.5, **blocks}), first
    return made


def after_all_borders(made: ResidualStatistics, images: torch.Tensor) -> torch.Tensor:
    for step in range(made.blocks.steps):
        images = made.revise(images, step, KEY) if made.revises(step) else images
    return images


# --- the residual by itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_first_images_stay_as_they_are(alpha):
    first = numbers(2, 1, 8, 8)
    torch.testing.assert_close(after_all_borders(residual(first, alpha=alpha), first), first, rtol=0, atol=1e-15)


def test_of_the_first_images_seven_eighths_stay():
    """What the card calls real pixels."""
    first = numbers(2, 1, 8, 8)
    kept = after_all_borders(residual(first), torch.zeros_like(first))
    torch.testing.assert_close(kept, 0.875 * first, rtol=0, atol=1e-15)
    kept = after_all_borders(residual(first, alpha=0.7), torch.zeros_like(first))
    torch.testing.assert_close(kept, (1 - 0.7**3) * first, rtol=0, atol=1e-15)
    assert all(method_info(name).real_pixels for name in ("fadrm", "fadrmplus"))


def test_a_blend_is_linear_and_the_same_in_any_units():
    x, y, p, q = (numbers(2, 1, 8, 8, name=name) for name in "xypq")
    own = {"sides": (8, 6, 8, 8), "resized": True}
    both = residual(p + q, **own).revise(x + y, 1, KEY)
    apart = residual(p, **own).revise(x, 1, KEY) + residual(q, **own).revise(y, 1, KEY)
    assert both.shape[-1] == 6
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-14)
    units = residual((p - 0.3) / 0.2, **own).revise((x - 0.3) / 0.2, 1, KEY)
    torch.testing.assert_close(units * 0.2 + 0.3, residual(p, **own).revise(x, 1, KEY), rtol=0, atol=1e-12)
    inside = residual(p).revise(x, 1, KEY)
    assert inside.min() >= 0 and inside.max() <= 1


def test_without_a_share_of_its_own_a_block_begins_as_the_first_images_did():
    first = numbers(2, 1, 8, 8)
    made = residual(first, alpha=0.0, sides=(6, 8, 6, 8), resized=True)
    found = made.revise(numbers(2, 1, 8, 8, name="other"), 3, KEY)
    torch.testing.assert_close(found, F.interpolate(first, size=(6, 6), mode="bilinear"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 1.2}, "alpha=1.2"), ({"blocks": 0}, "blocks=0"), ({"iterations": 9}, "iterations=9.*4 blocks"),
        ({"small_side": 0.0}, "small_side=0"), ({"init": "noise"}, "init='noise'.*--alpha 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        create_method("fadrm", **{**FEW, **wrong})
    create_method("fadrm", init="noise", alpha=1.0)


def test_the_last_block_has_the_whole_side():
    for blocks in (1, 2, 3, 4):
        settings = create_method("fadrm", iterations=12, blocks=blocks, small_side=0.75).settings
        sides = settings.in_blocks(8).sides
        assert sides == [8, 6, 8, 6, 8, 6, 8][-blocks:] and len(sides) == blocks
    assert create_method("fadrm", small_side=0.892857).settings.in_blocks(224).sides == [200, 224, 200, 224]


# --- blocks of a synthesis ------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """(images before, side that networks get, move of z, observers) of each step."""
    seen, step, terms = [], shard_optimiser.ShardOptimiser.step, ResidualStatistics.terms

    def each(self, number):
        before = self.z.detach().clone()
        seen.append({"images": self._unit(), "turn": self.objective.whose_turn()})
        update = self.optimiser.step

        def moved():
            update()
            seen[-1]["move"] = (self.z.detach() - before).abs()

        self.optimiser.step = moved
        return step(self, number)

    def parts(self, images, labels, number, key):
        hooks = [
            m.register_forward_pre_hook(lambda _, x: seen[-1].update(side=x[0].shape[-1])) for m in self.observers
        ]
        yield from terms(self, images, labels, number, key)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(shard_optimiser.ShardOptimiser, "step", each)
    monkeypatch.setattr(ResidualStatistics, "terms", parts)
    return seen


def test_one_block_makes_the_images_of_sre2lpp_and_two_the_same_up_to_their_border(given, tmp_path, watched):
    whole = synthesise("sre2lpp", given, tmp_path / "a", **FEW)
    plain = [step["images"] for step in watched]
    assert torch.equal(synthesise("fadrm", given, tmp_path / "b", **FEW, blocks=1).images, whole.images)
    watched.clear()
    synthesise("fadrm", given, tmp_path / "c", **FEW, blocks=2, alpha=1.0)
    equal = [torch.equal(mine["images"], other) for mine, other in zip(watched, plain)]
    torch.testing.assert_close(watched[4]["images"], plain[4], rtol=0, atol=1e-6)  # encoded once more
    assert all(equal[:4]) and not any(equal[5:])


@pytest.mark.parametrize(("resolution", "sides"), [("pixels", [6, 8, 6, 8]), ("views", [8, 8, 8, 8])])
def test_what_has_which_side(given, tmp_path, watched, resolution, sides):
    made = synthesise("fadrm", given, tmp_path, **SIXES, resolution=resolution)
    assert [step["images"].shape[-1] for step in watched] == [side for side in sides for _ in range(2)]
    assert [step["side"] for step in watched] == [6, 6, 8, 8, 6, 6, 8, 8]
    assert made.images.shape[-1] == 8 and not torch.equal(made.images, made.initial)


def test_rates_fall_without_a_break_turns_go_on_and_the_optimiser_forgets(given, tmp_path, watched):
    """Adam's first step moves every coordinate by its rate; a later one does not."""
    synthesise("fadrm", given, tmp_path, **{**SIXES, "lr": 1e-3, "alpha": 1.0, "crop_min": None})
    assert [step["turn"] for step in watched] == [[t % 2] for t in range(8)]
    for number, step in enumerate(watched):
        rate = 1e-3 / 2 * (1 + math.cos(math.pi * number / 8))
        exact = float(((step["move"] - rate).abs() < 0.01 * rate).double().mean())
        assert exact > 0.9 if number % 2 == 0 else exact < 0.5, (number, exact)


def test_a_network_that_takes_one_side_alone_is_refused_before_any_work(given, tmp_path):
    with pytest.raises(ModelError, match="base_model='convnet_bn_w32'.*takes 6 px.*--small_side 1"):
        CondensationTrainer("fadrm", "digits", base_model="convnet_bn_w32", output_dir=str(tmp_path), **SIXES)


@pytest.mark.parametrize("resolution", ["pixels", "views"])
def test_a_run_that_stopped_in_a_small_block_goes_on_to_the_same_bytes(given, tmp_path, resolution):
    whole = synthesise("fadrm", given, tmp_path / "whole", **SIXES, resolution=resolution)
    for every, stop_at in ((5, 1), (1, 4)):
        again = stopped_and_resumed(
            "fadrm", given, tmp_path / str(every), stop_at, every, **SIXES, resolution=resolution
        )
        assert torch.equal(again.images, whole.images)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_it_learns_stays_near_its_crops_and_fails_with_the_sign_flipped(given, tmp_path):
    def loss(images) -> float:
        labels = torch.arange(10)
        with torch.no_grad():
            return sum(float(F.cross_entropy(m.model(images / 255), labels)) for m in given.observers)

    made = synthesise("fadrm", given, tmp_path / "a", **LONG)
    assert loss(made.images) < loss(made.initial)
    flipped = synthesise("fadrm", given, tmp_path / "b", sign=-1, **LONG)
    assert loss(flipped.images) > loss(made.initial)
    plain = synthesise("sre2lpp", given, tmp_path / "c", **LONG)
    moved = [(one.images.float() - made.initial).abs().mean() for one in (made, plain)]
    assert torch.equal(plain.initial, made.initial) and moved[0] < 0.8 * moved[1]


# --- presets and protocols ------------------------------------------------------------------------------------------

PUBLISHED = {
    "cifar100": {"roll": 4, "shard_size": 100, "small_side": 1.0}, "tiny-imagenet": {"roll": 4, "shard_size": 100},
    "imagenet-1k": {"roll": 32, "shard_size": 100, "small_side": 0.892857},
    "imagenette": {"roll": 32, "shard_size": 10, "small_side": 0.892857},
    "imagewoof": {"roll": 32, "shard_size": 10, "small_side": 0.892857},
}  # fmt: skip
SHARED = {"iterations": 2000, "blocks": 4, "lr": 0.25, "match_weight": 0.01, "alpha": 0.5, "init": "patches"}


def settings_of(method: str, dataset: str, ipc: int):
    def no_facts(data):
        raise AssertionError

    return resolve({"method": method, "dataset": dataset, "ipc": ipc}, no_facts)


@pytest.mark.parametrize("dataset", PUBLISHED)
@pytest.mark.parametrize("method", ["fadrm", "fadrmplus"])
def test_presets_hold_the_numbers_of_the_scripts(method, dataset):
    config = settings_of(method, dataset, 10)
    wanted = {**SHARED, **PUBLISHED[dataset]}
    assert {name: getattr(config.method, name) for name in wanted} == wanted
    assert len(config.squeeze.base_model) == (1 if method == "fadrm" else 4)
    assert config.evaluation.protocol == create_method(method).protocol(dataset)
    get_protocol(config.evaluation.protocol).resolve("resnet18", 10)


def test_single_networks_take_shorter_steps_at_fifty_images_of_two_datasets():
    found = settings_of("fadrm", "tiny-imagenet", 50).method
    assert (found.iterations, found.blocks, found.lr) == (1000, 2, 0.01)
    assert settings_of("fadrm", "imagenette", 50).method.lr == 0.05
    assert settings_of("fadrmplus", "tiny-imagenet", 50).method.lr == 0.25
    assert {name for name in preset_names("fadrm") if "-ipc" in name} == {"tiny-imagenet-ipc50", "imagenette-ipc50"}


def test_students_have_the_rates_of_the_scripts():
    found = get_protocol("fadrm-in1k").resolve("resnet101", 1)
    assert (found.lr, found.schedule_params, found.epochs, found.accumulation) == (3.5e-3, {"zeta": 2.0}, 300, 2)
    found = get_protocol("fadrm-cifar100").resolve("cifar_resnet18", 50)
    assert (found.lr, found.schedule_params["zeta"], found.epochs, found.batch) == (1e-3, 1.0, 1000, 16)
    assert get_protocol("fadrm-tiny").resolve("resnet50", 1).epochs == 1000
    assert (get_protocol("fadrm-tiny").teacher_bn, get_protocol("fadrm-plus-tiny").teacher_bn) == ("running", "batch")
    assert get_protocol("fadrm-plus-imagewoof").resolve("resnet18", 10).batch == 16
    with pytest.raises(ConfigError, match="lr for resnet101"):
        get_protocol("fadrm-imagenette").resolve("resnet101", 10)
