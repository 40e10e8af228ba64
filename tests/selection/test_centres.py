"""Farthest-first and k-means medoids: brute force, tight groups, order, repair, inertia (dream.md, section 11)."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.selection import centres
from hf_condense.selection.centres import farthest_first, kmeans, medoids


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Key(seed, "normal").numpy().standard_normal(shape))


def blobs(count: int = 128, each: int = 10, d: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in tight groups, shuffled, and the group of each."""
    points = 10 * normal(count, d, seed=seed)[:, None] + 0.01 * normal(count, each, d, seed=seed + 1)
    order = torch.from_numpy(Key(seed, "order").permutation(count * each))
    return points.flatten(0, 1)[order], torch.arange(count).repeat_interleave(each)[order]


def radius(f: torch.Tensor, picks) -> float:
    return float(torch.cdist(f, f[list(picks)]).min(1).values.max())


def test_farthest_first_is_brute_force():
    f = normal(50, 6)
    picks = [int((f - f.mean(0)).norm(dim=1).argmin())]
    while len(picks) < 12:
        picks.append(int(torch.cdist(f, f[picks]).min(1).values.argmax()))
    assert farthest_first(f, 12).tolist() == picks
    assert farthest_first(f, 5).tolist() == picks[:5]


def test_farthest_first_is_within_twice_the_best_radius_and_no_worse_with_more():
    f = normal(12, 2)
    found = [radius(f, farthest_first(f, k).tolist()) for k in range(1, 13)]
    assert found == sorted(found, reverse=True) and found[-1] == 0
    for k in (2, 3, 4):
        best = min(radius(f, chosen) for chosen in combinations(range(12), k))
        assert found[k - 1] <= 2 * best + 1e-12


def test_equal_rows_are_all_picked_once():
    f = torch.zeros(6, 3)
    assert sorted(farthest_first(f, 6).tolist()) == sorted(medoids(f, 6, Key(0)).tolist()) == list(range(6))


@pytest.mark.parametrize("d", [4, 8, 32, 300])
def test_one_medoid_a_tight_group(d):
    for seed in range(3):
        f, group = blobs(d=d, seed=seed)
        assert sorted(group[medoids(f, 128, Key(seed))].tolist()) == list(range(128))
        assert sorted(group[medoids(f.float(), 128, Key(seed))].tolist()) == list(range(128))


def test_a_random_start_alone_does_not_find_all_groups(monkeypatch):
    monkeypatch.setattr(centres, "WORTH_MOVING", float("inf"))
    f, group = blobs()
    assert len(set(group[medoids(f, 128, Key(0))].tolist())) < 110


def test_permuting_rows_permutes_medoids_and_equal_keys_give_equal_ones():
    f, order = normal(200, 100), torch.from_numpy(Key(1).permutation(200))
    picks = medoids(f, 20, Key(3))
    assert order[medoids(f[order], 20, Key(3))].tolist() == picks.tolist() == medoids(f, 20, Key(3)).tolist()
    assert sorted(medoids(f, 20, Key(4)).tolist()) != sorted(picks.tolist())


def test_medoids_are_distinct_and_fewer_distinct_rows_than_clusters_do_no_harm():
    f = normal(5, 4).repeat(8, 1)  # five different rows for twelve clusters: most clusters stay empty
    picks = medoids(f, 12, Key(0))
    assert len(set(picks.tolist())) == 12 and {p % 5 for p in picks.tolist()} == set(range(5))
    clusters = kmeans(f[None], 12, Key(0))
    assert clusters.centroids.isfinite().all() and clusters.sizes.sum() == 40


def test_an_empty_cluster_moves_to_the_farthest_row():
    x = torch.tensor([[[0.0], [1.0], [2.0], [30.0]]])
    moved = centres._relocated(x, torch.tensor([[[1.0], [500.0]]]))  # nobody is near 500
    assert moved[0, 1].tolist() == [30.0]


def test_several_rows_a_cluster_are_the_nearest_of_their_centroid():
    f, group = blobs(count=16, each=10)
    picks = medoids(f, 64, Key(0), per_cluster=4).view(16, 4)
    assert (group[picks] == group[picks][:, :1]).all() and len(set(picks.flatten().tolist())) == 64
    for row in picks:
        members = torch.where(group == group[row[0]])[0]
        distances = (f[members] - f[members].mean(0)).norm(dim=1)
        assert set(row.tolist()) == set(members[distances.argsort()[:4]].tolist())


def test_sets_are_clustered_as_if_each_were_alone():
    both = torch.stack([normal(120, 80, seed=1), normal(120, 80, seed=2)])
    together = kmeans(both, 10, Key(0))
    for c in range(2):
        alone = kmeans(both[c][None], 10, Key(0))
        assert torch.equal(together.assignment[c], alone.assignment[0])
        assert torch.allclose(together.centroids[c], alone.centroids[0], atol=1e-12)


def test_centroids_are_means_and_as_good_as_those_of_scikit_learn():
    from sklearn.cluster import KMeans

    f = normal(600, 16) @ normal(16, 200, seed=1) + 0.3 * normal(600, 200, seed=2)
    found = kmeans(f[None], 40, Key(0))
    assert torch.equal(found.assignment[0].bincount(minlength=40), found.sizes[0]) and (found.sizes > 0).all()
    inertia = float((f - found.centroids[0][found.assignment[0]]).square().sum())
    other = [KMeans(40, init="random", n_init=1, random_state=s).fit(f.numpy()).inertia_ for s in range(2)]
    drawn = float(torch.cdist(f, f[Key(0).permutation(600)[:40]]).square().min(1).values.sum())
    assert inertia < 1.05 * sum(other) / 2 < 0.8 * drawn


@pytest.mark.parametrize("each", [1, 3])
def test_picks_that_nothing_reads_back_are_the_same(each):
    generator = torch.Generator().manual_seed(0)
    for k, n in ((5, 15), (4, 40)):
        distances = torch.rand(k, n, generator=generator)
        distances[1] = distances[0]  # clusters that want the same rows
        there = centres._nearest_distinct_unread(distances.clone(), each)
        assert there.tolist() == centres._nearest_distinct(distances, each).tolist()
