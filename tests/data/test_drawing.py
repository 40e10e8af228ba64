import numpy as np

from hf_condense.data.drawing import hold_out, per_class, stratified
from hf_condense.data.randomness import Key

LABELS = np.repeat([0, 1, 2], [50, 30, 20])[Key(0, "mix").permutation(100)]


def test_a_smaller_cap_is_part_of_a_larger_one():
    small, large = (per_class(LABELS, n, Key(1)) for n in (5, 25))
    assert set(small) <= set(large)
    assert np.bincount(LABELS[small]).tolist() == [5, 5, 5]
    assert np.bincount(LABELS[large]).tolist() == [25, 25, 20]
    assert not np.array_equal(small, per_class(LABELS, 5, Key(2)))


def test_hold_out_takes_its_share_of_every_class():
    kept, held = hold_out(LABELS, 0.2, Key(1))
    assert sorted([*kept, *held]) == list(range(100))
    assert np.bincount(LABELS[held]).tolist() == [10, 6, 4]
    kept, held = hold_out(np.array([0, 1, 1, 1, 1, 1, 1]), 0.1, Key(1))
    assert 0 in kept  # a class with one image keeps it
    assert len(held) == 1


def test_stratified_counts_are_exact_and_in_proportion():
    for count in (1, 7, 10, 33, 100, 500):
        rows = stratified(LABELS, count, Key(3))
        assert len(rows) == min(count, 100) == len(set(rows))
        assert (np.abs(np.bincount(LABELS[rows], minlength=3) - np.array([0.5, 0.3, 0.2]) * len(rows)) <= 1).all()
