"""Densification: its closed form, when it is zero, that it can be minimised, that its state survives, that it speaks."""

import copy
import logging
from dataclasses import replace
from itertools import pairwise
from math import exp, log

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.densification import (
    SIDE,
    Densification,
    DensifiedStatistics,
    densification,
)
from hf_condense.objectives.diversity import class_groups
from hf_condense.plan import Shard
from tests.objectives.test_feature_statistics import CPU, KEY, PLAIN, Net, Recorded, Source, some, step

torch.set_num_threads(1)
ALL_DATA = replace(PLAIN, alpha=1.0)
TERM = Densification(1.0, 4.0, False, 1, (0.0,) * 3, (1.0,) * 3, steps=6)


def random(n, scale=1.0, seed=0):
    return scale * torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(spectrum, tau):
    """The closed form, eigenvalue by eigenvalue."""
    flatter, own = ([exp(s / t) / sum(exp(r / t) for r in spectrum) for s in spectrum] for t in (tau, 1))
    return sum(p * (log(p) - log(q)) for p, q in zip(flatter, own))


def test_two_images_of_a_class_have_a_closed_form():
    images = random(2, 0.05)
    pooled = torch.nn.functional.adaptive_avg_pool2d(images, SIDE).flatten(1)
    (a, b), c = (pooled * pooled).sum(1).tolist(), float(pooled[0] @ pooled[1])
    middle, radius = (a + b) / 2, ((a - b) ** 2 / 4 + c**2) ** 0.5
    groups = class_groups(torch.zeros(2, dtype=torch.long))
    found = float(densification(images, groups, 4.0))
    assert found == pytest.approx(kl([middle + radius, middle - radius], 4.0), rel=1e-10)
    scaled = float(densification(images, groups, 4.0, normalised=True))
    assert scaled == pytest.approx(kl([1 + radius / middle, 1 - radius / middle], 4.0), rel=1e-10)
    assert found > 1e-4 and scaled > 1e-4 and found != pytest.approx(scaled, rel=0.1)


def test_a_class_with_one_image_adds_exactly_nothing():
    images = random(4, 0.05).requires_grad_(True)
    assert class_groups(torch.tensor([3, 1, 2, 0])) == []
    alone = densification(images, [], 4.0)
    assert float(alone) == 0.0 and not alone.requires_grad
    two = densification(images, class_groups(torch.tensor([0, 1, 0, 2])), 4.0)
    two.backward()
    assert float(two.detach()) > 0
    assert images.grad[[0, 2]].any() and not images.grad[[1, 3]].any()


def test_classes_of_different_size_add_up_in_any_order():
    images, labels = random(9, 0.05), torch.tensor([2, 0, 1, 0, 1, 0, 4, 2, 1])
    groups = class_groups(labels)
    assert sorted(tuple(g.shape) for g in groups) == [(1, 2), (2, 3)]
    alone = sum(
        densification(images[labels == c], class_groups(torch.zeros(int((labels == c).sum()))), 4.0) for c in range(5)
    )
    torch.testing.assert_close(densification(images, groups, 4.0), alone)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_descent_flattens_spectra_and_flipped_signs_do_not(normalised, sign):
    images = random(6, 0.03).requires_grad_(True)
    groups = class_groups(torch.tensor([0, 0, 0, 1, 1, 1]))
    optimiser = torch.optim.SGD([images], 0.005 if normalised else 0.0005)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = densification(images, groups, 4.0, normalised)
        (sign * loss).backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[0] > 0
    falls = all(after < before for before, after in pairwise(values)) and values[-1] < 0.9 * values[0]
    assert falls if sign == 1 else not falls


def test_only_the_sharper_side_gets_gradients():
    """Against finite differences of the surrogate whose flatter side is a constant."""
    images, groups = random(3, 0.05), class_groups(torch.zeros(3))

    def pooled(x):
        rows = torch.nn.functional.adaptive_avg_pool2d(x, SIDE).flatten(1)
        return torch.linalg.eigvalsh(rows @ rows.T)

    fixed = (pooled(images) / 4).softmax(0)
    x = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(densification(x, groups, 4.0), x)
    for at in ((0, 0, 0, 0), (1, 2, 3, 1), (2, 1, 0, 3)):
        shift = torch.zeros_like(images)
        shift[at] = 1e-6
        up, down = ((fixed * (fixed.log() - pooled(images + s).log_softmax(0))).sum() for s in (shift, -shift))
        assert float(gradient[at]) == pytest.approx(float((up - down) / 2e-6), rel=1e-5)


