"""First-order matching: the expansion it stands on, moments that stand for gradients, and the objective itself."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.objectives.first_order import FirstOrder
from hf_condense.objectives.gradients import full_gradient, gradient_distance, parameter_gradients
from hf_condense.objectives.turns import whose_turn

torch.set_num_threads(1)
STEPS = 10


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """Losses of 'real data' around `a` and of 'images' `b`, with curvatures A and B, in six weights."""

    def __init__(self, seed: int) -> None:
        stream = Key(seed, "quadratic").numpy()

        def curvature() -> Tensor:
            basis, _ = np.linalg.qr(stream.standard_normal((6, 6)))
            return torch.from_numpy(basis @ np.diag(np.linspace(0.2, 1, 6)) @ basis.T)

        self.A, self.B = curvature(), curvature()
        self.a, self.b, self.start = (torch.from_numpy(stream.standard_normal(6)) for _ in range(3))
        self.b.requires_grad_(True)

    def real(self, w: Tensor) -> Tensor:
        return 0.5 * (w - self.a) @ self.A @ (w - self.a)

    def path(self, rate: float) -> list[Tensor]:
        weights = [self.start]
        for _ in range(STEPS):
            weights.append(weights[-1] - rate * self.B @ (weights[-1] - self.b))
        return weights

    def compare(self, rate: float) -> tuple[float, float, float]:
        """Errors of the first-order form: of the value, of the gradient (relative), and the cosine of the gradients."""
        weights = self.path(rate)
        exact = self.real(weights[-1])
        (exact_gradient,) = torch.autograd.grad(exact, self.b, retain_graph=True)
        points = [w.detach() for w in weights[:-1]]  # visited points are constants
        gain = sum((self.A @ (w - self.a)) @ (self.B @ (w - self.b)) for w in points)
        (gradient,) = torch.autograd.grad(-rate * gain, self.b)
        inner = sum((self.A @ (w - self.a)) @ (self.B @ (w - self.b)) for w in weights[:-1])
        error = float((exact - (self.real(self.start) - rate * inner)).detach().abs())
        relative = float((gradient - exact_gradient).norm() / exact_gradient.norm())
        return error, relative, float(F.cosine_similarity(gradient, exact_gradient, dim=0))


@pytest.mark.parametrize("seed", range(10))
def test_first_order_form_of_many_steps_on_a_quadratic(seed):
    """Its value errs by the square of the rate, its gradient by the rate; at a large rate it is no approximation."""
    case = Quadratic(seed)
    with torch.no_grad():
        shrunk = torch.linalg.matrix_power(torch.eye(6, dtype=torch.float64) - 0.1 * case.B, STEPS)
        torch.testing.assert_close(case.path(0.1)[-1], case.b + shrunk @ (case.start - case.b), rtol=0, atol=1e-12)
    found = [case.compare(1 / n) for n in (64, 128, 256, 512)]
    for (value, gradient, _), (next_value, next_gradient, _) in pairwise(found):
        assert 3.7 <= value / next_value <= 4.05
        assert 1.85 <= gradient / next_gradient <= 2.1
    assert found[-1][2] > 0.9995
    assert case.compare(0.5)[1] > 1


@pytest.mark.parametrize("matched", [True, False])
def test_equal_moments_mean_equal_training(matched):
    """A linear model under squared loss: 8 rows with the moments of 500 train exactly as those do, for 200 steps."""
    features, targets = draw(500, 8, seed=1) @ draw(8, 8, seed=2), draw(500, 5, seed=3)
    lower = torch.linalg.cholesky(features.T @ features / 500)
    few = 8**0.5 * lower.T
    few_targets = torch.linalg.solve(few.T / 8, features.T @ targets / 500)
    if not matched:  # the second moment off by a little
        few = 1.01 * few
    start, rate = draw(8, 5, seed=4), 1 / float(torch.linalg.eigvalsh(features.T @ features / 500).max())
    ends = []
    for x, y in ((features, targets), (few, few_targets)):
        w = start
        for _ in range(200):
            w = w - rate * x.T @ (x @ w - y) / len(x)
        ends.append(w)
    assert (ends[0] - start).norm() > 1
    assert bool((ends[0] - ends[1]).abs().max() < 1e-10) is matched


def test_moments_stand_for_the_gradient_of_a_small_head_under_cross_entropy():
    """The gap between gradient and moment formula falls with the square of the head's size."""
    features, labels, classes = draw(200, 8, seed=1), torch.arange(200) % 5, 5
    onehot = F.one_hot(labels, classes).double()
    K = (torch.eye(classes) - 1 / classes).double() / classes
    mean, second, joint = features.mean(0), features.T @ features / 200, onehot.T @ features / 200
    base, gaps, without = 0.5 * draw(classes, 8, seed=2), [], []
    for scale in (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32):
        w = (scale * base).requires_grad_(True)
        (exact,) = torch.autograd.grad(F.cross_entropy(features @ w.T, labels), w)
        constant = mean.expand(classes, -1) / classes - joint
        for part, found in ((K @ w.detach() @ second, gaps), (0, without)):
            found.append(float((constant + part - exact).norm() / exact.norm()))
    for found, order in ((gaps, 4), (without, 2)):  # without the second moment it is right to a lower order only
        ratios = [a / b for a, b in pairwise(found)]
        assert ratios[-1] == pytest.approx(order, rel=0.05), (found, ratios)
    assert gaps[3] < 0.02 < without[3]


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(4), nn.Flatten(),
            nn.Linear(16, 3),
        ).double()  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.double())


