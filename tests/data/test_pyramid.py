"""Pyramids of levels: what they decode to, the gradient through them, and how they grow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_condense.data.pyramid import COLOURS, PyramidPixels
from hf_condense.data.randomness import Key

CPU = torch.device("cpu")
KEY = Key(0, "pyramid")


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy((KEY / "numbers" / str(shape)).numpy().standard_normal(shape))


def whole(space: PyramidPixels, channels: int) -> torch.Tensor:
    """A z [2, C, m] with all levels."""
    return numbers(2, channels, sum(side * side for side in space.sides))


@pytest.mark.parametrize(
    ("side", "sides"), [(28, [1, 2, 4, 8, 16, 28]), (8, [1, 2, 4, 8]), (5, [1, 2, 4, 5]), (1, [1])]
)
def test_the_last_level_has_the_side_of_the_image(side, sides):
    assert PyramidPixels(1, side, 1, CPU).sides == sides


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_of_one_value_make_pictures_of_one_colour_and_zero_is_grey(channels):
    space = PyramidPixels(channels, 6, 1, CPU)
    flat = torch.cat([numbers(2, channels, 1).expand(-1, -1, side * side) for side in space.sides], 2)
    made = space.decode(flat)
    assert (made.amax((2, 3)) - made.amin((2, 3))).abs().max() < 1e-12
    assert torch.equal(
        space.decode(torch.zeros(1, channels, 1).double()), torch.full((1, channels, 6, 6), 0.5).double()
    )


def test_one_level_of_full_side_is_a_sigmoid_and_three_channels_are_mixed():
    z = numbers(2, 1, 1)
    assert torch.allclose(PyramidPixels(1, 1, 1, CPU).decode(z)[..., 0, 0], torch.sigmoid(2 * z)[..., 0], atol=1e-15)
    z, matrix = numbers(2, 3, 1), torch.tensor(COLOURS).double()
    matrix /= matrix.square().sum(0).sqrt().max()
    torch.testing.assert_close(
        PyramidPixels(3, 1, 1, CPU).decode(z)[..., 0, 0], torch.sigmoid(2 * z[..., 0] @ matrix.T), rtol=0, atol=1e-7
    )


def test_levels_are_enlarged_bilinearly():
    space, z = PyramidPixels(1, 7, 1, CPU), numbers(2, 1, 1 + 4 + 16)
    field = sum(F.interpolate(level, size=7, mode="bilinear") for level in space.levels(z))
    torch.testing.assert_close(space.decode(z), torch.sigmoid(2 * field), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "side"), [(1, 6), (3, 8)])
def test_the_gradient_is_that_of_autograd(channels, side):
    space = PyramidPixels(channels, side, 1, CPU)
    z, gradient = whole(space, channels).requires_grad_(True), numbers(2, channels, side, side)
    (wanted,) = torch.autograd.grad(space.decode(z), z, gradient)
    torch.testing.assert_close(space.vjp(z.detach(), gradient), wanted, rtol=0, atol=1e-10)


def test_there_and_back():
    space, unit = PyramidPixels(3, 5, 1, CPU), torch.sigmoid(numbers(2, 3, 5, 5))
    torch.testing.assert_close(space.decode(space.encode(unit)), unit, rtol=0, atol=1e-10)
    flat = unit[..., :1, :1].expand(-1, -1, 5, 5)
    torch.testing.assert_close(space.decode(space.initial(flat)), flat, rtol=0, atol=1e-10)
    assert space.initial(unit).shape == (2, 3, 1)


def test_a_new_level_is_noise_of_an_equal_share():
    space, z = PyramidPixels(1, 8, 3, CPU), numbers(200, 1, 5)
    for step in (0, 1, 3, 4):
        assert space.grown(z, step, KEY) is None
    grown = space.grown(z, 2, KEY)
    assert torch.equal(grown, space.grown(z, 2, KEY)), "drawn by its key"
    torch.testing.assert_close(grown[..., :5], z * 2 / 3)
    noise = grown[..., 5:] * 3
    assert noise.shape == (200, 1, 16) and abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert space.grown(whole(space, 1), 5, KEY) is None, "no level after the last"