def test_real_sized_eigenvalues_leave_nothing_unless_normalised():
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sub(0.3).div(0.25)
    groups = class_groups(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert abs(float(densification(images, groups, 4.0))) < 1e-6
    assert float(densification(images, groups, 4.0, normalised=True)) > 0.05


def begin(term=TERM, settings=ALL_DATA, labels=None, observers=None):
    source = Source()
    observers = observers or [Net(0).eval()]
    statistics = collect_statistics(observers, source, None, 4, Key(0), CPU)
    images, given = some()
    labels = given if labels is None else labels
    objective = DensifiedStatistics(observers, statistics, settings, densification=term)
    x = (0.1 * images).requires_grad_(True)
    objective.start(Shard("shard-7", "optimise", tuple(range(8)), tuple(labels.tolist())), x, labels, KEY)
    return objective, x, labels


def test_it_joins_the_loss_on_normalised_views():
    weighted = replace(TERM, weight=3.0, mean=(0.1, 0.2, 0.3), std=(4.0, 5.0, 6.0))
    objective, images, labels = begin(weighted)
    (term,) = objective.terms(images, labels, 0, KEY / 0)
    without, same, _ = begin(replace(weighted, weight=0.0))
    (plain,) = without.terms(same, labels, 0, KEY / 0)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (weighted.mean, weighted.std))
    expected = densification((images.detach() - mean) / std, class_groups(labels), 4.0)
    torch.testing.assert_close(term.loss - plain.loss, 3 * expected)
    torch.testing.assert_close(term.logs["densification"], expected)
    assert float(expected) > 1e-3


def test_every_skips_steps():
    objective, images, labels = begin(replace(TERM, every=3))
    losses, plain = [], begin(replace(TERM, weight=0.0))[0]
    for number in range(6):
        parts = [next(iter(o.terms(images, labels, number, KEY / number))) for o in (objective, plain)]
        losses.append(float((parts[0].loss - parts[1].loss).detach()))
        objective.after(images, number, KEY), plain.after(images, number, KEY)
    assert [loss > 1e-6 for loss in losses] == [True, False, False] * 2
    assert objective.tally[0] == 2 and plain.tally[0] == 6


def test_it_says_how_often_it_was_inactive(caplog):
    caplog.set_level(logging.INFO)
    alike = begin(replace(TERM, std=(1e-3,) * 3))  # eigenvalues of real size
    for number in range(6):
        logs, _ = step(*alike, number)
    assert logs["densification_inactive"] == 1.0
    assert "shard-7: densification was inactive in 100 % of 6 steps: one eigenvalue" in caplog.text
    caplog.clear()
    active = begin()
    for number in range(6):
        logs, _ = step(*active, number)
    assert logs["densification_inactive"] == 0.0 and "inactive in 0 % of 6 steps" in caplog.text
    assert "no class has two images" in begin(labels=torch.arange(8))[0].summary()


def test_resumed_equals_unbroken():
    settings, term = replace(ALL_DATA, stat_momentum=0.8, drop_rate=0.3), replace(TERM, every=2)

    def run(objective, images, labels, numbers):
        for number in numbers:
            _, gradient = step(objective, images, labels, number)
            with torch.no_grad():
                images -= 0.01 * gradient

    whole, images, labels = begin(term, settings)
    run(whole, images, labels, range(5))
    broken, half, _ = begin(term, settings)
    run(broken, half, labels, range(3))
    saved = copy.deepcopy(broken.state_dict())
    resumed, rest, _ = begin(term, settings)
    resumed.load_state_dict(saved)
    with torch.no_grad():
        rest.copy_(half)
    run(resumed, rest, labels, range(3, 5))
    assert torch.equal(rest, images)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_chain_that_is_resumed_counts_its_next_shard_anew():
    settings = replace(ALL_DATA, stat_ema_persist=True)
    done, images, labels = begin(settings=settings)
    step(done, images, labels)
    fresh = DensifiedStatistics(done.observers, done.statistics, settings, densification=TERM)
    fresh.load_state_dict(done.state_dict())  # as the engine does, before the first shard of its own
    fresh.start(None, images, labels, KEY)
    assert fresh.counter == 1 and not fresh.tally.any()


def test_nothing_of_ours_waits_inside_a_step():
    objective, images, labels = begin()
    with Recorded() as recorded:
        for number in range(2):
            for term in objective.terms(images, labels, number, KEY / number):
                term.loss.backward()
            objective.after(images, number, KEY / number)
    assert not recorded.waits
