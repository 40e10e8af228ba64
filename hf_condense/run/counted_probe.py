"""The cost of networks and steps by their operations, for devices that are not here."""

from __future__ import annotations

from collections.abc import Callable

from hf_condense.plan import Shard
from hf_condense.run.base import Run
from hf_condense.run.counted import Counted, Work, count
from hf_condense.run.network_cost import NetworkCost
from hf_condense.run.probe import Probe, StepCost, TrainingCost


class CountedProbe(Probe):
    """Gives stages the cost of networks and steps in any unit that follows from their operations.

    Stages add costs, so in operations they give a stage's operations, in seconds its seconds.

    Args:
        value: (operations, precision) -> the cost of a pass.
        precision: of frozen networks; training is in float32.
        counted: what was counted, shared among probes of a run.
    """

    def __init__(self, run: Run, value: Callable[[list[Work], str], float], precision: str, counted: Counted) -> None:
        super().__init__(run)
        self.value, self.precision, self.counted = value, precision, counted

    @property
    def processes(self) -> int:
        return 1

    def network(self, name: str) -> NetworkCost:
        if name not in self.counted.passes:
            train = self.run.train
            self.counted.passes[name] = count(self.load(name), (train.channels, train.image_size, train.image_size))
        passes = self.counted.passes[name]
        forward, backward = (
            self.value(work, self.precision) / passes.images for work in (passes.forward, passes.backward)
        )
        training = self.value(passes.training, "fp32") / passes.images
        cost = NetworkCost(forward, backward, training, passes.kept, passes.weights)
        self.measured[name] = cost
        return cost

    def step(self, shard: Shard) -> StepCost:
        if shard not in self.counted.steps:
            self.counted.steps[shard] = self.counted_step(shard)
        work, memory = self.counted.steps[shard]
        return StepCost(self.value(work, self.precision), memory)

    def start(self, shard: Shard) -> float:
        looked = self.run.method.images_looked_at(len(self.run.train.rows_of(shard.labels[0])), self.run.spec.ipc)
        return looked * self.observers[0].forward

    def label_epoch(self, images: int, epochs: int) -> float:
        return images * sum(self.network(name).forward for name in self.teacher_names)

    def member(self, name: str) -> TrainingCost:
        return TrainingCost(len(self.run.train) * self.network(name).training)

    def student(self, student: str, images: int, epochs: int) -> TrainingCost:
        return TrainingCost(images * self.network(student).training)
