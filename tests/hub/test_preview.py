"""Pictures show the pixels they are given, in order, with sharp edges."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_condense.hub.preview import image_grid


def places(path, colour) -> np.ndarray:
    """(row, column) of every pixel of that colour."""
    return np.argwhere((np.asarray(Image.open(path).convert("RGB")) == np.array(colour)).all(-1))


@pytest.mark.parametrize("side, shown", [(8, 64), (32, 64), (224, 128)])
def test_small_images_grow_by_a_whole_factor_and_big_ones_shrink(tmp_path, side, shown):
    images = torch.zeros(4, 3, side, side, dtype=torch.uint8)
    images[0, 0] = 255
    image_grid(images, torch.tensor([0, 0, 1, 1]), ["one", "two"], tmp_path / "grid.png")
    red = places(tmp_path / "grid.png", (255, 0, 0))
    assert len(red) == shown * shown
    assert np.ptp(red, axis=0).tolist() == [shown - 1, shown - 1]


def test_one_line_a_class_in_class_order(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    labels = torch.tensor([2, 0, 1, 0])
    images = torch.stack(
        [torch.tensor(colours[c], dtype=torch.uint8)[:, None, None].expand(3, 64, 64) for c in labels]
    )
    image_grid(images, labels, ["red", "green", "blue"], tmp_path / "grid.png", rows=[0, 1, 2, 3])
    corners = {c: places(tmp_path / "grid.png", c).min(0) for c in colours}
    sizes = {c: len(places(tmp_path / "grid.png", c)) for c in colours}
    assert sizes == {colours[0]: 2 * 64 * 64, colours[1]: 64 * 64, colours[2]: 64 * 64}
    order = sorted(colours, key=lambda c: (corners[c][1], corners[c][0]))  # blocks from left to right, lines downwards
    assert order == colours


@pytest.mark.parametrize("classes, ipc", [(3, 1), (200, 1), (1000, 2), (10, 50)])
def test_any_shape_of_set_fits_a_page(tmp_path, classes, ipc):
    images = torch.zeros(classes * ipc, 1, 32, 32, dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(ipc)
    names = [f"class number {i} with a long, long name, as in ImageNet" for i in range(classes)]
    image_grid(images, labels, names, tmp_path / "grid.png")
    width, height = Image.open(tmp_path / "grid.png").size
    assert 150 < width < 3000 and 80 < height < 3000
