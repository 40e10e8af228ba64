"""Gradient matching: the distance's anchors, exact second derivatives, the class loop, memory of one class."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.plain_matching import plain_distance, plain_gradient
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.models.convnet import ConvNet
from hf_condense.objectives.gradient_matching import GradientMatching, Loops
from hf_condense.objectives.gradients import gradient_distance, parameter_gradients
from hf_condense.selection.paired import PairedViews
from tests.matching import CPU, Given, digits, networks
from tests.profiled import peak_bytes_of_tensors

KEY = Key(0, "test")
POLICY = SiamesePolicy(FAMILIES)


def first_images(source, ipc: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [r for c in range(source.num_classes) for r in source.rows_of(c)[:ipc]]
    return source.images(rows).float() / 255, torch.from_numpy(source.labels[rows])


def rows_of(net: ConvNet, generator: torch.Generator) -> list[torch.Tensor]:
    """Random gradients of the network's shapes, each output unit of length 1."""
    made = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]
    return [F.normalize(g.flatten(1), dim=1).view_as(g) if g.ndim > 1 else g for g in made]


def test_distance_of_a_convnet_is_between_0_and_788():
    """3 x 128 kernels and 10 rows of the classifier: 394 output units."""
    net, generator = ConvNet(10, 1, 28), torch.Generator().manual_seed(0)
    g, other = rows_of(net, generator), rows_of(net, generator)
    assert float(gradient_distance(g, g, "rows")) < 1e-2
    assert abs(float(gradient_distance(g, [-x for x in g], "rows")) - 788) < 1e-2
    assert abs(float(gradient_distance(g, other, "rows")) - 394) < 0.03 * 394
    across = [x.flip(1) if x.ndim > 1 else x for x in g]  # made orthogonal row by row
    across = [
        (a - (a.flatten(1) * x.flatten(1)).sum(1).view(-1, *[1] * (x.ndim - 1)) * x) if x.ndim > 1 else a
        for a, x in zip(across, g)
    ]
    assert abs(float(gradient_distance(g, across, "rows")) - 394) < 1e-2
    faint = [1e-4 * x for x in g]  # the small number in the denominator then decides, as in the official code
    assert float(gradient_distance(faint, faint, "rows")) > 390
    assert abs(float(gradient_distance(g, other, "rows") - plain_distance(g, other))) < 1e-9


@pytest.mark.parametrize("kind", ["rows", "mse", "cos"])
def test_derivative_in_the_images_agrees_with_finite_differences(kind):
    torch.manual_seed(0)
    net = ConvNet(3, 1, 8, width=4).double()
    real, images = torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    labels, dims = torch.tensor([0, 1, 2]), 2 if kind == "rows" else 0
    target = parameter_gradients(net, real, torch.tensor([0, 1, 2, 0, 1, 2]), dims=dims)
    assert len(target) == (4 if kind == "rows" else 14)

    def loss(x):
        return gradient_distance(parameter_gradients(net, x, labels, create_graph=True, dims=dims), target, kind)

    images.requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(images), images)
    way = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6
    with torch.no_grad():
        ends = images + step * way, images - step * way
    numeric = float(loss(ends[0]).detach() - loss(ends[1]).detach()) / (2 * step)
    exact = float((slope * way).sum())
    assert abs(numeric - exact) < 1e-4 * abs(exact)


@pytest.mark.parametrize("policy", [None, POLICY])
def test_terms_are_those_of_the_plain_class_loop(policy):
    source = digits()
    images, labels = first_images(source, 3)
    views, loops = PairedViews(source, policy, CPU), Loops(outer=3, inner=2, train_batch=8, real_batch=16)
    objective = GradientMatching(networks(source), views, loops)
    objective.start(None, images, labels, KEY)
    for step in range(3):
        mine, key = images.clone().requires_grad_(True), KEY / "step" / step
        losses = []
        for term in objective.terms(mine, labels, step, key):
            term.loss.backward()
            losses.append(float(term.loss.detach()))
        plain = images.clone().requires_grad_(True)
        assert all(p.grad is None and not p.requires_grad for p in objective._network.parameters())
        network = objective._network.requires_grad_(True)
        loss = plain_gradient(network, views, plain, labels, views.draw(key / "siamese"), 16, key / "real")
        loss.backward()
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)
        assert torch.allclose(mine.grad, plain.grad, rtol=1e-4, atol=1e-5 * float(plain.grad.abs().max()))
        network.zero_grad(set_to_none=True)


