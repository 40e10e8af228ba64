"""Squeeze of one network on two processes at once."""

from __future__ import annotations

import json

import pytest
import torch

from hf_condense.config import DataSettings, SqueezeSettings
from hf_condense.data.augmentation import ViewPolicy, draw_views, views_of
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.models.checkpoints import read_checkpoint
from hf_condense.models.data_parallel import LARGE, pays
from hf_condense.models.pool import PoolTraining, squeeze
from tests import forked

CPU = torch.device("cpu")
SETTINGS = {"base_model": ("convnet_d1",), "squeeze_epochs": 2, "squeeze_batch": 32, "min_top1_over_chance": 0.0}


def trained(folder, processes: int, **changes) -> None:
    from accelerate import Accelerator

    splits = open_source(DataSettings(dataset="digits", max_per_class=20, max_test=50), Key(0))
    settings = SqueezeSettings(**{**SETTINGS, **changes})
    training = PoolTraining(settings, splits.train, splits.test, 8, Key(1), CPU, folder, progress=False)
    pool = squeeze(training, Accelerator(cpu=True) if processes > 1 else None)
    assert pool[0].processes == (processes if processes > 1 and changes.get("squeeze_parallel") else None)


def weights(folder) -> dict[str, torch.Tensor]:
    (place,) = [p for p in (folder / "models").iterdir() if p.is_dir() and not p.name.endswith(".fit")]
    return read_checkpoint(place).state_dict(), json.loads((place / "member.json").read_text())


def test_two_processes_at_once_train_what_one_trains(tmp_path):
    """But for rounding: the network has no batch norms. The member says how it was trained."""
    trained(tmp_path / "one", 1)
    assert forked.run_together(lambda: trained(tmp_path / "two", 2, squeeze_parallel=True), 2) == [0, 0]
    (one, alone), (two, both) = weights(tmp_path / "one"), weights(tmp_path / "two")
    begun = squeeze_start(tmp_path)
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
            assert name not in begun or name in ("mean", "std") or not torch.equal(value, begun[name])
    assert "processes" not in alone and both["processes"] == 2


def squeeze_start(tmp_path) -> dict[str, torch.Tensor]:
    """The untrained network of the same key."""
    trained(tmp_path / "start", 1, squeeze_lr=1e-30)
    return weights(tmp_path / "start")[0]


def test_short_trainings_stay_whole_on_one_process(tmp_path):
    assert not pays(LARGE // 1000, 999) and pays(LARGE // 1000, 1000)
    trained(tmp_path / "one", 1)
    assert forked.run_together(lambda: trained(tmp_path / "two", 2), 2) == [0, 0]
    (one, _), (two, facts) = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(value, two[name]) for name, value in one.items()) and "processes" not in facts


@pytest.mark.parametrize("policy", [ViewPolicy(8, pad=1), ViewPolicy(8, crop=(0.1, 1.0), rand_augment=(2, 6))])
def test_views_of_a_part_are_those_of_the_batch(policy):
    whole = draw_views(policy, Key(0), 10, 8, 8)
    parts = [views_of(whole, part).to_tensors() for part in (slice(0, 5), slice(5, 10))]
    for name, value in whole.to_tensors().items():
        joined = torch.cat([part[name] for part in parts]) if value.ndim else None
        assert torch.equal(joined, value) if value.ndim else name in ("count", "lam")
