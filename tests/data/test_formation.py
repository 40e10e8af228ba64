"""Decoding stored images into tiles: shapes, order, padding, gradients, and the way back from a collage."""

from __future__ import annotations

import pytest
import torch

from hf_condense.data.formation import decode, decode_as, decode_set
from hf_condense.selection.realism import tile

SIDES = [(32, 1), (32, 2), (32, 3), (28, 2), (28, 3), (224, 3), (9, 2)]


def noise(n: int, side: int, channels: int = 3, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("side", "factor"), SIDES)
def test_shapes_and_order_of_tiles(side, factor):
    """Row k * n + j is tile k (row by row) of image j. A tile of one grey stays that grey."""
    n, cell = 3, -(-side // factor)
    greys = torch.arange(n * factor**2).view(n, factor**2) / (n * factor**2)
    images = torch.empty(n, 1, side, side)
    for k in range(factor**2):
        top, left = cell * (k // factor), cell * (k % factor)
        images[:, 0, top : top + cell, left : left + cell] = greys[:, k, None, None]
    found = decode(images, factor)
    assert found.shape == (n * factor**2, 1, side, side)
    assert torch.allclose(found[..., 0, 0].flatten(), greys.T.flatten())
    if factor == 1:
        assert found is images


@pytest.mark.parametrize(("side", "factor"), SIDES)
def test_a_constant_image_stays_constant(side, factor):
    """At the colour of the border, because odd sides show it."""
    assert torch.allclose(decode(torch.full((2, 3, side, side), 0.5), factor), torch.tensor(0.5), atol=1e-6)


def test_the_border_is_mid_grey_to_the_right_and_below():
    found = decode(torch.zeros(1, 1, 224, 224), 3)  # 225 pixels: one row and one column of border
    assert found[0].max() == 0 and found[2, 0, :, -1].min() > 0.4 and found[6, 0, -1].min() > 0.4
    assert found[8, 0, -1, -1] == 0.5 and found[2, 0, :, 0].max() == 0


@pytest.mark.parametrize(("side", "factor"), [(32, 2), (28, 2), (224, 3), (28, 3), (9, 2)])
def test_decoding_a_collage_gives_its_cells_back(side, factor):
    count = 2
    greys = torch.arange(count * factor**2) / 20
    pieces = greys.view(-1, 1, 1, 1).expand(-1, 3, side, side)
    found = decode(tile(pieces, count, factor, side), factor)
    margin = 3 * factor + 1  # of neighbours or border, where cells are not of one size
    inside = found[..., margin : side - margin, margin : side - margin] if side > 9 else found[..., 2:3, 2:3]
    assert torch.allclose(inside, greys.view(-1, 1, 1, 1).expand_as(inside), atol=1e-6)


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (7, 3), (9, 2)])
def test_gradient_agrees_with_finite_differences_and_reaches_every_pixel(side, factor):
    images = noise(2, side, 1, torch.float64).requires_grad_(True)
    weight = noise(2 * factor**2, side, 1, torch.float64)
    # decoding is linear, so that a large step is exact
    assert torch.autograd.gradcheck(lambda x: (decode(x, factor) * weight).sum(), images, eps=0.5, atol=1e-8, rtol=0)
    (slope,) = torch.autograd.grad((decode(images, factor) * weight).sum(), images)
    assert slope.abs().min() > 0


@pytest.mark.parametrize("factor", [2, 3])
def test_bound_shows_every_image_and_never_more_than_is_allowed(factor):
    for ipc in (1, 2, 10, 14, 20, 31, 32, 33, 50, 100, 127, 128):
        images = torch.arange(ipc, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 6, 6)
        found = decode_as(images, factor, "bound", 128)
        assert len(found) <= 128, ipc
        assert set(found[:, 0, 0, 0].tolist()) == set(range(ipc)), ipc
        if ipc * factor**2 <= 128:
            assert torch.equal(found, decode(images, factor))
    assert len(decode_as(torch.zeros(20, 1, 6, 6), 3, "bound", 128)) > 100


def test_multi_has_all_factors():
    images = noise(2, 6)
    found = decode_as(images, 3, "multi")
    assert torch.equal(found, torch.cat([images, decode(images, 2), decode(images, 3)]))


def test_a_set_is_decoded_with_its_labels():
    images = (noise(3, 8) * 255).to(torch.uint8)
    labels = torch.tensor([5, 6, 7])
    found, names = decode_set(images, labels, 2)
    assert torch.equal(found, decode(images.float() / 255, 2)) and names.tolist() == [5, 6, 7] * 4
    assert torch.equal(decode_set(images.float() / 255, labels, 2)[0], found)
    assert decode_set(images, labels, 1)[0] is images
