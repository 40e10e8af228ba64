"""CV-DD: who votes, with which weight, and one voter being SRe2L++."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from hf_condense import CondensationTrainer, DistilledDataset, create_method, load_teacher
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.objectives.committee import prior_weights, voters_of
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import observed

FEW = {
    "iterations": 4,
    "lr": 0.1,
    "match_weight": 0.05,
    "shard_size": 10,
    "crop_min": 0.3,
    "roll": 2,
    "rded_candidates": 6,
}
KEY = Key(0, "cvdd")


@pytest.fixture(scope="module")
def given():
    return observed()


@pytest.fixture(scope="module")
def three():
    return observed(3, ipc=2)


def test_weights_are_those_of_the_paper():
    assert prior_weights((56.4, 40.6), 5) == pytest.approx((0.959301, 0.040699), abs=1e-6)
    assert prior_weights((46.5, 28.3), 5) == pytest.approx((0.974419, 0.025581), abs=1e-6)
    one, two, three = prior_weights((50, 60, 55), 5)
    assert prior_weights((60, 55, 50), 5) == pytest.approx((two, three, one))
    assert prior_weights((7.0,) * 4, 5) == [0.25] * 4


def test_every_pair_votes_once_in_ten_shards_and_five_times_in_fifty():
    found = [voters_of(turn, 5, 2, KEY) for turn in range(50)]
    assert found[:10] == list(combinations(range(5), 2))
    assert all(sum(k in pair for pair in found[:10]) == 4 for k in range(5))
    assert all(found.count(pair) == 5 for pair in combinations(range(5), 2))
    assert found[10:20] != found[:10] and found == [voters_of(turn, 5, 2, KEY) for turn in range(50)]
    assert found[:3] == [(0, 1), (0, 2), (0, 3)]


def test_a_shard_knows_its_voters(three):
    method = create_method("cvdd", **FEW, priors=(50.0, 60.0, 55.0))
    shards = method.plan(10, 2).optimised
    assert [method.committee(shard, three)[0] for shard in shards] == [[0, 1], [0, 2]]
    assert method.committee(shards[1], three)[1] == prior_weights((50, 55), 5)
    single = create_method("cvdd", **FEW, priors=(50.0, 60.0, 55.0)).plan(10, 1).optimised[0]
    assert method.committee(single, replace(three, ipc=1))[0] == [1, 2], "those of the largest priors"


def test_one_voter_of_one_observer_is_sre2lpp(given, tmp_path):
    alone = replace(given, observers=given.observers[:1], statistics=given.statistics[:1])
    plain = synthesise("sre2lpp", alone, tmp_path / "a", **FEW)
    assert torch.equal(synthesise("cvdd", alone, tmp_path / "b", **FEW, voters=1).images, plain.images)


@pytest.mark.parametrize("priors", [None, (40.0, 50.0, 45.0)])
def test_all_voters_together_are_the_weighted_mean_of_single_ones(three, priors):
    images, labels = torch.rand(10, 1, 8, 8), torch.arange(10)
    shard = create_method("cvdd", **FEW).plan(10, 1).optimised[0]

    def step(method, context):
        objective, x = method.objective(context), images.clone().requires_grad_(True)
        objective.start(shard, x.detach(), labels, KEY)
        losses = [term.loss for term in objective.terms(x, labels, 0, KEY)]
        sum(losses).backward()
        return float(sum(losses).detach()), x.grad

    every = create_method("cvdd", **FEW, voters=3, priors=priors)
    loss, gradient = step(every, replace(three, ipc=1))
    parts = []
    for k in range(3):
        alone = replace(three, observers=three.observers[k : k + 1], statistics=three.statistics[k : k + 1], ipc=1)
        parts.append(step(create_method("cvdd", **FEW, voters=1), alone))
    weights = prior_weights(priors or (0.0,) * 3, 5)
    assert loss == pytest.approx(sum(w * part for w, (part, _) in zip(weights, parts)), rel=1e-5)
    torch.testing.assert_close(gradient, sum(w * grad for w, (_, grad) in zip(weights, parts)), rtol=1e-4, atol=1e-6)


def test_the_voters_of_a_resumed_shard_are_the_same(three, tmp_path):
    whole = synthesise("cvdd", three, tmp_path / "a", **FEW)
    assert torch.equal(stopped_and_resumed("cvdd", three, tmp_path / "b", 3, 1, **FEW).images, whole.images)


def test_it_learns_and_fails_with_the_sign_flipped(three, tmp_path):
    def loss(images) -> float:
        labels = torch.arange(10).repeat_interleave(2)
        with torch.no_grad():
            return sum(float(nn.functional.cross_entropy(m.model(images / 255), labels)) for m in three.observers)

    long = {**FEW, "iterations": 12, "match_weight": 0.0, "crop_min": None, "roll": 0}
    made = synthesise("cvdd", three, tmp_path / "a", **long)
    assert loss(made.images) < loss(made.initial) < loss(synthesise("cvdd", three, tmp_path / "b", -1, **long).images)


def test_what_cannot_be_is_refused(given):
    for wrong, message in (({"voters": 3}, "voters=3.*at most 2"), ({"priors": (50.0,)}, "priors.*2 numbers")):
        with pytest.raises(ConfigError, match=message):
            create_method("cvdd", **{**FEW, **wrong}).objective(given)


def test_labels_are_weighted_by_the_priors_and_the_record_says_how(tmp_path):
    run = CondensationTrainer(
        "cvdd", "digits", output_dir=str(tmp_path), ipc=1, max_per_class=12, max_test=20, classes="0,1,2", priors=(40.0, 60.0),
        base_model="convnet_d1,convnet_d2", squeeze_epochs=1, min_top1_over_chance=0.0, threads=1, precision="fp32", iterations=2,
        regimes="online,stored", protocol="small", student_epochs=1, student_seeds=1, students="convnet_d1", baselines="random",
        rded_candidates=6,
    )  # fmt: skip
    data = DistilledDataset.load(run.run())
    weights = prior_weights((40, 60), 10)
    assert data.content["soft_label"]["weights"] == pytest.approx(weights)
    one, two = (member.model(data.images / 255) for member in run.pool())
    wanted = (weights[0] * one + weights[1] * two).softmax(1)
    torch.testing.assert_close(data.soft_labels.float(), wanted, rtol=0, atol=1e-3)
    assert load_teacher(data).weights == pytest.approx(weights)
    assert data.store.settings["teacher"]["weights"] == pytest.approx(weights)
