"""RDED's crops against brute force: scores, ranks, tiles and padding (rded.md, section 7)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from hf_condense.data.randomness import Key
from hf_condense.errors import DataError
from hf_condense.selection.real import random_rows
from hf_condense.selection.realism import cross_entropy_of, realistic_crops, tile

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Sure of class 1 where the canvas is bright in its middle."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.25]))

    def forward(self, x):
        self.seen = x
        bright = x.mean((1, 2, 3))
        return torch.stack((-bright, bright), 1) * 8


def source(sizes=(20,) * 12, seed=0):
    draw = np.random.default_rng(seed)
    pictures = [Image.fromarray(draw.integers(0, 256, (s, s + 3), np.uint8), "L") for s in sizes]
    return SimpleNamespace(
        rows_of=lambda c: np.arange(len(pictures)),
        native=lambda row: pictures[row],
        channels=1,
        class_names=["a", "b"],
    )


def crops(count=2, factor=2, size=8, candidates=12, key=None, src=None, observer=None, **changes):
    return realistic_crops(
        src or source(), 1, count, observer or Brightness(), size=size, factor=factor, candidates=candidates, crops=3,
        key=key or Key(0), device=CPU, **changes,
    )  # fmt: skip


def test_the_easiest_crop_of_each_image_and_the_easiest_images_win(monkeypatch):
    kept = {}
    original = cross_entropy_of

    def spy(pieces, *rest):
        kept["pieces"], kept["scores"] = pieces, original(pieces, *rest)
        return kept["scores"]

    monkeypatch.setattr("hf_condense.selection.realism.cross_entropy_of", spy)
    images, rows = crops(count=2, factor=1)
    scores = kept["scores"].view(12, 3)
    pieces = kept["pieces"].view(12, 3, 1, 8, 8)
    best = sorted(range(12), key=lambda i: (float(scores[i].min()), i))[:2]
    for image, i in zip(images, best):
        assert torch.equal(image, pieces[i, int(scores[i].argmin())])
    assert len(set(rows.tolist())) == 2


def test_a_sign_flip_in_the_score_picks_the_dark_crops():
    class Flipped(Brightness):
        def forward(self, x):
            return super().forward(x).flip(1)

    bright, dark = crops(observer=Brightness())[0], crops(observer=Flipped())[0]
    assert bright.float().mean() > dark.float().mean() + 5


def test_tiles_hold_quartiles_of_the_ranking():
    ranks = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 4, 4)
    images = tile(ranks, count=2, factor=2, size=7)
    sizes = [4, 3]
    for j in range(2):
        for k in range(4):
            top, left = (k // 2) * 4, (k % 2) * 4
            cell = images[j, 0, top : top + sizes[k // 2], left : left + sizes[k % 2]]
            assert (cell == k * 2 + j).all()
    whole = torch.randint(0, 256, (3, 1, 5, 5), dtype=torch.uint8)
    assert torch.equal(tile(whole, 3, 1, 5), whole)


@pytest.mark.parametrize(("size", "side"), [(8, 4), (9, 5), (7, 4)])
def test_a_piece_is_shown_in_the_middle_of_the_mean_colour(size, side):
    observer, pieces = Brightness(), torch.full((2, 1, side, side), 255, dtype=torch.uint8)
    loss = cross_entropy_of(pieces, 1, observer, size, CPU)
    edge = (size - side) // 2
    expected = torch.full((2, 1, size, size), 0.25)
    expected[..., edge : edge + side, edge : edge + side] = 1
    assert torch.equal(observer.seen, expected)
    assert torch.allclose(loss, F.cross_entropy(observer(expected), torch.ones(2, dtype=torch.long), reduction="none"))


def test_no_two_cells_from_one_image_and_other_classes_do_not_matter():
    images, rows = crops(count=3, factor=2)
    again, same = crops(count=3, factor=2)
    assert torch.equal(images, again) and rows.tolist() == same.tolist()
    with pytest.raises(DataError, match="ipc: 4 does not work. Allowed: at most 3 at rded_factor 2"):
        crops(count=4, factor=2)


def test_random_rows_take_none_twice_and_say_when_a_class_is_too_small():
    src = source()
    rows = random_rows(src, (0,) * 12, Key(1))
    assert sorted(rows) == list(range(12))
    with pytest.raises(DataError, match="ipc: 13 does not work. Allowed: at most 12, the images of class 'a'"):
        random_rows(src, (0,) * 13, Key(1))
