"""RandAugment: every operation equals torchvision's, images are treated apart, and draws are uniform."""

import math

import numpy as np
import pytest
import torch

from hf_condense.data.rand_augment import OPS, apply_rand_augment, draw_ops
from hf_condense.data.randomness import Key

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
DIRECTED = (*MOVES, "brightness", "color", "contrast", "sharpness")


@pytest.fixture(scope="module")
def pixels():
    """uint8 [4, 3, 32, 40]: noise, low contrast, few levels, one flat image."""
    noise = torch.from_numpy(Key(1).numpy().integers(0, 256, (4, 3, 32, 40), dtype=np.uint8))
    return torch.stack((noise[0], noise[1] // 3 + 20, noise[2] // 64 * 9, torch.full_like(noise[3], 7)))


def torchvision_op(name, pixels, level, sign):
    """The operation as torchvision's RandAugment calls it, on one image size and one direction."""
    T = pytest.importorskip("torchvision.transforms.v2.functional")
    images, factor = pixels.float() / 255, 1 + 0.9 * level * sign
    height, width = pixels.shape[-2:]
    slope = math.degrees(math.atan(0.3 * level * sign))
    if name == "posterize":
        return T.posterize(pixels, 8 - round(4 * level)).float() / 255
    if name == "equalize":
        return T.equalize(pixels).float() / 255
    calls = {
        "identity": lambda: images,
        "shear_x": lambda: T.affine(images, 0.0, [0, 0], 1.0, [slope, 0.0], center=[0, 0]),
        "shear_y": lambda: T.affine(images, 0.0, [0, 0], 1.0, [0.0, slope], center=[0, 0]),
        "translate_x": lambda: T.affine(images, 0.0, [int(sign * 150 / 331 * width * level), 0], 1.0, [0.0, 0.0]),
        "translate_y": lambda: T.affine(images, 0.0, [0, int(sign * 150 / 331 * height * level)], 1.0, [0.0, 0.0]),
        "rotate": lambda: T.rotate(images, 30 * level * sign),
        "brightness": lambda: T.adjust_brightness(images, factor),
        "color": lambda: T.adjust_saturation(images, factor),
        "contrast": lambda: T.adjust_contrast(images, factor),
        "sharpness": lambda: T.adjust_sharpness(images, factor),
        "solarize": lambda: T.solarize(images, 1 - level),
        "autocontrast": lambda: T.autocontrast(images),
    }
    return calls[name]()


@pytest.mark.parametrize("magnitude", [9, 17, 30])
@pytest.mark.parametrize("name", OPS)
def test_equals_torchvision(name, magnitude, pixels):
    level, images = magnitude / 30, pixels.float() / 255
    for sign in (1, -1):
        found = OPS[name](images, level, torch.full((len(images),), float(sign)))
        expected = torchvision_op(name, pixels, level, sign)
        wrong = (found - expected).abs() > 1e-5
        # two roundings of a coordinate halfway between two pixels may fall apart
        assert wrong.float().mean() <= (0.005 if name in MOVES else 0)


@pytest.mark.parametrize("name", DIRECTED)
def test_direction_matters(name, pixels):
    images = pixels[:2].float() / 255
    one, two = (OPS[name](images, 0.3, torch.full((2,), s)) for s in (1.0, -1.0))
    assert not torch.allclose(one, two)
    both = OPS[name](images, 0.3, torch.tensor([1.0, -1.0]))
    assert torch.equal(both, torch.stack((one[0], two[1])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_equals_one_image_at_a_time(channels):
    images = torch.rand(64, channels, 16, 16)
    ops, signs = map(torch.from_numpy, draw_ops(Key(5), 64, 2))
    together = apply_rand_augment(images, ops, signs, 9)
    for i in range(64):
        alone = apply_rand_augment(images[i : i + 1], ops[i : i + 1], signs[i : i + 1], 9)
        step = images[i : i + 1]
        for slot in range(2):  # one after the other, by hand
            step = list(OPS.values())[ops[i, slot]](step, 0.3, signs[i, slot : slot + 1].float())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone, step, rtol=0, atol=1e-5)
    assert together.min() >= 0
    assert together.max() <= 1


def test_one_draw_fits_any_number_of_images():
    images = torch.rand(6, 3, 16, 16)
    ops, signs = torch.full((2, 1), list(OPS).index("rotate")), torch.ones(2, 1, dtype=torch.int32)
    expected = OPS["rotate"](images, 0.3, torch.ones(6))
    assert torch.equal(apply_rand_augment(images, ops, signs, 9), expected)
    with pytest.raises(ValueError, match="6 images"):
        apply_rand_augment(images, torch.tensor([[1], [2]]), signs, 9)


def test_draws_are_uniform_and_keyed():
    ops, signs = draw_ops(Key(0), 7000, 2)
    counts = np.bincount(ops.ravel(), minlength=len(OPS))
    assert counts.min() > 850
    assert counts.max() < 1150  # 1000 each expected, standard deviation 30
    assert abs(signs.mean()) < 0.05
    assert set(np.unique(signs)) == {-1, 1}
    again, _ = draw_ops(Key(0), 7000, 2)
    other, _ = draw_ops(Key(1), 7000, 2)
    assert (again == ops).all()
    assert (other != ops).any()


@pytest.mark.parametrize("name", [n for n in OPS if n not in ("posterize", "equalize")])
def test_differentiable(name):
    images = (0.2 + 0.6 * torch.rand(2, 3, 6, 6, dtype=torch.float64)).requires_grad_()
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: OPS[name](x, 0.3, sign), images)


def test_numbers_of_operations_are_fixed():
    # stored views hold these numbers
    expected = "identity shear_x shear_y translate_x translate_y rotate brightness color contrast sharpness"
    assert " ".join(list(OPS)[:10]) == expected
    assert list(OPS)[10:14] == ["posterize", "solarize", "autocontrast", "equalize"]
