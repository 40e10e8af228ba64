"""Multipliers against the values of EDC's paper and script, and warm-up."""

import pytest

from hf_condense.errors import ConfigError
from hf_condense.models.schedules import multiplier


@pytest.mark.parametrize(
    "name, epoch, epochs, params, expected",
    [
        ("constant", 7, 10, {}, 1.0),
        ("cosine", 50, 100, {}, 0.5),
        ("smoothing", 0, 300, {"zeta": 2}, 1.0),
        ("smoothing", 150, 300, {"zeta": 2}, 0.8536),
        ("smoothing", 299, 300, {"zeta": 2}, 0.5026),
        ("ssrs", 833, 1000, {"zeta": 2}, 0.6297),
        ("ssrs", 834, 1000, {"zeta": 2}, 0.1045),
        ("linear_compat", 150, 300, {"zeta": 2}, 0.75),
        ("multistep", 799, 1000, {"milestones": (800, 900, 950), "factor": 0.5}, 1.0),
        ("multistep", 950, 1000, {"milestones": (800, 900, 950), "factor": 0.5}, 0.125),
        ("multistep", 50, 100, {"milestones": (0.5,), "factor": 0.1}, 0.1),
        ("multistep", 665, 1000, {"milestones": (2 / 3,), "factor": 0.2}, 1.0),
        ("multistep", 666, 1000, {"milestones": (2 / 3,), "factor": 0.2}, 0.2),  # rounded down
        ("step", 60, 90, {"every": 30, "factor": 0.1}, 0.01),
    ],
)
def test_values(name, epoch, epochs, params, expected):
    assert multiplier(name, epoch, epochs, **params) == pytest.approx(expected, abs=5e-5)


def test_warm_up_climbs_then_runs_the_schedule_over_the_rest():
    rates = [multiplier("cosine", e, 12, warmup_epochs=2, warmup_factor=0.1) for e in range(12)]
    assert rates[:3] == pytest.approx([0.1, 0.55, 1.0])
    assert rates[7] == pytest.approx(0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_unknown_name_and_parameter():
    with pytest.raises(ConfigError, match="Did you mean cosine"):
        multiplier("cosin", 0, 1)
    with pytest.raises(ConfigError, match="zeta"):
        multiplier("cosine", 0, 1, zeta=2)