def test_the_network_is_trained_on_the_images_between_the_steps_and_then_replaced():
    source = digits()
    images, labels = first_images(source, 2)
    objective = GradientMatching(networks(source), PairedViews(source, None, CPU), Loops(2, 5, network_lr=0.05))
    objective.start(None, images, labels, KEY)

    def weights(step: int) -> torch.Tensor:
        list(objective.terms(images.clone().requires_grad_(True), labels, step, KEY / step))
        return torch.cat([p.detach().flatten() for p in objective._network.parameters()]).clone()

    def fits() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(objective._network(images), labels))

    first, untrained = weights(0), fits()
    second, trained = weights(1), fits()
    third = weights(2)
    assert trained < untrained and not torch.equal(first, second)
    assert torch.equal(third, torch.cat([p.flatten() for p in networks(source)(KEY / "network" / 1).parameters()]))


@pytest.mark.parametrize("policy", [None, POLICY])
def test_that_training_is_plain_steps_by_hand_under_the_named_draws(policy):
    """Two epochs in batches of 8, 8 and 4: a batch has one family, each of its images numbers of its own."""
    source, key = digits(), KEY / 1
    images, labels = first_images(source, 2)
    loops = Loops(outer=2, inner=2, network_lr=0.05, train_batch=8, real_batch=4)
    objective = GradientMatching(networks(source), PairedViews(source, policy, CPU), loops)
    objective.start(None, images, labels, KEY)
    list(objective.terms(images.clone().requires_grad_(True), labels, 0, KEY / 0))
    by_hand = deepcopy(objective._network).requires_grad_(True)
    weights, mean, std = list(by_hand.parameters()), source.mean[0], source.std[0]
    for epoch in range(2):
        order = torch.from_numpy((key / "train" / "order" / epoch).permutation(20))
        for number, rows in enumerate(order.split(8)):
            shown = images[rows]
            if policy:
                drawn = replace(policy, family_per="call")
                draw = draw_siamese(drawn, key / "train" / epoch / number, len(rows), 8, 8)
                shown = apply_siamese((shown - mean) / std, draw, drawn) * std + mean
            slopes = torch.autograd.grad(F.cross_entropy(by_hand(shown), labels[rows]), weights)
            with torch.no_grad():
                for p, g in zip(weights, slopes):
                    p.sub_(0.05 * g)
    list(objective.terms(images.clone().requires_grad_(True), labels, 1, key))
    found = list(objective._network.parameters())
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, weights))


def test_images_that_do_not_count_alike_have_weighted_gradients():
    source = digits()
    images, labels = first_images(source, 2)
    rows, weights = {c: source.rows_of(c)[:3] for c in range(10)}, torch.tensor([0.7, 0.2, 0.1])
    objective = GradientMatching(networks(source), PairedViews(source, None, CPU), Loops(1, 1))
    for shares in (weights, None):
        objective.sampler = Given(rows, dict.fromkeys(range(10), shares))
        objective.start(None, images, labels, KEY)
        for c, term in enumerate(objective.terms(images.clone().requires_grad_(True), labels, 0, KEY)):
            real, of = source.images(rows[c]).float() / 255, torch.tensor([c, c, c])
            target = parameter_gradients(objective._network, real, of, dims=2, weights=weights)
            found = parameter_gradients(objective._network, images[labels == c], of[:2], dims=2)
            known = float(gradient_distance(found, target, "rows"))
            alike = float(term.loss.detach()) == pytest.approx(known, rel=1e-5)
            assert alike == (shares is weights)


