"""DELT: who joins when, that nobody else moves, the start from the middle, and what it learns, with its gate failing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from hf_condense import create_method, shard_optimiser
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.models.embedding import embed
from hf_condense.models.schedules import multiplier
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.joining import JoiningStatistics, groups_of
from hf_condense.run.resolve import preset_names, resolve
from hf_condense.selection.realism import middling_images, outwards
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import CPU, member, observed, splits

FEW = {"iterations": 8, "rounds": 4, "lr": 0.1, "match_weight": 0.05, "shard_size": 40, "crop_min": 0.3}
KEY = Key(0, "delt")


@pytest.fixture(scope="module")
def given():
    return observed(1, ipc=4)


# --- who joins when -------------------------------------------------------------------------------------------------


def objective(given, classes: int, ipc: int, **settings):
    """An objective of `classes` x `ipc` images that has begun, and these images and labels."""
    method = create_method("delt", **{**FEW, **settings})
    labels = torch.arange(classes).repeat_interleave(ipc)
    images = torch.from_numpy((KEY / "images").uniform(len(labels), 1, 8, 8)).float()
    made = method.objective(given)
    made.start(method.plan(classes, ipc).optimised[0], images, labels, KEY)
    return made, images, labels


@pytest.mark.parametrize(
    ("ipc", "sizes", "joined"),
    [
        (10, [2, 2, 1, 1, 1, 1, 1, 1], {0: 2, 499: 2, 500: 4, 1000: 5, 3500: 10, 3999: 10}),
        (50, [7, 7, 6, 6, 6, 6, 6, 6], {0: 7, 500: 14, 3499: 44, 3500: 50}),
        (4, [1, 1, 1, 1, 0, 0, 0, 0], {0: 1, 1500: 4, 3999: 4}),  # the script goes on to the last step too
    ],
)
def test_groups_are_even_and_join_one_after_another(given, ipc, sizes, joined):
    assert groups_of(torch.zeros(ipc, dtype=torch.long), 8).bincount(minlength=8).tolist() == sizes
    made, _, labels = objective(given, 2, ipc, iterations=4000, rounds=8, shard_size=100)
    for step, count in joined.items():
        rows = made.joined(step)
        assert labels[rows].bincount().tolist() == [count, count]
        assert (rows % ipc < count).all(), "the first of a class, in the order in which they were picked"


def test_classes_may_be_mixed_in_a_shard_and_larger_than_it():
    assert groups_of(torch.tensor([1, 0, 1, 0, 1]), 2).tolist() == [0, 0, 0, 1, 1]
    shards = create_method("delt", shard_size=100).plan(7, 30).optimised
    assert [len(s.rows) for s in shards] == [90, 90, 30] and [len({*s.labels}) for s in shards] == [3, 3, 1]
    assert [len(s.rows) for s in create_method("delt", shard_size=10).plan(2, 15).optimised] == [10, 10, 10]


def test_one_round_makes_the_images_of_cda_on_the_same_shards(given, tmp_path):
    own = {**FEW, "init": "real", "roll": 2}
    mine = synthesise("delt", given, tmp_path / "a", **{**own, "rounds": 1})
    other = create_method("cda", **{name: value for name, value in own.items() if name != "rounds"})
    other.plan = create_method("delt", **own).plan
    assert torch.equal(Engine(Accelerator(cpu=True), tmp_path / "b").run(other, given).images, mine.images)
    assert not torch.equal(synthesise("delt", given, tmp_path / "c", **own).images, mine.images)


@pytest.mark.parametrize("step", [0, 3, 7])
def test_the_loss_of_a_step_is_that_of_the_images_that_have_joined(given, step):
    made, images, labels = objective(given, 3, 4)
    rows = made.joined(step)
    plain = FeatureStatistics(made.observers, made.statistics, made.settings, made.policy)
    plain.start(None, images[rows], labels[rows], KEY)
    x, y = images.clone().requires_grad_(True), images[rows].clone().requires_grad_(True)
    mine = sum(term.loss for term in made.terms(x, labels, step, KEY / step))
    other = sum(term.loss for term in plain.terms(y, labels[rows], step, KEY / step))
    assert mine.item() == other.item() and len(rows) == 3 * min(4, 1 + step // 2)
    mine.backward(), other.backward()
    torch.testing.assert_close(x.grad[rows], y.grad, rtol=0, atol=0)
    assert x.grad.flatten(1).any(1).sum() == len(rows)


def test_targets_of_classes_are_refused(given):
    made, *_ = objective(given, 2, 2)
    for wrong in ({"alpha": 0.5}, {"class_matching": "per_class"}, {"flatness_weight": 0.1}):
        with pytest.raises(ValueError, match="all data only"):
            JoiningStatistics(
                made.observers, made.statistics, replace(made.settings, **wrong), None, groups=2, every=1
            )


def test_what_cannot_be_is_refused():
    for wrong, message in (({"rounds": 0}, "rounds=0"), ({"iterations": 9}, "iterations=9.*multiple of 4 rounds")):
        with pytest.raises(ConfigError, match=message):
            create_method("delt", **{**FEW, **wrong})


# --- a synthesis ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Of each step: images before it, the number forwarded, gradient, rate, move of z and first moments of Adam."""
    seen, step, terms = [], shard_optimiser.ShardOptimiser.step, JoiningStatistics.terms

    def each(self, number):
        seen.append({"step": number, "images": self._unit(), "forward": 0})
        before, update = self.z.detach().clone(), self.optimiser.step

        def moved():
            grad = self.z.grad.clone()
            update()
            state = self.optimiser.state[self.z]
            rate = self.optimiser.param_groups[0]["lr"]
            seen[-1].update(grad=grad, rate=rate, move=self.z.detach() - before, moments=state["exp_avg"].clone())

        self.optimiser.step = moved
        return step(self, number)

    def parts(self, *given):
        def note(_, inputs):
            seen[-1]["forward"] += len(inputs[0])

        hooks = [m.register_forward_pre_hook(note) for m in self.observers]
        yield from terms(self, *given)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(shard_optimiser.ShardOptimiser, "step", each)
    monkeypatch.setattr(JoiningStatistics, "terms", parts)
    return seen


