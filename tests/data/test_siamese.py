"""Siamese augmentation: ranges, sharing, identities, gradients, and one call for many groups."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import (
    FAMILIES,
    SiameseDraw,
    SiamesePolicy,
    apply_siamese,
    draw_siamese,
    siamese_pixels,
)  # fmt: skip
from hf_condense.data.spaces import NormalisedPixels
from hf_condense.errors import ConfigError
from tests.profiled import operations, peak_bytes_of_tensors

DSA = SiamesePolicy(FAMILIES)
IDC = SiamesePolicy(("color", "crop", "flip", "scale", "rotate"), "combined")


def noise(n=6, channels=3, side=28, kind=torch.float64) -> torch.Tensor:
    return torch.from_numpy(Key(n, channels, side).uniform(n, channels, side, side, low=-2, high=2)).to(kind)


def only(family: str, images: torch.Tensor, **numbers) -> torch.Tensor:
    """One family with given numbers, the same for all images."""
    draw = SiameseDraw(1, family=torch.zeros(1, dtype=torch.int64), **numbers)
    return apply_siamese(images, draw, SiamesePolicy((family,)))


@pytest.mark.parametrize("policy", [DSA, IDC, SiamesePolicy(("color", "crop", "cutout"), "combined")])
def test_equal_draws_give_equal_bits_and_other_keys_others(policy):
    images, key = noise(8, kind=torch.float32), Key(3)
    draw, again = (draw_siamese(policy, key, 8, 28, 28) for _ in range(2))
    assert torch.equal(apply_siamese(images, draw, policy), apply_siamese(images.clone(), again, policy))
    other = draw_siamese(policy, Key(4), 8, 28, 28)
    assert not torch.equal(apply_siamese(images, draw, policy), apply_siamese(images, other, policy))


@pytest.mark.parametrize("policy", [DSA, IDC], ids=["single", "combined"])
def test_real_and_synthetic_images_of_a_class_share_their_draw(policy):
    real, key, classes = noise(4, kind=torch.float32), Key(5), torch.tensor([2, 0, 1, 2])
    draw = draw_siamese(policy, key, 3, 28, 28)
    both = apply_siamese(torch.cat([real, real]), draw, policy, torch.cat([classes, classes]))
    assert torch.equal(both[:4], both[4:])


@pytest.mark.parametrize("policy", [DSA, IDC], ids=["single", "combined"])
def test_one_call_equals_a_call_a_group(policy):
    images, group_of = noise(40), torch.arange(40) % 7
    draw = draw_siamese(policy, Key(0), 7, 28, 28)
    assert len(draw.family.unique()) > 2  # groups of different families in one batch
    together = apply_siamese(images, draw, policy, group_of)
    for g in range(7):
        row = {n: v[g : g + 1] for n, v in vars(draw).items() if isinstance(v, torch.Tensor)}
        alone = apply_siamese(images[group_of == g], SiameseDraw(1, **row), policy)
        torch.testing.assert_close(together[group_of == g], alone, rtol=0, atol=1e-12)


def test_identities():
    images = noise()
    assert torch.equal(only("crop", images, shifts=torch.zeros(1, 2, dtype=torch.int64)), images)
    one, nil = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(only("scale", images, scales=one), images, rtol=0, atol=1e-12)
    torch.testing.assert_close(only("rotate", images, angles=nil), images, rtol=0, atol=1e-12)
    half = torch.full((1, 3), 0.5, dtype=torch.float64)
    torch.testing.assert_close(only("color", images, color=half), images, rtol=0, atol=1e-12)
    assert torch.equal(only("flip", images, flips=torch.tensor([False])), images)
    assert torch.equal(only("flip", images, flips=torch.tensor([True])), images.flip(-1))


def test_shift_brings_in_zeros():
    images = noise(2, 1, 5)
    moved = only("crop", images, shifts=torch.tensor([[1, -2]]))  # output i, j shows input i + 1, j - 2
    assert torch.equal(moved[:, :, :4, 2:], images[:, :, 1:, :3])
    assert moved[:, :, 4].abs().sum() == 0 and moved[:, :, :, :2].abs().sum() == 0


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("side", [28, 9])
def test_scale_and_rotation_are_those_of_both_conventions(align, side):
    """About the centre of a square image `align_corners` changes nothing, so there is no such option."""
    images, angle, sx, sy = noise(2, 2, side), math.radians(11), 0.9, 1.17
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    segment = torch.tensor([[sx, 0, 0], [0, sy, 0]])
    found = (
        only("rotate", images, angles=torch.tensor([11.0], dtype=torch.float64)),
        only("scale", images, scales=torch.tensor([[sy, sx]], dtype=torch.float64)),
    )
    for theta, mine in zip((turn, segment), found):
        grid = F.affine_grid(theta.double().expand(2, 2, 3), [2, 2, side, side], align_corners=align)
        wanted = F.grid_sample(images, grid, align_corners=align)
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-5)  # theta was made in float32
        assert (mine - images).abs().max() > 0.1


def test_rotation_turns_counter_clockwise_and_large_steps_shrink():
    images = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    images[0, 0, 4, 8] = 1  # right of the centre; a quarter turn takes it to the top
    turned = SiamesePolicy(("rotate",), angle=90)
    draw = SiameseDraw(1, family=torch.zeros(1, dtype=torch.int64), angles=torch.tensor([90.0], dtype=torch.float64))
    assert apply_siamese(images, draw, turned)[0, 0, 0, 4] == pytest.approx(1)
    ones = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    assert only("scale", ones, scales=torch.tensor([[1.2, 1.2]], dtype=torch.float64)).sum() < ones.sum()


@pytest.mark.parametrize("corner, zeroed", [((7, 3), 196), ((-7, -7), 49), ((21, 5), 98), ((14, 14), 196)])
def test_cutout_zeroes_a_square_cut_at_the_border(corner, zeroed):
    images = noise(3, 2).abs() + 0.1
    cut = only("cutout", images, corners=torch.tensor([corner]))
    assert ((cut == 0).sum((2, 3)) == zeroed).all()
    assert torch.equal(cut[cut != 0], images[cut != 0])


def test_color_is_brightness_then_saturation_then_contrast():
    images, (b, s, c) = noise(2), (0.9, 0.3, 0.1)
    x = images + (b - 0.5)
    x = (x - x.mean(1, keepdim=True)) * 2 * s + x.mean(1, keepdim=True)
    x = (x - x.mean((1, 2, 3), keepdim=True)) * (c + 0.5) + x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(only("color", images, color=torch.tensor([[b, s, c]], dtype=torch.float64)), x)
    grey = noise(2, 1)
    low, high = (only("color", grey, color=torch.tensor([[b, s, c]], dtype=torch.float64)) for s in (0.0, 1.0))
    assert torch.equal(low, high)  # saturation leaves one channel alone


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(family):
    policy, images = SiamesePolicy((family,)), noise(3, 2, 6).requires_grad_()
    draw = draw_siamese(policy, Key(1), 3, 6, 6)
    torch.autograd.gradcheck(lambda x: apply_siamese(x, draw, policy), images)


def test_gradient_of_mixed_families_in_one_batch():
    draw = draw_siamese(DSA, Key(2), 8, 4, 4)
    assert len(draw.family.unique()) > 3
    torch.autograd.gradcheck(lambda x: apply_siamese(x, draw, DSA), noise(8, 2, 4).requires_grad_())


@pytest.mark.parametrize("side, shift, cut", [(28, 4, 14), (32, 4, 16), (64, 8, 32)])
def test_ranges_are_the_published_ones(side, shift, cut):
    draw = draw_siamese(DSA, Key(0), 20_000, side, side)
    assert sorted(draw.shifts.unique().tolist()) == list(range(-shift, shift + 1))
    assert (draw.corners.min(), draw.corners.max()) == (-cut // 2, side - cut // 2)
    assert 0.48 < draw.flips.double().mean() < 0.52
    for numbers, low, high in ((draw.color, 0, 1), (draw.scales, 1 / 1.2, 1.2), (draw.angles, -15, 15)):
        width = high - low
        assert low <= numbers.min() < low + 0.01 * width and high - 0.01 * width < numbers.max() < high
        assert numbers.mean() == pytest.approx((low + high) / 2, abs=0.02 * width)
    pairs = np.corrcoef(torch.cat([draw.color, draw.scales, draw.shifts, draw.corners], 1).T)
    assert np.abs(pairs - np.eye(len(pairs))).max() < 0.04  # drawn one apart from another


def test_families_are_drawn_evenly_for_each_group_or_once_for_a_call():
    counts = draw_siamese(DSA, Key(0), 6000, 28, 28).family.bincount()
    assert len(counts) == 6 and counts.min() > 850 and counts.max() < 1150
    once = SiamesePolicy(FAMILIES, family_per="call")
    draws = [draw_siamese(once, Key(i), 50, 28, 28) for i in range(300)]
    assert all(len(d.family.unique()) == 1 and len(d.angles.unique()) == 50 for d in draws)
    assert torch.tensor([d.family[0] for d in draws]).bincount().min() > 25
    assert set(draw_siamese(IDC, Key(0), 300, 28, 28).family.tolist()) == {0, 1, 2}  # crop, scale, rotate


def test_combined_applies_flip_and_colour_before_and_cutout_last():
    policy = SiamesePolicy(("cutout", "crop", "color", "flip"), "combined")
    images, draw = noise(1), draw_siamese(policy, Key(6), 1, 28, 28)
    draw.flips[:] = True
    by_hand = only("color", images.flip(-1), color=draw.color)
    by_hand = only("cutout", only("crop", by_hand, shifts=draw.shifts), corners=draw.corners)
    assert torch.equal(apply_siamese(images, draw, policy), by_hand)
    plain = SiamesePolicy(("color", "cutout"), "combined")  # nothing to choose from
    draw = draw_siamese(plain, Key(6), 1, 28, 28)
    assert draw.family is None
    by_hand = only("cutout", only("color", images, color=draw.color), corners=draw.corners)
    assert torch.equal(apply_siamese(images, draw, plain), by_hand)


def test_unit_pixels_are_filled_with_the_mean():
    policy = SiamesePolicy(("cutout",), cutout=1.0)
    images, mean = noise(2, 3, 8).abs() / 2, (0.2, 0.3, 0.4)
    cut = siamese_pixels(images, policy, Key(0), NormalisedPixels(mean, (0.1, 0.2, 0.3), torch.device("cpu")))
    changed = (cut - images).abs() > 1e-9
    where = torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1).expand_as(cut)
    assert changed.any()
    torch.testing.assert_close(cut[changed], where[changed])


def test_no_images_and_what_does_not_fit():
    assert apply_siamese(noise(4)[:0], draw_siamese(DSA, Key(0), 3, 28, 28), DSA, torch.zeros(0).long()).shape[0] == 0
    with pytest.raises(ValueError, match="4 images do not fit the draws of 3 groups"):
        apply_siamese(noise(4), draw_siamese(DSA, Key(0), 3, 28, 28), DSA)
    with pytest.raises(ValueError, match="a group below 3"):
        apply_siamese(noise(4), draw_siamese(DSA, Key(0), 3, 28, 28), DSA, torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"families": ()}, {"families": ("flip", "blur")}, {"families": ("flip", "flip")}, {"mode": "both"},
        {"family_per": "image"}, {"scale": (1.2, 0.8)}, {"angle": -1.0}, {"shift": 1.5}, {"cutout": 0.0},
    ],
)  # fmt: skip
def test_wrong_policy(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SiamesePolicy(**{"families": ("flip",), **wrong})


def test_a_step_takes_as_many_operations_for_a_hundred_classes_as_for_ten():
    def asked(groups: int) -> int:
        images, group_of = noise(2560, 1, side=8, kind=torch.float32), torch.arange(2560) % groups
        draw = draw_siamese(DSA, Key(1), groups, 8, 8)
        assert len(draw.family.unique()) > 4
        return operations(lambda: apply_siamese(images, draw, DSA, group_of))

    assert asked(100) < 1.5 * asked(10)  # more classes draw the rarer families too; a loop would take ten times


def test_a_step_needs_memory_for_a_few_copies_of_its_images():
    images, group_of = noise(2560, 1, kind=torch.float32), torch.arange(2560) % 10
    draw = draw_siamese(DSA, Key(1), 10, 28, 28)
    peak = peak_bytes_of_tensors(lambda: apply_siamese(images, draw, DSA, group_of))
    assert peak < 6 * images.numel() * 4
