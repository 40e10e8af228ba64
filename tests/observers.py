"""Two small networks that take any side, as observers of digits. They have seen nothing: tests of synthesis need no more."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key, keyed
from hf_condense.data.source import open_source
from hf_condense.methods.base import Context
from hf_condense.models.image_model import ImageModel
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.statistics import running_statistics

CPU = torch.device("cpu")
KEY = Key(0, "observers")


@cache
def splits():
    return open_source(DataSettings("digits", max_per_class=20, max_test=20), Key(0, "data"))


def member(seed: int) -> PoolMember:
    """One of them; others by other seeds."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 8, 1), (8, 12, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    with keyed(KEY / "network" / seed):
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
        model = ImageModel(body, num_classes=10, channels=1, name=f"net{seed}")
    return PoolMember.measured(model.name, model.freeze(), splits().test, CPU, 8, epochs=0)


def observed(count: int = 2, ipc: int = 1) -> Context:
    """What a method gets: digits of 8 px, `count` observers and what their batch norms remember."""
    pool = ModelPool([member(seed) for seed in range(count)])
    statistics = [running_statistics(m.model, torch.zeros(2, 1, 8, 8), 10) for m in pool]
    return Context(splits().train, 8, ipc, KEY / "condense", CPU, "fp32", False, pool, statistics)