def waiting(number: int) -> torch.Tensor:
    """Rows of ten classes of four images that have not joined at a step of eight, of four rounds."""
    return torch.arange(40) % 4 > number // 2


def test_an_image_that_has_not_joined_stays_as_it_began_and_costs_nothing(given, tmp_path, watched):
    made = synthesise("delt", given, tmp_path, **FEW)
    for number, step in enumerate(watched):
        rows = waiting(number)
        assert torch.equal((step["images"][rows] * 255).round().byte(), made.initial[rows])
        assert not step["moments"][rows].any() and not step["move"][rows].any()
        assert step["moments"][~rows].flatten(1).any(1).all()
    assert sum(step["forward"] for step in watched) == 8 * 40 * 5 / 8  # T N (R + 1) / 2R


def test_the_first_move_of_a_late_image_is_longer_than_its_rate(given, tmp_path, watched):
    """Adam counts its steps for all rows; after many of them the factor is 0.5 / sqrt(0.1) = 1.5811."""
    synthesise("delt", given, tmp_path, **{**FEW, "iterations": 60, "lr": 1e-3})
    step = watched[45]
    late = waiting(5) & ~waiting(6)
    large = step["grad"][late].abs() > 1e-4
    assert large.any()
    moved = step["move"][late][large].abs().double()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5 / 0.1**0.5 * step["rate"]), rtol=5e-3, atol=0)


def test_a_run_that_stopped_between_two_groups_goes_on_to_the_same_bytes(given, tmp_path, watched):
    whole = synthesise("delt", given, tmp_path / "a", **FEW)
    watched.clear()
    again = stopped_and_resumed("delt", given, tmp_path / "b", 1, 3, **FEW)
    assert [step["step"] for step in watched] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert torch.equal(again.images, whole.images)
    resumed = watched[3]
    assert torch.equal((resumed["images"][waiting(3)] * 255).round().byte(), whole.initial[waiting(3)])


def test_the_last_round_has_a_three_hundredth_of_the_rates():
    mass = np.array([multiplier("cosine", step, 4000) for step in range(4000)])
    assert mass[3500:].sum() / mass.sum() == pytest.approx(0.0031968, abs=1e-7)
    assert mass[3500] == pytest.approx(0.03806, abs=1e-5)


