"""RDED's crops against brute force: cuts, scores, ranks, tiles and padding (rded.md, section 7)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from hf_condense.data.crops import random_boxes
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError, DataError
from hf_condense.selection.real import random_rows
from hf_condense.selection.realism import cross_entropy_of, cut_crops, realistic_crops, score_batch, tile

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Sure of class 1 where the canvas is bright; `sign` -1 where it is dark, 0 of nothing."""

    def __init__(self, sign: float = 1.0, mean: float = 0.25):
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.sign = sign

    def forward(self, x):
        self.seen = x.clone()
        bright = self.sign * x.double().mean((1, 2, 3)).float()
        return torch.stack((-bright, bright), 1) * 8


def source(sizes=(20,) * 12, seed=0, channels=1, mode="L", every=1):
    """Random pictures as class 1; row i * every holds picture i, as if other classes stood in between."""
    draw = np.random.default_rng(seed)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (s, s + 3) if mode == "L" else (s, s + 3, 3), np.uint8)) for s in sizes
    ]
    return SimpleNamespace(
        rows_of=lambda c: np.arange(len(pictures)) * every,
        native=lambda row: pictures[row // every],
        channels=channels,
        class_names=["a", "b"],
    )


def crops(count=2, factor=2, size=8, candidates=12, crops=3, key=None, src=None, observer=None, **changes):
    return realistic_crops(
        src or source(), 1, count, observer or Brightness(), size=size, factor=factor, candidates=candidates,
        crops=crops, key=key or Key(0), device=CPU, **changes,
    )  # fmt: skip


def brute_force(src, count, factor, size, candidates, crops, key, sign=1.0, begin=0):
    """One image and one crop at a time: images and the rows of their cells."""
    side, edge = size // factor, (size - size // factor) // 2
    pool = (key / "pool").permutation(len(src.rows_of(1)))[: max(candidates, count * factor**2)]
    ranking = []
    for turn, place in enumerate(pool):
        row = int(src.rows_of(1)[place])
        pieces = torch.empty(crops, src.channels, side, side, dtype=torch.uint8)
        cut_crops(src.native(row), pieces, key / "crop" / int(place))
        losses = []
        for piece in pieces:
            canvas = torch.full((1, src.channels, size, size), 0.25)
            canvas[0, :, edge : edge + side, edge : edge + side] = piece / 255
            losses.append(float(F.cross_entropy(Brightness(sign)(canvas), torch.tensor([1]))))
        best = min(range(crops), key=lambda j: (losses[j], j))
        ranking.append((losses[best], turn, row, pieces[best]))
    ranking.sort(key=lambda entry: entry[:2])
    ranking = ranking[begin : begin + count * factor**2]
    images = torch.empty(count, src.channels, size, size, dtype=torch.uint8)
    cut = [range(s[0], s[-1] + 1) for s in np.array_split(np.arange(size), factor)]
    for j in range(count):
        for k in range(factor**2):
            top, left = cut[k // factor], cut[k % factor]
            down, right = ([n * side // len(along) for n in range(len(along))] for along in (top, left))
            cell = ranking[k * count + j][3][:, down][:, :, right]
            images[j, :, top[0] : top[-1] + 1, left[0] : left[-1] + 1] = cell
    rows = [[ranking[k * count + j][2] for k in range(factor**2)] for j in range(count)]
    return images, rows if factor > 1 else [row for (row,) in rows]


@pytest.mark.parametrize(
    ("count", "factor", "size", "candidates", "sizes"),
    [
        (3, 1, 8, 12, (20,) * 12),
        (2, 2, 8, 10, (9, 30, 17) * 8),
        (1, 2, 7, 12, (20,) * 12),  # cells of 4 and 3 pixels
        (2, 3, 10, 5, (25,) * 20),  # more cells than candidates: as many images as cells are looked at
        (4, 1, 64, 40, (40, 90) * 20),  # several batches before the observer
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_the_easiest_crop_of_each_image_and_the_easiest_images_win(count, factor, size, candidates, sizes, seed):
    if size == 64:
        assert score_batch(size, CPU) < candidates * 3
    src, key = source(sizes, seed), Key(seed)
    images, rows = crops(count, factor, size, candidates, key=key, src=src)
    expected, expected_rows = brute_force(src, count, factor, size, candidates, 3, key)
    assert torch.equal(images, expected) and rows.tolist() == expected_rows
    hardest, _ = brute_force(src, count, factor, size, candidates, 3, key, sign=-1.0)
    assert not torch.equal(images, hardest)


def test_a_sign_flip_in_the_score_picks_the_dark_crops():
    bright, dark = crops()[0], crops(observer=Brightness(sign=-1.0))[0]
    assert bright.float().mean() > dark.float().mean() + 5


def test_ties_go_to_the_candidate_drawn_first_and_to_its_first_crop():
    src, key = source(), Key(4)
    images, rows = crops(3, 1, key=key, src=src, observer=Brightness(sign=0.0))
    assert rows.tolist() == (key / "pool").permutation(12)[:3].tolist()
    first = torch.empty(3, 1, 8, 8, dtype=torch.uint8)
    cut_crops(src.native(int(rows[0])), first, key / "crop" / int(rows[0]))
    assert torch.equal(images[0], first[0])


def test_medium_difficulty_is_the_middle_of_the_ranking():
    src, key = source(), Key(1)
    images, rows = crops(2, 1, key=key, src=src, difficulty="medium")
    expected, expected_rows = brute_force(src, 2, 1, 8, 12, 3, key, begin=5)
    assert torch.equal(images, expected) and rows.tolist() == expected_rows
    all_of_them = [crops(3, 2, key=key, src=src, difficulty=d)[0] for d in ("easy", "medium")]
    assert torch.equal(*all_of_them)


def test_crops_do_not_hang_on_other_classes_or_other_candidates():
    few, many = source(every=1), source(every=3)
    (images, rows), (same, moved) = crops(src=few), crops(src=many)
    assert torch.equal(images, same) and (rows * 3).tolist() == moved.tolist()
    again, _ = crops(src=few)
    assert torch.equal(images, again) and not torch.equal(images, crops(src=few, key=Key(1))[0])


def test_a_crop_is_cut_first_then_resized_and_seen_without_what_surrounds_it():
    """Within a level of the floating-point resize; PIL's, which rounds its weights otherwise, is within two."""
    draw = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = draw.integers(0, 256, (40, 31, channels), np.uint8)
        picture = Image.fromarray(pixels.squeeze())
        for side in (9, 40):
            out = torch.empty(20, channels, side, side, dtype=torch.uint8)
            cut_crops(picture, out, Key(2))
            boxes = random_boxes(Key(2), 20, 40, 31, (0.08, 1.0), (1.0, 1.0)).tolist()
            for piece, (top, left, h, w) in zip(out, boxes):
                alone = torch.from_numpy(pixels[top : top + h, left : left + w].transpose(2, 0, 1))[None]
                exact = F.interpolate(alone.double(), (side, side), mode="bilinear", antialias=True)[0]
                assert (piece - exact).abs().max() <= 1.01
                pil = picture.crop((left, top, left + w, top + h)).resize((side, side), Image.Resampling.BILINEAR)
                pil = torch.from_numpy(np.array(pil).reshape(side, side, channels)).permute(2, 0, 1)
                assert (piece.int() - pil.int()).abs().max() <= 2
                if h == w == side:
                    assert torch.equal(piece, alone[0])


def test_a_pool_that_is_given_takes_the_place_of_random_candidates():
    src, key, pool = source(), Key(2), np.array([7, 3, 9, 1])
    images, rows = crops(2, 1, key=key, src=src, pool=pool)
    assert set(rows) <= set(src.rows_of(1)[pool])
    assert images.shape[0] == 2 and set(crops(2, 1, key=key, src=src)[1]) != set(rows)


def test_files_of_another_mode_become_the_source_s():
    assert crops(src=source(mode="RGB", channels=1))[0].shape == (2, 1, 8, 8)
    images, _ = crops(src=source(mode="L", channels=3))
    assert images.shape == (2, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2])


def test_tiles_hold_quartiles_of_the_ranking():
    ranks = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 3, 3)
    images = tile(ranks, count=2, factor=2, size=7)
    sizes = [4, 3]
    for j in range(2):
        for k in range(4):
            top, left = (k // 2) * 4, (k % 2) * 4
            cell = images[j, 0, top : top + sizes[k // 2], left : left + sizes[k % 2]]
            assert (cell == k * 2 + j).all()
    whole = torch.randint(0, 256, (3, 1, 5, 5), dtype=torch.uint8)
    assert torch.equal(tile(whole, 3, 1, 5), whole)


@pytest.mark.parametrize(("size", "side"), [(8, 4), (9, 4), (9, 5), (7, 3), (6, 6)])
def test_a_piece_is_shown_in_the_middle_of_the_mean_colour(size, side):
    observer, pieces = Brightness(), torch.full((2, 1, side, side), 255, dtype=torch.uint8)
    loss = cross_entropy_of(pieces, 1, observer, size, CPU)
    edge = (size - side) // 2
    expected = torch.full((2, 1, size, size), 0.25)
    expected[..., edge : edge + side, edge : edge + side] = 1
    assert torch.equal(observer.seen, expected)
    assert torch.allclose(loss, F.cross_entropy(observer(expected), torch.ones(2, dtype=torch.long), reduction="none"))


def test_no_two_cells_come_from_one_image():
    shades = [Image.new("L", (10, 10), 20 * i) for i in range(12)]
    src = source()
    src.native = lambda row: shades[row]
    images, _ = crops(count=3, factor=2, src=src)
    cells = images.view(3, 2, 4, 2, 4).transpose(2, 3).reshape(12, 16)
    assert (cells == cells[:, :1]).all() and sorted(cells[:, 0].tolist()) == [20 * i for i in range(12)]


def test_too_few_images_and_too_many_cells_are_refused():
    with pytest.raises(
        DataError,
        match="ipc=4: expected at most 3 \\(class.* has 12 training images, and each takes 4",
    ):
        crops(count=4, factor=2)
    with pytest.raises(ConfigError, match="rded_factor=9: expected up to 8"):
        crops(count=1, factor=9)


def test_random_rows_take_none_twice_and_say_when_a_class_is_too_small():
    src = source()
    rows = random_rows(src, (0,) * 12, Key(1))
    assert sorted(rows) == list(range(12))
    with pytest.raises(DataError, match="ipc=13: expected at most 12 \\(class 'a'"):
        random_rows(src, (0,) * 13, Key(1))