def test_two_processes_have_the_terms_of_one_between_them():
    source = digits()
    images, labels = first_images(source, 2)

    def terms(share):
        objective = GradientMatching(networks(source), PairedViews(source, POLICY, CPU), Loops(2, 1, real_batch=8))
        objective.share = share
        objective.start(None, images, labels, KEY)
        found = []
        for step in (0, 1):
            mine = images.clone().requires_grad_(True)
            for term in objective.terms(mine, labels, step, KEY / step):
                term.loss.backward()
            found.append(mine.grad)
        return found

    one, left, right = terms((0, 1)), terms((0, 2)), terms((1, 2))
    for whole, a, b in zip(one, left, right):
        assert torch.equal(whole, a + b) and not torch.equal(whole, a)


def test_batch_norms_are_set_from_real_images_and_held():
    source = digits()
    images, labels = first_images(source, 2)
    objective = GradientMatching(
        networks(source, "convnet_bn_w32"), PairedViews(source, None, CPU), Loops(2, 1, real_batch=8)
    )
    objective.start(None, images, labels, KEY)
    remembered = []
    for step in (0, 1):
        for _ in objective.terms(images.clone().requires_grad_(True), labels, step, KEY / step):
            norms = [m for m in objective._network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            assert all(not m.training for m in norms)
            remembered.append(norms[0].running_mean.clone())
    assert torch.equal(remembered[0], remembered[9]) and not torch.equal(remembered[0], remembered[10])
    network = objective._network  # where they stand is about where all real images put them
    with torch.no_grad():
        seen = network.backbone.features[0]((source.images().float() / 255 - network.mean) / network.std)
    assert torch.allclose(remembered[-1], seen.mean((0, 2, 3)), atol=0.1)
    assert not torch.allclose(torch.zeros_like(remembered[-1]), seen.mean((0, 2, 3)), atol=0.1)


def test_peak_memory_is_that_of_one_class():
    """At 50 images a class, and eight times the classes. The network is trained in between, in batches of one size.

    The plain loop, which keeps all graphs until it differentiates, needs far more.
    """

    class Noise:
        channels, image_size, mean, std, fits_in_memory = 1, 8, (0.5,), (0.25,), True

        def __init__(self, classes: int) -> None:
            self.num_classes = classes
            self.plain_spec = ImageSpec(classes, 8, (0.5,), (0.25,), channels=1)
            self.pixels = torch.randint(0, 256, (classes * 4, 1, 8, 8), dtype=torch.uint8)
            self.shape = tuple(self.pixels.shape)

        def decoded(self):
            return self.pixels

        def rows_of(self, c):
            return np.arange(4 * c, 4 * c + 4)

    def peak(number: int, plain: bool) -> int:
        source = Noise(number)
        views, labels = PairedViews(source, None, CPU), torch.arange(number).repeat_interleave(50)
        images = torch.rand(len(labels), 1, 8, 8, requires_grad=True)
        objective = GradientMatching(networks(source), views, Loops(2, 1, train_batch=100, real_batch=4))
        objective.start(None, images, labels, KEY)

        def step() -> None:
            if plain:
                network = objective.fresh(KEY)
                plain_gradient(network, views, images, labels, None, 4, KEY).backward()
                return
            for turn in (0, 1):
                for term in objective.terms(images, labels, turn, KEY / turn):
                    term.loss.backward()

        return peak_bytes_of_tensors(step)

    few, many, plain = peak(4, False), peak(32, False), peak(32, True)
    said = f"{few / 1e6:.1f} MB for 4 classes, {many / 1e6:.1f} MB for 32; plain {plain / 1e6:.1f} MB"
    assert many < 1.1 * few, said
    assert plain > 4 * many, f"the measure sees nothing: {said}"