def test_it_learns_fails_with_the_sign_flipped_and_later_groups_move_less(given, tmp_path):
    own = {**FEW, "iterations": 24, "match_weight": 0.0, "crop_min": None, "curriculum": "none", "mirror": False}

    def loss(images) -> float:
        with torch.no_grad():
            labels = torch.arange(10).repeat_interleave(4)
            return float(F.cross_entropy(given.observers[0].model(images / 255), labels))

    made = synthesise("delt", given, tmp_path / "a", **own)
    assert loss(made.images) < loss(made.initial) < loss(synthesise("delt", given, tmp_path / "b", -1, **own).images)
    away = (made.images.float() - made.initial).abs().mean((1, 2, 3)).view(10, 4).mean(0)
    assert (away[1:] < away[:-1]).all() and away[-1] > 0


def test_images_of_a_class_are_less_alike_than_those_of_cda(given, tmp_path):
    """In the features of a network that no part of the synthesis has seen."""
    other = member(7).model

    def alike(images) -> float:
        with torch.no_grad():
            rows = F.normalize(embed(other, images / 255) - embed(other, images / 255).mean(0), dim=1).view(10, 4, -1)
        return float((rows @ rows.mT).sum() - 40) / 120

    own = {**FEW, "iterations": 40, "lr": 0.2, "match_weight": 0.05, "crop_min": 0.5}
    early_late = synthesise("delt", given, tmp_path / "a", **own)
    together = synthesise("delt", given, tmp_path / "b", **{**own, "rounds": 1})
    assert torch.equal(early_late.initial, together.initial)
    assert alike(early_late.images) < alike(together.images)


# --- first images ---------------------------------------------------------------------------------------------------


def test_places_are_taken_from_the_middle_outwards():
    assert outwards(10).tolist() == [5, 6, 4, 7, 3, 8, 2, 9, 1, 0]
    assert outwards(5).tolist() == [3, 4, 2, 1, 0] and outwards(1).tolist() == [0]


def test_first_images_are_those_around_the_median_probability(given):
    train, model = splits().train, given.observers[0].model
    rows = train.rows_of(3)
    with torch.no_grad():
        images = centre(train.images(rows), 8).float() / 255
        chance = model(images).softmax(1)[:, 3]
    wanted = rows[chance.argsort(stable=True).numpy()][outwards(len(rows))]
    found = {n: middling_images(train, 3, n, model, size=8, device=CPU) for n in (3, len(rows))}
    assert found[len(rows)].tolist() == wanted.tolist() and found[3].tolist() == wanted[:3].tolist()
    method = create_method("delt")
    start = method.start(method.plan(10, 4).groups[0][3], given)
    assert start.origin.tolist() == wanted[:4].tolist()
    assert torch.equal(start.images, train.images(wanted[:4]))


def test_equal_probabilities_keep_the_order_of_rows(given):
    train, model = splits().train, given.observers[0].model
    blind = type(model)(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), num_classes=10, channels=1)
    torch.nn.init.zeros_(blind.backbone[1].weight)
    rows = train.rows_of(0)
    found = middling_images(train, 0, len(rows), blind, size=8, device=CPU)
    assert found.tolist() == rows[outwards(len(rows))].tolist()


# --- presets and protocols ------------------------------------------------------------------------------------------


def test_presets_and_students_hold_the_numbers_of_the_scripts():
    def no_facts(data):
        raise AssertionError

    found = resolve({"method": "delt", "dataset": "imagenet-1k", "ipc": 50}, no_facts)
    s = found.method
    assert (s.iterations, s.rounds, s.lr, s.match_weight, s.first_layer_weight) == (4000, 8, 0.25, 0.01, 10.0)
    assert (s.roll, s.crop_min, s.curriculum, s.milestone, s.init) == (0, 0.08, "cosine", 1.0, "medium")
    assert resolve({"method": "delt", "dataset": "imagenet-1k", "ipc": 1}, no_facts).method.rounds == 1
    student = get_protocol(found.evaluation.protocol).resolve("resnet18", 50)
    assert (student.crop, student.rand_augment, student.shuffle, student.epochs) == ((0.25, 1.0), (2, 18), 1, 300)
    for name in preset_names("delt"):
        dataset = name.split("-ipc")[0]
        known = resolve({"method": "delt", "dataset": dataset, "ipc": 10}, no_facts)
        own = create_method("delt").protocol(dataset)
        assert known.evaluation.protocol == own
