"""Points of equal mass: by hand, against all partitions, and moved with what they stand for."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.selection import barycentre as module
from hf_condense.selection.barycentre import barycentre, squared_distances
from hf_condense.selection.centres import kmeans


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values).double()[:, None]


def numbers(n: int, d: int, name: str = "") -> torch.Tensor:
    return torch.from_numpy(Key(0, "barycentre", name).numpy().standard_normal((n, d)))


def as_set(points: torch.Tensor) -> torch.Tensor:
    return points[points[:, 0].argsort()]


def test_by_hand():
    x = numbers(7, 3)
    torch.testing.assert_close(barycentre(x, 1), x.mean(0, keepdim=True))
    torch.testing.assert_close(as_set(barycentre(x, 7)), as_set(x))
    torch.testing.assert_close(as_set(barycentre(rows(0, 1, 10, 11), 2)), rows(0.5, 10.5))
    torch.testing.assert_close(as_set(barycentre(rows(0, 0.1, 0.2, 10), 2)), rows(0.05, 5.1))
    cheap = kmeans(rows(0, 0.1, 0.2, 10)[None], 2, Key(0)).centroids[0]
    torch.testing.assert_close(as_set(cheap), rows(0.1, 10), rtol=0, atol=1e-6)


def test_masses_differ_by_one_row_at_most():
    for n, k in ((7, 3), (9, 4), (6, 3)):
        x = numbers(n, 2, f"{n}")
        sizes = module._assigned(squared_distances(x, barycentre(x, k))).sum(0)
        assert set(sizes.tolist()) <= {float(n // k), float(-(-n // k))} and sizes.sum() == n


def cost(x: torch.Tensor, parts: list[list[int]]) -> float:
    return sum(float((x[part] - x[part].mean(0)).square().sum()) for part in parts)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_no_partition_into_halves_is_better(name):
    """All 35 of eight rows in two groups that lie apart, a row of one nearer to the other than to its own."""
    x = numbers(8, 3, name) + torch.tensor([0, 0, 0, 0, 4, 4, 4, 4])[:, None]
    halves = [[*one] for one in combinations(range(8), 4) if 0 in one]
    best = min(cost(x, [half, [i for i in range(8) if i not in half]]) for half in halves)
    points = barycentre(x, 2)
    distances = squared_distances(x, points)
    found = float((module._assigned(distances) * distances).sum())
    assert len(halves) == 35 and found == pytest.approx(best, rel=1e-9)


def test_points_move_with_their_rows():
    x = numbers(12, 3)
    points = barycentre(x, 3)
    order = torch.from_numpy(Key(0, "order").permutation(12))
    torch.testing.assert_close(barycentre(x[order], 3), points, rtol=0, atol=1e-9)
    turn = torch.linalg.qr(numbers(3, 3, "turn"))[0]
    torch.testing.assert_close(barycentre(x @ turn + 5, 3), points @ turn + 5, rtol=0, atol=1e-9)
    away = (points - x.mean(0)).norm(dim=1)
    assert (away.diff() >= 0).all()


def test_many_rows_are_transported_to_nearly_the_same_points(monkeypatch):
    x = numbers(60, 2) * 0.1 + torch.arange(3).repeat(20)[:, None] * 3
    exact = barycentre(x, 3)
    monkeypatch.setattr(module, "EXACT_UP_TO", 10)
    torch.testing.assert_close(barycentre(x, 3), exact, rtol=0, atol=1e-3)
