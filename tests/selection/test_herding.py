"""Herding against the formula, and its promises about prefixes, order and means."""

from __future__ import annotations

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.selection.herding import herding


def features(n: int = 60, d: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Key(seed, "features").numpy().gamma(0.5, size=(n, d)))


def brute_force(f: torch.Tensor, count: int, sign: int = 1) -> list[int]:
    """Line by line: the free row with the smallest ||k mu - (sum + f_i)|| (largest where `sign` is -1)."""
    mean, picks = f.mean(0), []
    for k in range(1, count + 1):
        total = sum((f[p] for p in picks), torch.zeros_like(mean))
        free = [i for i in range(len(f)) if i not in picks]
        picks.append(min(free, key=lambda i: sign * float((k * mean - (total + f[i])).norm())))
    return picks


@pytest.mark.parametrize("normalise", [False, True])
def test_picks_are_those_of_the_formula(normalise):
    f = features()
    seen = f / f.norm(dim=1, keepdim=True) if normalise else f
    assert herding(f, 20, normalise).tolist() == brute_force(seen, 20)
    assert herding(f, 20, not normalise).tolist() != brute_force(seen, 20)


def test_a_whole_class_is_a_permutation_and_fewer_are_the_first_of_more():
    f = features()
    whole = herding(f, 60)
    assert sorted(whole.tolist()) == list(range(60))
    assert herding(f, 7).tolist() == whole[:7].tolist()


def test_permuting_rows_permutes_picks():
    f, order = features(), torch.from_numpy(Key(1).permutation(60))
    assert order[herding(f[order], 15)].tolist() == herding(f, 15).tolist()


def test_the_mean_of_ten_picks_beats_most_random_draws_and_flipped_it_does_not():
    f = features(200)

    def better_than(picks) -> int:
        errors = [float((f[Key(0, i).permutation(200)[:10]].mean(0) - f.mean(0)).norm()) for i in range(100)]
        return sum(float((f[picks].mean(0) - f.mean(0)).norm()) < e for e in errors)

    assert better_than(herding(f, 10)) >= 95
    assert better_than(brute_force(f, 10, sign=-1)) < 95
