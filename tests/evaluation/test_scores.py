import math

import numpy as np
import pytest

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation import scores


def test_the_map():
    for balance, value in ((-1, 0), (1, 1), (0, 1 / (1 + math.e)), (0, 0.268941), (0.1, 0.313687), (-0.2, 0.191819)):
        assert scores.score(balance) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "syn, hlr, ior, alpha, lrs", [(0.823, 0.112, 0.085, -0.0135, 26.3), (0.711, 0.224, -0.027, -0.1255, 21.9)]
)
def test_published_fashion_mnist_rows(syn, hlr, ior, alpha, lrs):
    real, random = 0.935, 0.738
    assert scores.hlr(real, syn) == pytest.approx(hlr)
    assert scores.ior(syn, random) == pytest.approx(ior)
    assert scores.score(alpha) == pytest.approx(scores.lrs(real, syn, syn, random))
    assert 100 * scores.lrs(real, syn, syn, random) == pytest.approx(lrs, abs=0.1)


def test_monotone_in_each_accuracy_with_the_right_sign():
    base = {"real": 0.9, "syn_hard": 0.6, "syn_any": 0.7, "random_any": 0.5}
    for name, sign in (("real", -1), ("syn_hard", 1), ("syn_any", 1), ("random_any", -1)):
        change = scores.lrs(**base | {name: base[name] + 0.05}) - scores.lrs(**base)
        assert sign * change > 0
    base = {"syn_aug": 0.7, "random_aug": 0.5, "syn_noaug": 0.6, "random_noaug": 0.5}
    for name in base:
        change = scores.ars(**base | {name: base[name] + 0.05}) - scores.ars(**base)
        assert (1 if name.startswith("syn") else -1) * change > 0


def test_weights_switch_parts_off():
    assert scores.lrs(0.9, 0.6, 0.7, 0.5, 0) == scores.lrs(0.9, 0.6, 0.1, 0.8, 0)
    assert scores.lrs(0.9, 0.6, 0.7, 0.5, 1) == scores.lrs(0.3, 0.1, 0.7, 0.5, 1)
    assert scores.ars(0.7, 0.7, 0.1, 0.9, 1) == pytest.approx(0.268941, abs=1e-6)


def test_with_hard_labels_the_ranking_is_that_of_accuracy():
    syn = np.random.default_rng(0).uniform(0.2, 0.8, 20)
    lrs = scores.lrs(0.9, syn, syn, 0.5)
    assert (np.argsort(lrs) == np.argsort(syn)).all()


def test_percentages_and_wrong_weights_are_refused():
    for wrong in (82.3, -0.1, float("nan"), []):
        with pytest.raises(ConfigError, match="fractions between 0 and 1"):
            scores.hlr(0.9, wrong)
    with pytest.raises(ConfigError, match="weight"):
        scores.lrs(0.9, 0.6, 0.7, 0.5, 1.1)


def test_interval_of_known_numbers():
    found = scores.summarise([0.1, 0.2, 0.3])
    # t(0.975, 2 degrees) = 4.302653, std 0.1
    assert (found.mean, found.std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert scores.summarise([0.4]) == scores.Summary(1, 0.4, None, None, None)


def test_pairing_takes_out_what_seeds_share():
    seeds = np.random.default_rng(0).normal(0.5, 0.1, 10)
    found = scores.paired_difference(seeds + 0.02, seeds)
    assert found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02)
    apart = scores.summarise(seeds + 0.02)
    assert apart.high - apart.low > 0.05
    with pytest.raises(ConfigError, match="same runs"):
        scores.paired_difference([0.1, 0.2], [0.1])


def test_intervals_cover():
    draws = np.random.default_rng(1).normal(0.5, 0.1, (300, 5))
    inside = [s.low <= 0.5 <= s.high for s in map(scores.summarise, draws)]
    assert 0.91 <= np.mean(inside) <= 0.99


def test_bootstrap_respects_sets():
    # 3 sets that differ, 20 networks each that do not: not 60 independent runs
    runs = np.repeat(np.array([[0.3], [0.5], [0.7]]), 20, 1)
    low, high = scores.bootstrap_interval(runs, Key(0))
    flat_low, flat_high = scores.bootstrap_interval(runs.ravel(), Key(0))
    assert low <= 0.5 <= high and high - low > 2 * (flat_high - flat_low)
    assert (low, high) == scores.bootstrap_interval(runs, Key(0))


def test_one_set_against_fresh_draws_is_the_prediction_form():
    ours, draws = [0.52, 0.55, 0.53, 0.58], [0.50, 0.49, 0.53, 0.51]
    found = scores.gap(ours, draws, 1, 4)
    # s_x² 0.0007, s_r² 0.000291667, t(0.975, 3) = 3.182446
    half = 3.182446305 * math.sqrt(np.var(ours, ddof=1) / 4 + np.var(draws, ddof=1) * (1 + 1 / 4))
    assert (found.test, found.n) == ("prediction", 4)
    assert found.mean == pytest.approx(0.0375) and found.high - found.mean == pytest.approx(half, abs=1e-8)
    assert scores.gap(ours, draws, 4, 4).test == "welch"
    assert scores.gap(ours, draws, 1, 1).test == "paired"
    assert scores.gap([0.5], [0.4], 1, 1).low is None and scores.gap([0.5], [0.4], 1, 2).low is None


@pytest.mark.parametrize("form, most", [("gap", 0.035), ("paired", 1.0)])
def test_lucky_draws_are_not_called_better(form, most):
    """One draw, scored by five seeds, against a fresh draw a seed: images matter more than seeds."""
    random = np.random.default_rng(5)
    images, seeds = random.normal(0, 0.03, (2000, 6)), random.normal(0, 0.01, (2000, 2, 5))
    ours, draws = 0.5 + images[:, :1] + seeds[:, 0], 0.5 + images[:, 1:] + seeds[:, 1]
    if form == "gap":
        lows = [scores.gap(x, r, 1, 5).low for x, r in zip(ours, draws)]
    else:
        lows = [scores.paired_difference(x, r).low for x, r in zip(ours, draws)]
    above = np.mean(np.array(lows) > 0)
    assert above <= most
    assert form == "gap" or above > 0.12  # what pairs would say
