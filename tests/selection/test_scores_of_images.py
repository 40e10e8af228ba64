"""EL2N and forgetting counts against line-by-line versions, ranking with ties, tiles of whole images."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.selection.scores import cad, el2n, forgetting, ranked
from hf_condense.selection.tiles import combine


def test_el2n_is_the_length_of_the_error_vector():
    logits = torch.from_numpy(Key(0).numpy().standard_normal((7, 5)))
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    for i, (found, label) in enumerate(zip(el2n(logits, labels).tolist(), labels.tolist())):
        exps = [math.exp(v) for v in logits[i].tolist()]
        errors = [e / sum(exps) - (k == label) for k, e in enumerate(exps)]
        assert abs(found - math.sqrt(sum(e * e for e in errors))) < 1e-12
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert torch.allclose(el2n(sure, torch.tensor([0, 0])), torch.tensor([0.0, math.sqrt(2)]), atol=1e-6)


def test_forgetting_counts_falls_from_right_to_wrong():
    histories = ["11111", "10101", "01110", "00000", "00001", "10000"]
    correct = torch.tensor([[c == "1" for c in history] for history in histories]).T
    assert forgetting(correct).tolist() == [0, 2, 1, math.inf, 0, 1]
    drawn = torch.from_numpy(Key(0).uniform(9, 50) < 0.5)
    falls = [sum(bool(a) and not b for a, b in pairwise(h)) if any(h) else math.inf for h in drawn.T.tolist()]
    assert forgetting(drawn).tolist() == falls


def test_cad_is_the_mean_spread_over_a_band_of_windows():
    assert cad(torch.full((12, 3), 0.7), 4, 3).tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    values = torch.from_numpy(Key(0).uniform(12, 5))
    found = cad(values, 4, 3)  # K = 12, J = 4, W = 3: windows that begin at epochs 5, 6 and 7, from 1
    for i, p in enumerate(values.T.tolist()):
        spreads = []
        for k in (5, 6, 7):
            part = p[k - 1 : k + 3]
            spreads.append(math.sqrt(sum((v - sum(part) / 4) ** 2 for v in part) / 4))
        assert abs(float(found[i]) - sum(spreads) / 3) < 1e-12
    for first in range(1, 13):  # right from this epoch on, wrong before: a ones in a window of four
        step = (torch.arange(1, 13) >= first).double()[:, None]
        ones = [min(max(k + 3 - first + 1, 0), 4) for k in (5, 6, 7)]
        wanted = sum(math.sqrt(a * (4 - a)) / 4 for a in ones) / 3
        assert float(cad(step, 4, 3)) == pytest.approx(wanted, abs=1e-12)
        assert (wanted > 0) == (6 <= first <= 10)
    assert cad(values[:8], 4, 3).shape == (5,)  # the fewest epochs: J + W + 1


def test_ranking_takes_the_end_that_is_asked_for_and_draws_among_equals():
    scores = torch.tensor([3.0, 1.0, math.inf, 2.0])
    assert ranked(scores, 4, Key(0), largest=True).tolist() == [2, 0, 3, 1]
    assert ranked(scores, 2, Key(0), largest=False).tolist() == [1, 3]
    equal = torch.zeros(30)
    first, other = (ranked(equal, 10, Key(s), largest=True).tolist() for s in (0, 1))
    assert first != other and first != sorted(first) and first == ranked(equal, 20, Key(0), largest=True)[:10].tolist()


def test_tiles_hold_whole_images_and_fewer_tiles_are_the_first_of_more():
    images = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 9, 9).contiguous() * 10
    tiles = combine(images, 2, 9)
    assert tiles.shape == (2, 3, 9, 9)
    for j in range(2):
        corners = tiles[j, 0][[0, 0, 8, 8], [0, 8, 0, 8]]
        assert corners.tolist() == [10 * (4 * j + k) for k in range(4)]
        assert set(tiles[j].unique().tolist()) == set(corners.tolist())
    assert torch.equal(combine(images[:4], 2, 9), tiles[:1])
    assert torch.equal(combine(images, 1, 9), images)
    halves = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    halves[..., 4:] = 200  # nothing is cropped: each cell shows both halves
    cell = combine(halves, 2, 8)[0, 0, :4, :4].float()
    assert cell[:, 0].max() < 30 and cell[:, 3].min() > 170
