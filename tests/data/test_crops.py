"""Crops: boxes inside the image with torchvision's distribution, and resizing equal to F.interpolate on each crop."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_condense.data.crops import axis_matrices, centre, check_boxes, look_at, random_boxes, resample
from hf_condense.data.randomness import Key


def plain(images, boxes, size):
    """One crop after the other."""
    crops = [x[None, :, t : t + h, l : l + w] for x, (t, l, h, w) in zip(images, boxes.tolist())]
    return torch.cat([F.interpolate(c, size, mode="bilinear") for c in crops])


def crop_and_resize(images, boxes, size):
    """All at once, as views are cut."""
    sizes = (size, size) if isinstance(size, int) else size
    axes = []
    for axis, (extent, side) in enumerate(zip(images.shape[-2:], sizes)):
        centres = look_at(torch.arange(side)[None], boxes[:, axis], boxes[:, axis + 2], side)
        axes.append((centres, torch.arange(extent)[None]))
    return resample(images, *axis_matrices(axes, images))


def boxes_of(n, height, width, scale=(0.08, 1.0), seed=0):
    return torch.from_numpy(random_boxes(Key(seed), n, height, width, scale))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 90), (90, 7), (1, 1), (256, 200)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.0001, 0.01), (1.0, 1.0)])
def test_boxes_lie_inside(height, width, scale):
    boxes = boxes_of(2000, height, width, scale)
    check_boxes(boxes, height, width)
    assert boxes.dtype == torch.int32
    assert boxes.shape == (2000, 4)


def test_box_areas_and_ratios_are_as_asked():
    boxes = boxes_of(4000, 500, 500, (0.2, 0.6)).double()
    area, ratio = boxes[:, 2] * boxes[:, 3] / 500**2, boxes[:, 3] / boxes[:, 2]
    assert 0.197 < area.min() < 0.21
    assert 0.59 < area.max() < 0.603
    assert 0.745 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.343


def test_full_scale_is_the_whole_square_image():
    for size in (8, 32, 224):
        assert (boxes_of(1000, size, size, (1.0, 1.0)) == torch.tensor([0, 0, size, size])).all()


def test_boxes_that_never_fit_fall_back_to_the_centre():
    # a strip of 10 x 100 px has no box of its whole area: the widest allowed one in the middle is taken
    assert (random_boxes(Key(0), 5, 10, 100, (1.0, 1.0)) == [0, (100 - 13) // 2, 10, 13]).all()
    assert (random_boxes(Key(0), 5, 100, 10, (1.0, 1.0)) == [(100 - 13) // 2, 0, 13, 10]).all()


def test_boxes_may_have_an_image_size_each():
    heights, widths = np.array([10, 300, 50]), np.array([400, 20, 50])
    boxes = random_boxes(Key(3), 3, heights, widths, (0.08, 1))
    for box, height, width in zip(boxes, heights, widths):
        check_boxes(torch.from_numpy(box)[None], height, width)


def test_box_distribution_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms")
    image, n = torch.empty(3, 48, 40), 3000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draw = transforms.RandomResizedCrop.get_params
        theirs = np.array([draw(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)], dtype=float)
    ours = boxes_of(n, 48, 40).double().numpy()
    # two means of n draws differ by at most about 5 standard errors; quantiles of areas by a few percent
    for i in range(4):
        error = math.hypot(ours[:, i].std(), theirs[:, i].std()) / math.sqrt(n)
        assert abs(ours[:, i].mean() - theirs[:, i].mean()) < 5 * error
    for q in (0.1, 0.5, 0.9):
        a, b = (np.quantile(x[:, 2] * x[:, 3], q) for x in (ours, theirs))
        assert abs(a - b) < 0.1 * b + 20


@pytest.mark.parametrize(("height", "width", "size"), [(40, 33, 24), (9, 9, 31), (64, 64, (5, 20)), (1, 12, 4)])
def test_equals_interpolate_on_each_crop(height, width, size):
    images = torch.rand(20, 3, height, width, dtype=torch.float64)
    boxes = boxes_of(20, height, width)
    torch.testing.assert_close(crop_and_resize(images, boxes, size), plain(images, boxes, size), rtol=0, atol=1e-12)


def test_equals_interpolate_in_single_precision():
    images, boxes = torch.rand(8, 3, 256, 256), boxes_of(8, 256, 256)
    torch.testing.assert_close(crop_and_resize(images, boxes, 224), plain(images, boxes, 224), rtol=0, atol=5e-5)


def test_nothing_outside_the_box_leaks_in():
    image = torch.full((1, 1, 12, 12), 1e6)
    image[:, :, 3:8, 2:9] = 1
    assert crop_and_resize(image, torch.tensor([[3, 2, 5, 7]]), 16).max() < 1.001


def test_equal_boxes_and_one_box_agree():
    images = torch.rand(5, 3, 20, 20)
    box = torch.tensor([[3, 1, 11, 17]])
    torch.testing.assert_close(crop_and_resize(images, box.expand(5, 4), 16), crop_and_resize(images, box, 16))
    torch.testing.assert_close(crop_and_resize(images, box, 16), plain(images, box.expand(5, 4), 16))


def test_many_boxes_of_one_image():
    image, boxes = torch.rand(1, 3, 50, 60), boxes_of(7, 50, 60)
    many = crop_and_resize(image, boxes, 24)
    torch.testing.assert_close(many, plain(image.expand(7, -1, -1, -1), boxes, 24), rtol=0, atol=1e-5)


def test_the_whole_image_at_its_own_size_is_returned_untouched():
    images = torch.rand(3, 1, 16, 16)
    assert crop_and_resize(images, torch.tensor([[0, 0, 16, 16]]).expand(3, 4), 16) is images


def test_whole_pixels_are_exact():
    images = torch.rand(3, 3, 24, 24)
    boxes = torch.tensor([[0, 0, 16, 16], [8, 3, 16, 16], [5, 8, 16, 16]])
    assert torch.equal(crop_and_resize(images, boxes, 16), plain(images, boxes, 16))


def test_differentiable():
    images = torch.rand(3, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    boxes = boxes_of(3, 6, 7)
    assert torch.autograd.gradcheck(lambda x: crop_and_resize(x, boxes, 5), images)


@pytest.mark.parametrize("box", [[0, 0, 17, 16], [-1, 0, 4, 4], [0, 13, 4, 4], [2, 2, 0, 4]])
def test_boxes_outside_are_refused(box):
    with pytest.raises(ValueError, match="leaves an image of 16 x 16"):
        check_boxes(torch.tensor([box]), 16, 16)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match="255"):
        crop_and_resize(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.tensor([[0, 0, 8, 8]]), 8)


def test_arithmetic_is_full_precision_under_autocast():
    images, boxes = torch.rand(4, 3, 32, 32), boxes_of(4, 32, 32)
    expected = crop_and_resize(images, boxes, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crop_and_resize(images, boxes, 32), expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 10), (11, 12), (13, 15), (219, 192)])
def test_the_centre_is_that_of_torchvision(height, width):
    transforms = pytest.importorskip("torchvision.transforms")
    images = torch.arange(2.0 * height * width).view(2, 1, height, width)
    assert torch.equal(centre(images, 8), transforms.CenterCrop(8)(images))
