"""WMDD: its loss by hand, its shards, and what it does to features on digits, with its gate failing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.randomness import Key
from hf_condense.errors import DataError
from hf_condense.models.embedding import embed
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.barycentre import BarycentreStatistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import Shard
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import CPU, observed, splits

FEW = {"iterations": 4, "lr": 0.1, "match_weight": 0.01, "shard_size": 20, "crop_min": None, "roll": 0}
KEY = Key(0, "wmdd")


@pytest.fixture(scope="module")
def given():
    """With statistics of each class, as its run measures them."""
    one = observed(1, ipc=2)
    request = create_method("wmdd", **FEW).statistics(one)
    models = [m.model for m in one.observers]
    found = collect_statistics(models, splits().train, request.policy, request.patch, KEY, CPU, kinds=request.kinds)
    return replace(one, statistics=found)


def block(given, classes: int = 3, **settings):
    """An objective that has begun, its images and labels, and the features that it sees without a view."""
    method = create_method("wmdd", **{**FEW, "mirror": False, **settings})
    shard = Shard("s", "optimise", tuple(range(2 * classes)), tuple(c for c in range(classes) for _ in range(2)))
    images = torch.from_numpy((KEY / "images").uniform(2 * classes, 1, 8, 8)).float()
    labels = torch.tensor(shard.labels)
    features = embed(given.observers[0].model, images).detach()
    return method, shard, images, labels, features


def loss_and_gradient(objective, shard, images, labels):
    x = images.clone().requires_grad_(True)
    objective.start(shard, images, labels, KEY)
    total = sum(term.loss for term in objective.terms(x, labels, 0, KEY))
    total.backward()
    return float(total.detach()), x.grad


def test_features_on_their_points_cost_nothing_and_others_their_distance(given):
    alone = {"match_weight": 0.0, "ce_weight": 0.0}
    method, shard, images, labels, features = block(given, **alone)
    loss, gradient = loss_and_gradient(method.objective(given, (features, None)), shard, images, labels)
    assert loss < 1e-5 and gradient.abs().max() < 1e-3
    away = torch.arange(6.0)[:, None] / 3 + features
    loss, _ = loss_and_gradient(method.objective(given, (away, None)), shard, images, labels)
    assert loss == pytest.approx(float((features - away).norm()), rel=1e-4)
    single = block(given, **alone, feature_norm="image")[0]
    loss, _ = loss_and_gradient(single.objective(given, (away, None)), shard, images, labels)
    assert loss == pytest.approx(float((features - away).norm(dim=1).mean()), rel=1e-4)


def test_classes_are_apart_in_statistics_and_joined_by_the_norm_of_a_block(given):
    def gradient_of_class_0(other: float, **settings) -> torch.Tensor:
        method, shard, images, labels, features = block(given, ce_weight=0.0, **settings)
        images[2:] *= other
        objective = method.objective(given, (torch.zeros_like(features), None))
        return loss_and_gradient(objective, shard, images, labels)[1][:2]

    for settings, joined in (
        ({"points_weight": 0.0}, False),
        ({"match_weight": 0.0}, True),
        ({"match_weight": 0.0, "feature_norm": "image"}, False),
    ):
        apart = (gradient_of_class_0(1.0, **settings) - gradient_of_class_0(0.2, **settings)).abs().max()
        assert (float(apart) > 1e-6) is joined, settings


def test_class_statistics_are_the_mean_over_classes(given):
    method, shard, images, labels, _ = block(given, points_weight=0.0, ce_weight=0.0, match_weight=1.0)
    whole, _ = loss_and_gradient(method.objective(given), shard, images, labels)
    parts = []
    for c in range(3):
        rows = slice(2 * c, 2 * c + 2)
        one = Shard("s", "optimise", (2 * c, 2 * c + 1), (c, c))
        parts.append(loss_and_gradient(method.objective(given), one, images[rows], labels[rows])[0])
    assert whole == pytest.approx(sum(parts) / 3, rel=1e-5)


def test_without_points_it_is_the_statistics_of_its_family(given):
    method, shard, images, labels, _ = block(given, points_weight=0.0)
    objective = method.objective(given)
    plain = FeatureStatistics(
        [m.model for m in given.observers], given.statistics, method.settings.matching(), objective.policy
    )
    mine, other = (loss_and_gradient(one, shard, images, labels) for one in (objective, plain))
    assert isinstance(objective, BarycentreStatistics) and mine[0] == other[0] and torch.equal(mine[1], other[1])


def test_classes_are_never_cut():
    shards = create_method("wmdd", shard_size=10).plan(7, 3).optimised
    assert [len({*shard.labels}) for shard in shards] == [3, 3, 1] and [len(s.rows) for s in shards] == [9, 9, 3]
    assert len(create_method("wmdd", shard_size=10).plan(3, 20).optimised) == 3


@pytest.mark.parametrize("points", ["balanced", "kmeans"])
def test_it_draws_features_to_the_points_and_fails_with_the_sign_flipped(given, tmp_path, points):
    own = {**FEW, "iterations": 12, "points": points, "init": "medoids"}
    method = create_method("wmdd", **own)
    shard = method.plan(10, 2).optimised[0]
    aims = method.ready(shard, given, None)[0]

    def away(images) -> float:
        with torch.no_grad():
            return float((embed(given.observers[0].model, images / 255) - aims).norm())

    made = synthesise("wmdd", given, tmp_path / "a", **own)
    flipped = synthesise("wmdd", given, tmp_path / "b", -1, **own)
    assert (made.origin >= 0).all() and len({*made.origin.tolist()}) == 20
    assert away(made.images) < away(made.initial) < away(flipped.images)


def test_a_resumed_shard_ends_as_a_whole_one(given, tmp_path):
    whole = synthesise("wmdd", given, tmp_path / "a", **FEW)
    assert torch.equal(stopped_and_resumed("wmdd", given, tmp_path / "b", 2, 1, **FEW).images, whole.images)


def test_a_class_needs_an_image_for_each_point(given):
    with pytest.raises(DataError, match="ipc=1000"):
        create_method("wmdd").check(replace(given, ipc=1000))


def test_images_cover_the_real_features_better_and_are_further_apart_than_those_of_sre2l(tmp_path):
    """From the same noise in as many steps, in a network that knows the classes: not one image of a class four times."""
    trained = CondensationTrainer(
        "wmdd", "digits", output_dir=str(tmp_path / "run"), ipc=4, max_per_class=60, max_test=100, base_model="convnet_bn_w32",
        squeeze_epochs=5, squeeze_lr=0.05, threads=1, precision="fp32",
    ).prepare()  # fmt: skip
    model, train = trained.observers[0].model, trained.train
    with torch.no_grad():
        real = [embed(model, train.images(train.rows_of(c)).float() / 255) for c in range(10)]

    @torch.no_grad()
    def seen(images) -> torch.Tensor:
        return embed(model, images / 255).view(10, 4, -1)

    def uncovered(images) -> float:
        return sum(float(torch.cdist(r, s).min(1).values.mean()) for r, s in zip(real, seen(images)))

    def spread(images) -> float:
        return sum(float(torch.pdist(s).mean()) for s in seen(images))

    own = {**FEW, "shard_size": 40, "iterations": 60}
    made, plain = (synthesise(name, trained, tmp_path / name, **own).images for name in ("wmdd", "sre2l"))
    flipped = synthesise("wmdd", trained, tmp_path / "flipped", -1, **{**own, "iterations": 10}).images
    assert uncovered(made) < 0.7 * uncovered(plain) and uncovered(made) < uncovered(flipped)
    assert spread(made) > spread(plain)