class Source:
    image_size, num_classes = 8, 3

    def __init__(self, n: int = 300) -> None:
        self.labels = np.arange(n) % 3
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 120, (n, 1, 8, 8), generator=generator)
        self.pixels = (noise + 60 * torch.from_numpy(self.labels).view(-1, 1, 1, 1)).to(torch.uint8)

    def images(self, rows: np.ndarray) -> Tensor:
        return self.pixels[torch.as_tensor(rows)]


def plain_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    model = copy.deepcopy(model).requires_grad_(True)
    F.cross_entropy(model(images), labels).backward()
    return [p.grad for p in model.parameters()]


def test_gradients_of_a_frozen_network_are_those_of_training():
    model, source = Net().eval().requires_grad_(False), Source()
    images, labels = source.pixels / 255, torch.from_numpy(source.labels)
    found = parameter_gradients(model, images, labels)
    whole = full_gradient(model, [(images[:128], labels[:128]), (images[128:], labels[128:])])
    for a, b, c in zip(found, whole, plain_gradient(model, images, labels), strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, c)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_distances_by_hand():
    a = [torch.tensor([[[[1.0, 0.0]]], [[[0.0, 2.0]]]]), torch.tensor([3.0, 4.0])]  # a convolution's, a bias's
    b = [torch.tensor([[[[0.0, 1.0]]], [[[0.0, 5.0]]]]), torch.tensor([4.0, 3.0])]
    by_hand = {
        "rows": 1.0 + 0.0,
        "layer_cos": (1 - 10 / (5**0.5 * 26**0.5)) + (1 - 24 / 25),
        "cos": 1 - 34 / (30**0.5 * 51**0.5),
        "mse": 1 + 1 + 9 + 1 + 1,
        "inner": -34,
    }
    for kind, value in by_hand.items():
        assert float(gradient_distance(a, b, kind)) == pytest.approx(value, abs=1e-5), kind
        if kind != "inner":
            assert float(gradient_distance(a, a, kind)) == pytest.approx(0, abs=1e-5), kind
    with pytest.raises(ConfigError, match="distance"):
        gradient_distance(a, b, "cosine")


