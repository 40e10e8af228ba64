"""Distribution matching: zero for equal sets, the class loop's loss, blind to order and to how classes are cut."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plain_matching import plain_distribution
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy
from hf_condense.errors import ConfigError
from hf_condense.objectives import distribution_matching as matching
from hf_condense.objectives.distribution_matching import DistributionMatching
from hf_condense.selection import sampler as module
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.sampler import CentresSampler, SamplerSettings
from tests.matching import CPU, Given, digits, networks

KEY = Key(0, "test")
POLICY = SiamesePolicy(FAMILIES)


def everything(source, ipc: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [r for c in range(source.num_classes) for r in source.rows_of(c)[:ipc]]
    return source.images(rows).float() / 255, torch.from_numpy(source.labels[rows])


def made(source, real_batch=16, policy=POLICY, name="convnet_d1") -> DistributionMatching:
    return DistributionMatching(networks(source, name), PairedViews(source, policy, CPU), KEY, real_batch)


def loss_and_slope(objective, images, labels, step=0, shard_key=KEY) -> tuple[float, torch.Tensor]:
    images = images.clone().requires_grad_(True)
    objective.start(None, images, labels, shard_key)
    loss = 0.0
    for term in objective.terms(images, labels, step, shard_key / step):
        term.loss.backward()
        loss += float(term.loss.detach())
    return loss, images.grad


def test_equal_sets_under_the_same_draw_are_at_distance_zero():
    source = digits(20)
    images, labels = everything(source, 20)  # all real images; a batch of more than there are takes them all
    objective = made(source, real_batch=64)
    for step in range(6):
        loss, slope = loss_and_slope(objective, images, labels, step)
        assert loss < 1e-7 and float(slope.abs().max()) < 1e-4
    assert loss_and_slope(objective, images.flip(0), labels)[0] > 0.01


@pytest.mark.parametrize("policy", [None, POLICY])
def test_all_classes_at_once_equal_the_class_loop(policy):
    source = digits()
    images, labels = everything(source, 3)
    objective = made(source, policy=policy)
    for step in range(4):
        loss, slope = loss_and_slope(objective, images, labels, step)
        key, plain = KEY / "step" / step, images.clone().requires_grad_(True)
        network, draw = objective.fresh(KEY / "network" / step), objective.views.draw(key / "siamese")
        known = plain_distribution(network, objective.views, plain, labels, draw, 16, key / "real")
        known.backward()
        assert loss == pytest.approx(known.item(), rel=1e-4)
        assert torch.allclose(slope, plain.grad, rtol=1e-4, atol=1e-5 * float(plain.grad.abs().max()))


def test_order_inside_a_class_and_the_cut_into_shards_change_nothing():
    source = digits()
    images, labels = everything(source, 4)
    loss, slope = loss_and_slope(made(source), images, labels, 1)
    order = torch.arange(40).view(10, 4).flip(1).flatten()
    turned, turned_slope = loss_and_slope(made(source), images[order], labels, 1)
    assert turned == pytest.approx(loss, rel=1e-4)
    assert torch.allclose(turned_slope, slope[order], atol=1e-5 * float(slope.abs().max()))
    parts = [
        loss_and_slope(made(source), images[a:b], labels[a:b], 1, Key(i))
        for i, (a, b) in enumerate([(0, 12), (12, 40)])
    ]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-4)
    assert torch.allclose(torch.cat([part[1] for part in parts]), slope, atol=1e-5 * float(slope.abs().max()))


def test_terms_are_of_few_classes_and_make_the_same_sum(monkeypatch):
    """Ten classes of 4 images: two terms of 20; what is logged is the mean over classes either way."""
    source = digits()
    images, labels = everything(source, 4)
    found = {}
    for most in (32, 40):
        monkeypatch.setattr(matching, "TERM", most)
        objective = made(source)
        objective.start(None, images, labels, KEY)
        terms = list(objective.terms(images, labels, 1, KEY))
        assert len(terms) == {32: 2, 40: 1}[most]
        logged = torch.stack([term.logs["distribution"] for term in terms]).mean()
        found[most] = logged, loss_and_slope(objective, images, labels, 1)[1]
    torch.testing.assert_close(found[32], found[40], rtol=1e-4, atol=1e-5 * float(found[40][1].abs().max()))


def test_images_that_do_not_count_alike_have_the_weighted_mean():
    """One image after another, in float64; batches of three sizes, one of them without weights."""
    source = digits()
    images, labels = everything(source, 2)
    images = images.double()
    rows = {c: source.rows_of(c)[: 3 + c % 3] for c in range(10)}
    weights = {c: torch.arange(1.0, 4 + c % 3) / (6, 10, 15)[c % 3] for c in range(10) if c != 4}
    objective = made(source, policy=None)
    network = networks(source)(KEY).double()
    objective.fresh, objective.sampler = lambda key: network, Given(rows, weights)
    at = objective.views.at
    objective.views.at = lambda rows: at(rows).double()

    def feature(image: torch.Tensor) -> torch.Tensor:
        return network.backbone.forward_features((image[None] - network.mean) / network.std).flatten()

    known = 0.0
    with torch.no_grad():
        for c in range(10):
            shares = weights[c].double().tolist() if c in weights else [1 / 4.0] * 4
            real = sum(w * feature(image.double()) for w, image in zip(shares, at(rows[c])))
            known += float((real - (feature(images[2 * c]) + feature(images[2 * c + 1])) / 2).square().sum())
    loss, slope = loss_and_slope(objective, images, labels)
    assert loss == pytest.approx(known, rel=1e-6) and slope.dtype == torch.float64  # weights are float32
    objective.sampler.shares = {}
    assert loss_and_slope(objective, images, labels)[0] != pytest.approx(known, rel=1e-3)


def test_picks_hold_for_some_steps_and_do_not_hang_on_the_other_classes(monkeypatch):
    """Nor on how many images are embedded together, batch norms or not. They are made in the network of their step."""
    source = digits()
    images, labels = everything(source, 2)
    settings = SamplerSettings(sampler="centres", real_batch=8, cluster_every=3)

    def rows(name: str, some: torch.Tensor, steps: range) -> list[list[int]]:
        objective = made(source, name=name)
        objective.sampler = CentresSampler(objective.views, KEY / "sampler", settings)
        found = []
        for step in steps:
            objective.start(None, images[some], labels[some], KEY / str(len(some)))
            if name == "convnet_d1" or len(some) == 20:
                list(objective.terms(images[some].requires_grad_(True), labels[some], step, KEY / step))
            else:  # a part of the classes is refused, but not before the picks are made
                with pytest.raises(ConfigError, match="classes_per_shard"):
                    list(objective.terms(images[some].requires_grad_(True), labels[some], step, KEY / step))
            found.append(objective.sampler.rows(7).tolist())
        return found

    for name in ("convnet_d1", "convnet_bn_w32"):
        whole = rows(name, torch.arange(20), range(7))
        with monkeypatch.context() as patch:
            patch.setattr(module, "EMBED_BATCH", 16)
            part = rows(name, torch.arange(12, 18), range(7))
        assert whole == part and len({tuple(picks) for picks in whole}) == 3
        assert whole[0] == whole[2] != whole[3] == whole[5] != whole[6]


def test_random_batches_need_no_sampler_and_nothing_to_remember():
    objective = made(digits())
    assert objective.sampler is None and objective.state_dict() == {}


def test_every_step_has_its_own_network_and_batches():
    source = digits()
    images, labels = everything(source, 2)
    objective = made(source)
    found = [loss_and_slope(objective, images, labels, step)[0] for step in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


def test_batch_norms_see_all_classes_or_refuse():
    source = digits()
    images, labels = everything(source, 2)
    objective = made(source, name="convnet_bn_w32")
    loss, slope = loss_and_slope(objective, images, labels)
    assert loss > 0 and bool(slope.isfinite().all())
    with pytest.raises(ConfigError, match="classes_per_shard"):
        loss_and_slope(objective, images[:10], labels[:10])


def test_bf16_features_are_near():
    source = digits()
    images, labels = everything(source, 2)
    objective = made(source)
    exact = loss_and_slope(objective, images, labels)[0]
    objective.precision = "bf16"
    assert loss_and_slope(objective, images, labels)[0] == pytest.approx(exact, rel=0.05)
