"""Statistics matching in several observers at once, each with a weight that is settled for the shard (arXiv:2501.07575)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from torch import Tensor

from hf_condense.data.randomness import Key
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import Shard


class CommitteeStatistics(FeatureStatistics):
    """`FeatureStatistics` whose observers are the same ones in all steps of a shard. Each is back-propagated by itself.

    Args:
        committee: shard -> numbers of its observers, and their weights, which sum to 1.
    """

    def __init__(self, *parts: Any, committee: Callable[[Shard], tuple[list[int], list[float]]], **more: Any) -> None:
        super().__init__(*parts, **more)
        self.committee = committee

    def start(self, shard: Shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self.voters, self.weights = self.committee(shard)
        super().start(shard, images, labels, key)

    def whose_turn(self) -> list[int]:
        return self.voters

    def weighted(self, loss: Tensor, turn: int) -> Tensor:
        return loss if len(self.voters) == 1 else loss * self.weights[turn]


def voters_of(turn: int, members: int, voters: int, key: Key) -> tuple[int, ...]:
    """The committee of a turn: every combination once in the order of the pool, then all of them again in shuffled cycles."""
    known = list(combinations(range(members), voters))
    cycle, place = divmod(turn, len(known))
    return known[place if cycle == 0 else int((key / cycle).permutation(len(known))[place])]


def prior_weights(priors: Sequence[float], temperature: float) -> list[float]:
    """softmax(priors / temperature)."""
    powers = [math.exp((prior - max(priors)) / temperature) for prior in priors]
    return [power / sum(powers) for power in powers]
