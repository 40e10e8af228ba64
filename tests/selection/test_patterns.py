"""Patterns of a class: communities, budgets, centres and margin, each against a count or a formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_condense.selection.patterns import budgets, communities, crossing, graph_patterns, in_margin, picks, window


def two_groups(each: int = 10, seed: int = 0) -> torch.Tensor:
    """Rows whose cosines are above 0.9 inside a group and below 0.5 across."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(2, 8, dtype=torch.float64).repeat_interleave(each, 0)
    rows = centres + 0.05 * torch.randn(2 * each, 8, generator=generator, dtype=torch.float64)
    cosine = F.normalize(rows) @ F.normalize(rows).T
    assert cosine[:each, :each].min() > 0.9 and cosine[:each, each:].max() < 0.5
    return rows


def test_budgets_are_shares_by_largest_remainder():
    assert budgets(np.array([4, 4, 1, 1]), 5).tolist() == [2, 2, 1, 0]  # ideal 2, 2, 0.5, 0.5
    stream = np.random.default_rng(0)
    for _ in range(1000):
        sizes = stream.integers(1, 60, stream.integers(1, 12))
        count = int(stream.integers(1, sizes.sum() + 1))
        found = budgets(sizes, count)
        assert found.sum() == count and (found >= 0).all() and (found <= sizes).all()
        assert (np.abs(found - sizes * count / sizes.sum()) < 1).all()


def test_one_pattern_without_margin_gives_the_rows_nearest_to_the_mean_direction():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit = rows / rows.square().sum(1, keepdim=True).sqrt()
    mean = unit.mean(0)
    cosine = [float((u * mean).sum() / mean.norm()) for u in unit]
    wanted = sorted(range(40), key=lambda i: -cosine[i])[:7]
    assert picks(rows, np.zeros(40, dtype=int), 7, "none", np.zeros(40)).tolist() == wanted
    flipped = sorted(range(40), key=lambda i: cosine[i])[:7]
    assert flipped != wanted


def test_two_far_groups_are_two_patterns_with_two_picks_each():
    rows = two_groups()
    patterns = graph_patterns(rows)
    assert patterns.tolist() == [0] * 10 + [1] * 10
    entropy = np.linspace(0, 1, 20)
    found = picks(rows, patterns, 4, "window", entropy)
    assert sorted(found // 10) == [0, 0, 1, 1] and len(set(found)) == 4
    order = np.random.default_rng(2).permutation(20)
    again = picks(rows[order], graph_patterns(rows[order]), 4, "window", entropy[order])
    assert set(order[again]) == set(found)


def test_a_duplicated_row_is_taken_once_while_others_remain():
    rows = two_groups()
    rows[1] = rows[0]
    found = picks(rows, graph_patterns(rows), 20, "entropy", np.zeros(20))
    assert sorted(found) == list(range(20))


def test_rows_without_a_like_one_are_patterns_of_their_own():
    assert graph_patterns(torch.eye(4)).tolist() == [0, 1, 2, 3]
    assert graph_patterns(torch.ones(1, 3)).tolist() == [0]
    assert graph_patterns(torch.ones(2, 3)).tolist() == [0, 0]  # fewer rows than neighbours that are asked for


def test_communities_are_those_of_networkx_where_there_is_one_answer():
    import networkx

    graph = networkx.connected_caveman_graph(6, 7)
    links = [dict.fromkeys(graph[i], 1.0) for i in range(42)]
    found = communities(links)
    groups = [set(np.flatnonzero(found == c).tolist()) for c in range(found.max() + 1)]
    other = networkx.community.louvain_communities(graph, seed=0)
    assert networkx.community.modularity(graph, groups) == pytest.approx(networkx.community.modularity(graph, other))
    assert len(groups) == 6


def gaussians(seed=0, spreads=(0.1, 0.1)):
    stream = np.random.default_rng(seed)
    return np.concatenate([stream.normal(1, spreads[0], 4000), stream.normal(2, spreads[1], 4000)])


def test_the_window_goes_from_the_lower_mean_to_the_crossing():
    low, high = window(gaussians())
    assert low == pytest.approx(1, abs=0.02) and high == pytest.approx(1.5, abs=0.02)
    assert window(gaussians()) == window(gaussians())


@pytest.mark.parametrize("spreads", [(0.1, 0.1), (0.05, 0.3), (0.3, 0.05), (0.1, 0.1 + 1e-12)])
def test_at_the_crossing_the_weighted_densities_are_equal(spreads):
    mean, spread, weight = np.array([1.0, 2.0]), np.array(spreads), np.array([0.3, 0.7])
    x = crossing(mean, spread, weight)
    assert 1 < x < 2
    a, b = (w / s * math.exp(-0.5 * ((x - m) / s) ** 2) for m, s, w in zip(mean, spread, weight))
    assert a == pytest.approx(b, rel=1e-9)
    assert crossing(mean, np.array([1e-3, 10.0]), np.array([1e-9, 1.0])) == math.inf  # the second is ahead everywhere


def test_the_margin_is_taken_upwards_from_the_lower_mean_and_then_below_it():
    entropy = gaussians()[::40]
    low, high = window(entropy)
    order = in_margin(entropy, share=1.0)
    taken = entropy[order]
    inside = int(((entropy >= low) & (entropy <= high)).sum())
    below = int((entropy < low).sum())
    assert (np.diff(taken[:inside]) >= 0).all() and low <= taken[0] and taken[inside - 1] <= high
    assert (np.diff(taken[inside : inside + below]) <= 0).all() and taken[inside] < low
    assert (taken[inside + below :] > high).all() and sorted(order) == list(range(len(entropy)))


@pytest.mark.parametrize("count", [1, 3, 9])
def test_of_few_images_the_most_uncertain_come_first(count):
    entropy = np.random.default_rng(count).random(count)
    assert in_margin(entropy, share=0.1).tolist() == np.argsort(-entropy).tolist()


def test_equal_entropies_are_no_trouble():
    assert sorted(in_margin(np.zeros(50), share=0.5)) == list(range(50))
    assert len(set(picks(two_groups(), np.zeros(20, dtype=int), 12, "window", np.zeros(20)))) == 12
