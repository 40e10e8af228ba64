"""DiRe's term by hand, in the loss of every objective of the family, and what it does to features, with its gate failing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hf_condense import create_method
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.models.embedding import embed
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.diversity import Diversity
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import CPU, observed

KEY = Key(0, "diversity")
FEW = {"iterations": 6, "lr": 0.1, "match_weight": 0.05, "shard_size": 40, "crop_min": None, "roll": 0}
FAR = {**FEW, "diversity_weight": 2.0, "diversity_images": 8}


@pytest.fixture(scope="module")
def given():
    return observed(2, ipc=4)


def numbers(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy((KEY / name).uniform(*shape)) - 0.3


def term(features, labels, real, weight: float = 1.0, distance: float = 0.01, observer: int = 0):
    made = Diversity([real, real + 1], weight, distance)
    made.start(labels, features)
    return made(observer, features, made.groups(labels, CPU))


def test_it_is_the_sum_of_its_parts_class_by_class():
    labels = torch.tensor([2, 0, 2, 0, 2, 3])
    features, real = numbers("features", 6, 5), numbers("real", 4, 7, 5)
    total = 0.0
    for c in (0, 2, 3):
        own = features[labels == c]
        pairs = [abs(F.cosine_similarity(a, b, dim=0)) for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
        total += sum(pairs) / len(own) ** 2
        across = [(1 - F.cosine_similarity(a, b, dim=0), (a - b).norm()) for a in own for b in real[c]]
        total += sum(cosine + 0.01 * far for cosine, far in across) / len(across)
    torch.testing.assert_close(term(features, labels, real), total, rtol=1e-10, atol=0)
    torch.testing.assert_close(term(features, labels, real, weight=0.3), 0.3 * total, rtol=1e-10, atol=0)
    assert term(features, labels, real, observer=1) != total, "each observer has real features of its own"


def test_images_alike_cost_more_and_images_of_their_class_less():
    labels, real = torch.zeros(2, dtype=torch.long), torch.eye(4, dtype=torch.float64)[None, :2]
    alike, apart = torch.tensor([[1.0, 0, 0, 0]] * 2).double(), torch.eye(4, dtype=torch.float64)[:2]
    away = torch.eye(4, dtype=torch.float64)[2:]
    losses = [float(term(x, labels, real, distance=0.0)) for x in (apart, alike, away)]
    assert losses == pytest.approx([0.5, 1.0, 1.0])
    assert float(term(apart, labels, real, distance=1.0)) == pytest.approx(0.5 + 2**0.5 / 2)


def loss_of(method: str, given, **settings):
    """Loss and gradient of the first step, and the features that the observer of the step sees."""
    made = create_method(method, **{**FEW, "mirror": False, **settings})
    shard = made.plan(10, 4).optimised[0]
    images = torch.from_numpy((KEY / "images").uniform(len(shard.rows), 1, 8, 8)).float()
    labels, x = torch.tensor(shard.labels), images.clone().requires_grad_(True)
    ready = made.ready(shard, given, None)
    objective = made.objective(given, ready)
    objective.start(shard, images, labels, KEY)
    parts = list(objective.terms(x, labels, 0, KEY))
    sum(part.loss for part in parts).backward()
    return sum(float(part.loss.detach()) for part in parts), x, labels, ready, parts


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("sre2l", {}), ("cda", {"crop_min": 1.0}), ("sre2lpp", {}), ("fadrm", {"blocks": 2}), ("cvdd", {"voters": 1}),
        ("dwa", {"rho": 0.0}), ("teddy", {}), ("wmdd", {"points_weight": 0.0}),
    ],
)  # fmt: skip
def test_the_whole_family_adds_it_to_its_loss(given, method, own):
    alone = replace(given, observers=given.observers[:1], statistics=given.statistics[:1])
    if method == "wmdd":  # matches classes
        request = create_method(method).statistics(alone)
        models = [m.model for m in alone.observers]
        found = collect_statistics(models, given.train, None, request.patch, KEY, CPU, kinds=request.kinds)
        alone = replace(alone, statistics=found)
    own = {**own, "match_weight": 0.0}
    plain, with_it = loss_of(method, alone, **own), loss_of(method, alone, **own, diversity_weight=0.5)
    _, x, labels, ready, parts = with_it
    real = (ready[1] if method == "wmdd" else ready)[0]
    assert real.shape[:2] == (10, 20), "all images of a class where it has fewer than are asked for"
    order = labels.argsort(stable=True)  # a method may see its rows by class
    features = embed(alone.observers[0].model, x.detach()[order])
    wanted = float(term(features, labels[order], real, weight=0.5))
    assert with_it[0] - plain[0] == pytest.approx(wanted, rel=1e-3)
    assert float(parts[0].logs["diversity"]) == pytest.approx(wanted, rel=1e-3)
    assert not torch.equal(x.grad, plain[1].grad) and (plain[3] in (None, (None, None)))


def test_late_images_are_apart_from_those_that_have_joined_alone(given):
    made = create_method("delt", **{**FEW, "iterations": 8, "rounds": 4, "crop_min": 1.0, "diversity_weight": 1.0})
    shard = made.plan(10, 4).optimised[0]
    images, labels = torch.rand(40, 1, 8, 8), torch.tensor(shard.labels)
    ready = made.ready(shard, given, None)
    objective = made.objective(given, ready)
    objective.start(shard, images, labels, KEY)
    for step in (0, 3, 7):
        logs = next(iter(objective.terms(images, labels, step, KEY / step))).logs
        rows = objective.joined(step)
        view = objective.look(images[rows], step, KEY / step)(images[rows])
        wanted = term(embed(given.observers[0].model, view), labels[rows], ready[0])
        assert float(logs["diversity"]) == pytest.approx(float(wanted), rel=1e-4)


def test_images_of_a_class_part_and_come_together_with_the_sign_flipped(given, tmp_path):
    def alike(images) -> float:
        units = F.normalize(embed(given.observers[0].model, images / 255), dim=1).detach().view(10, 4, -1)
        return float((units @ units.mT).mean())

    made = synthesise("sre2l", given, tmp_path / "a", **FAR, init="real")
    plain = synthesise("sre2l", given, tmp_path / "b", **{**FAR, "diversity_weight": 0.0}, init="real")
    flipped = synthesise("sre2l", given, tmp_path / "c", -1, **FAR, init="real")
    assert alike(made.images) < alike(plain.images) and alike(made.images) < alike(flipped.images)
    again = stopped_and_resumed("sre2l", given, tmp_path / "d", 1, 2, **FAR, init="real")
    assert torch.equal(again.images, made.images)


@pytest.mark.parametrize("wrong", [{"match": "gradient"}, {"stacked": True}])
def test_where_nothing_reads_features_it_is_refused(wrong):
    with pytest.raises(ConfigError, match="diversity_weight=0.1"):
        create_method("teddy", diversity_weight=0.1, **wrong)
