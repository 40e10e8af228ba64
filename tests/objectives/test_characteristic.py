"""Characteristic functions: closed forms, what amplitude and phase are blind to, the kernel that they stand for, and DM's limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.models.convnet import ConvNet
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.image_model import ImageModel
from hf_condense.models.interpolated import InterpolatedNetworks
from hf_condense.objectives.characteristic import characteristic, characteristic_distance

KEY = Key(0, "characteristic")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(features: Tensor, frequencies: Tensor) -> Tensor:
    """The characteristic function [1, 2 m] of one group."""
    return characteristic(
        features, frequencies, torch.full((1, len(features)), 1 / len(features), dtype=torch.float64)
    )


def test_equal_sets_have_no_distance_and_no_gradient():
    frequencies, features = drawn(16, 4), drawn(5, 4, seed=1).requires_grad_(True)
    for weights in ((0.5, 0.5), (1.0, 0.0), (0.2, 0.8)):
        found = characteristic_distance(whole(features.detach(), frequencies), whole(features, frequencies), *weights)
        (slope,) = torch.autograd.grad(found.sum(), features)
        assert found.item() == 0.0 and torch.equal(slope, torch.zeros_like(slope))


def test_equal_weights_compare_the_functions_themselves():
    one, other = whole(drawn(5, 4), drawn(16, 4, seed=2)), whole(drawn(7, 4, seed=1), drawn(16, 4, seed=2))
    real, imaginary = (one - other).chunk(2, 1)
    wanted = (real.square() + imaginary.square()).sqrt().mean(1) / math.sqrt(2)
    torch.testing.assert_close(characteristic_distance(one, other, 0.5, 0.5), wanted, rtol=1e-12, atol=0)
    # by the definition, with two brackets
    a, b = (torch.complex(*psi.chunk(2, 1)) for psi in (one, other))
    amplitude, phase = (a.abs() - b.abs()) ** 2, 2 * (a.abs() * b.abs() - (a * b.conj()).real)
    for x, y in ((0.5, 0.5), (0.9, 0.1), (0.1, 0.9)):
        wanted = (x * amplitude + y * phase).sqrt().mean(1)
        torch.testing.assert_close(characteristic_distance(one, other, x, y), wanted, rtol=1e-10, atol=0)


def test_each_part_is_blind_to_the_other():
    frequencies, features = drawn(16, 4), drawn(5, 4, seed=1)
    psi, moved = whole(features, frequencies), whole(features + drawn(4, seed=3), frequencies)
    for other, blind, seeing in ((moved, (1.0, 0.0), (0.0, 1.0)), (0.5 * psi, (0.0, 1.0), (1.0, 0.0))):
        assert characteristic_distance(psi, other, *blind).item() < 1e-7
        assert characteristic_distance(psi, other, *seeing).item() > 1e-2


def test_single_numbers_have_a_closed_form():
    x, y, t = torch.tensor([[0.7]]).double(), torch.tensor([[-1.9]]).double(), drawn(9, 1)
    found = characteristic_distance(whole(x, t), whole(y, t), 1.0, 1.0)
    torch.testing.assert_close(found[0], (2 * (t * (x - y) / 2).sin().abs()).mean(), rtol=1e-12, atol=0)


def test_it_stands_for_a_gaussian_kernel():
    """The mean of |psi - psi'|^2 over frequencies is the MMD^2 with exp(-d^2 / 2), by Bochner's theorem."""
    one, other, frequencies = drawn(4, 3), drawn(3, 3, seed=1), drawn(200_000, 3, seed=2)
    real, imaginary = (whole(one, frequencies) - whole(other, frequencies)).chunk(2, 1)
    squares = real.square() + imaginary.square()

    def kernel(a, b):
        return (-torch.cdist(a, b).square() / 2).exp().mean()

    mmd = kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)
    error = squares.std() / math.sqrt(squares.numel())
    assert abs(squares.mean() - mmd) < 3 * error < 0.01 * mmd


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.8, 0.2)])
def test_gradients_are_those_of_finite_differences(weights):
    frequencies, aim = drawn(8, 4), whole(drawn(6, 4, seed=1), drawn(8, 4))
    features = drawn(3, 4, seed=2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: characteristic_distance(aim, whole(x, frequencies), *weights), features)


def test_at_low_frequencies_it_is_the_distance_of_means():
    """psi is 1 + i t m to first order, so the mean square over t ~ N(0, I) is |m - m'|^2, which is DM's distance."""
    one, other, small = drawn(5, 3), drawn(5, 3, seed=1), 1e-4
    frequencies = small * drawn(50_000, 3, seed=2)
    real, imaginary = ((whole(one, frequencies) - whole(other, frequencies)) / small).chunk(2, 1)
    apart = one.mean(0) - other.mean(0)
    torch.testing.assert_close(imaginary[0], frequencies @ apart / small, rtol=1e-5, atol=1e-5)
    assert real.abs().max() < 1e-2 * imaginary.abs().max()
    assert abs(imaginary.square().mean() / apart.square().sum() - 1) < 0.05


class Ends:
    """Two trainings of three epochs."""

    experts, epochs = 2, 3

    def __init__(self, size: int) -> None:
        self.weights = {(e, t): torch.randn(size, generator=torch.Generator().manual_seed(9 * e + t)) for e in (0, 1) for t in (0, 3)}  # fmt: skip

    def placed(self, number, epoch, device):
        return self.weights[number, epoch]


def test_networks_lie_between_the_ends_of_a_training():
    model = ImageModel(ConvNet(3, 1, 8, width=4, depth=1), num_classes=3, channels=1)
    ends = Ends(FlatNetwork(model).size)
    networks = InterpolatedNetworks(model, ends)
    for number in (0, 1):
        for share, epoch in ((1.0, 0), (0.0, 3)):
            assert torch.equal(FlatNetwork(networks.at(number, share)).flatten(), ends.weights[number, epoch])
    first = FlatNetwork(networks(KEY / 1)).flatten()
    trained = networks.trained(KEY / 1)
    assert torch.equal(FlatNetwork(networks(KEY / 1)).flatten(), first)  # by the key alone, and not the trained one's
    number = next(n for n in (0, 1) if torch.equal(FlatNetwork(trained).flatten(), ends.weights[n, 3]))
    share = (first - ends.weights[number, 3]) / (ends.weights[number, 0] - ends.weights[number, 3])
    torch.testing.assert_close(share, share.median().expand_as(share), rtol=0, atol=1e-2)
    assert 0 < share.median() < 1
    drawn_shares = [float((KEY / i / "share").uniform(1)[0]) for i in range(200)]
    assert 0.4 < sum(drawn_shares) / 200 < 0.6 and {networks._number(KEY / i) for i in range(20)} == {0, 1}