@pytest.mark.parametrize("kind", ["rows", "mse", "cos", "layer_cos", "inner"])
def test_distances_are_differentiable_in_the_images(kind):
    model, target = Net().eval(), parameter_gradients(Net(1).eval(), *batch(6, seed=2))
    labels = torch.arange(4) % 3

    def distance(images: Tensor) -> Tensor:
        return gradient_distance(parameter_gradients(model, images, labels, create_graph=True), target, kind)

    images = draw(4, 1, 8, 8, seed=5).requires_grad_(True)
    assert torch.autograd.gradcheck(distance, (images,), fast_mode=True)


def test_a_row_without_gradient_gives_no_nan():
    a = torch.zeros(2, 3, requires_grad=True)
    gradient_distance([a], [torch.ones(2, 3)], "rows").backward()
    assert a.grad.isfinite().all()


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    return draw(n, 1, 8, 8, seed=seed).sigmoid(), torch.arange(n) % 3


def optimise(sign: int = 1, steps: int = 40, **settings) -> tuple[list[float], FirstOrder]:
    """Losses on the way, of images that start as noise."""
    models = [Net(seed).eval() for seed in range(3)]
    objective = FirstOrder(models, Source(), **settings)
    images, labels = batch(9, seed=7)
    images.requires_grad_(True)
    objective.start(None, images, labels, Key(0))
    optimiser, losses = torch.optim.Adam([images], 0.1), []
    for step in range(steps):
        optimiser.zero_grad()
        total = 0.0
        for term in objective.terms(images, labels, step, Key(0, step)):
            (sign * term.loss).backward()
            total += float(term.loss.detach())
        optimiser.step()
        objective.after(images, step, Key(0, step))
        losses.append(total)
    return losses, objective


@pytest.mark.parametrize("per_step", [1, 3])
def test_images_learn_the_gradient_of_the_real_data(per_step):
    losses, _ = optimise(per_step=per_step)
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6]), losses
    flipped, _ = optimise(sign=-1, per_step=per_step)
    assert sum(flipped[-6:]) > sum(flipped[:6])


def test_observers_stay_as_they_are_and_targets_are_computed_once():
    before = [{n: t.clone() for n, t in Net(seed).state_dict().items()} for seed in range(3)]
    known: dict = {}
    _, objective = optimise(steps=4, targets=known)
    assert set(known) == {(k, (0, 1, 2)) for k in range(3)}
    firsts = {place: target[0] for place, target in known.items()}
    _, again = optimise(steps=4, targets=known)
    assert all(known[place][0] is first for place, first in firsts.items())
    for model, state in zip(objective.observers, before):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    source = Source()
    for k, model in enumerate(again.observers):
        images, labels = source.pixels / 255, torch.from_numpy(source.labels)
        for a, b in zip(known[k, (0, 1, 2)], plain_gradient(model, images, labels)):
            torch.testing.assert_close(a, b)


def test_targets_are_of_the_classes_of_the_shard():
    objective = FirstOrder([Net().eval()], Source())
    images, _ = batch(4, seed=1)
    labels = torch.tensor([0, 2, 0, 2])
    objective.start(None, images, labels, Key(0))
    list(objective.terms(images, labels, 0, Key(0)))
    source = Source()
    kept = torch.from_numpy(np.flatnonzero(source.labels != 1))
    expected = plain_gradient(Net().eval(), source.pixels[kept] / 255, torch.from_numpy(source.labels)[kept])
    for a, b in zip(objective.targets[0, (0, 2)], expected):
        torch.testing.assert_close(a, b)


def test_turns():
    assert [whose_turn(step, 3) for step in range(4)] == [[0], [1], [2], [0]]
    assert whose_turn(1, 3, per_step=2) == [2, 0]
    key = Key(0, "shard")
    shuffled = [whose_turn(step, 5, 1, key)[0] for step in range(50)]
    assert all(sorted(shuffled[at : at + 5]) == list(range(5)) for at in range(0, 50, 5))
    assert len({tuple(shuffled[at : at + 5]) for at in range(0, 50, 5)}) > 5
    with pytest.raises(ConfigError, match="models_per_step"):
        FirstOrder([Net()], SimpleNamespace(), per_step=2)
