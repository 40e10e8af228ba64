"""What a run's networks and steps cost, timed on a few images before the work starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from hf_condense.data.randomness import Key
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import batch_sizes, view_batches
from hf_condense.memory import current_bytes, peak_bytes, reset_peak
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import PREFIX, is_probe, load_student
from hf_condense.models.loading import load_model
from hf_condense.models.networks import without_tag
from hf_condense.models.real_training import squeeze_recipe, train_on, training_policy
from hf_condense.plan import Shard
from hf_condense.progress import Progress
from hf_condense.run.base import Run
from hf_condense.run.counted import Counting, Work, count, flops
from hf_condense.run.network_cost import NetworkCost, measure, seconds_of
from hf_condense.run.trial import BlackImages, trial, with_observers

LONG = 10.0  # seconds: what would take longer is not tried
FEW = 10  # steps or epochs: nor is what is done no more often than that
ENOUGH = 1.0  # seconds of a step that is timed once, and not for every observer
EPOCH_BATCHES = 4  # of an epoch that is tried, and
TRIED_EPOCHS = 6  # how many are tried: one to fill caches, one, and those from which the one is subtracted
META = torch.device("meta")


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step of a shard, and bytes that it uses beside what was in use before."""

    seconds: float
    memory: float


class TrainingCost(NamedTuple):
    """Seconds of an epoch, and of what is done once."""

    epoch: float
    once: float = 0.0


class Probe:
    """Times each network and step of a run once, when it is asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.measured: dict[str, NetworkCost] = {}
        self._labelled: dict[int, float] = {}
        self.before = current_bytes(run.device)
        reset_peak(run.device)

    @property
    def processes(self) -> int:
        return self.run.accelerator.num_processes

    def network(self, name: str) -> NetworkCost:
        """The cost of a network of this name."""
        if name not in self.measured:
            train, made = self.run.train, []
            making = self._seconds(lambda: made.append(self.load(name)))
            shape = (train.channels, train.image_size, train.image_size)
            self.measured[name] = replace(measure(made[0], shape, self.run.device), making=making)
        return self.measured[name]

    def load(self, name: str) -> ImageModel:
        """A network of the same cost: untrained where the weights are not there yet."""
        spec, plain = self.run.train.plain_spec, without_tag(name.removeprefix(PREFIX))
        if is_probe(name) and plain not in self.run.config.squeeze.base_model:
            return load_student("students", name, spec, key=Key(0))
        return load_model(plain, spec, pretrained=False, key=Key(0))

    @cached_property
    def base(self) -> list[NetworkCost]:
        """The networks that squeeze trains."""
        return [self.network(name) for name in self.run.config.squeeze.base_model]

    @property
    def observer_names(self) -> list[str]:
        """The networks that synthesis looks through; weak models cost about as much as their base, which made them."""
        squeeze, weak = self.run.config.squeeze, self.run.config.weak
        if weak.weak:
            return [*squeeze.base_model[:1]] * len(squeeze.observers or range(weak.pool_size))
        return [*(squeeze.observers or squeeze.base_model)]

    @cached_property
    def observers(self) -> list[NetworkCost]:
        return [self.network(name) for name in self.observer_names]

    @property
    def teacher_names(self) -> list[str]:
        """The networks that make soft labels."""
        squeeze, weak = self.run.config.squeeze, self.run.config.weak
        if weak.weak:
            sizes = {"base": 1, "pool": weak.pool_size, "both": 1 + weak.pool_size}
            return [*squeeze.base_model[:1]] * len(squeeze.teachers or range(sizes[weak.label_source]))
        return [*(squeeze.teachers or squeeze.base_model)]

    def step(self, shard: Shard) -> StepCost:
        """The cost of a step of a shard, where it is short the mean over turns of the observers.

        Steps that would take long by their number of operations are not tried: their time is in proportion to these. Nor
        are a few steps, which soon are over: they count as one pass of each image.
        """
        if self.run.method.recipe(shard, self.run.spec).steps <= FEW:
            network, images = self.observers[0], len(shard.rows)
            return StepCost(images * network.backward, 2 * images * network.activations)
        expected = self._by_operations(shard)
        if expected is not None and expected.seconds > LONG:
            return expected
        tried = trial(self.run.method, self.context, shard, self._untrained(), self.run.device)
        tried.step(0)  # fills caches
        numbers = self._numbers(shard)
        taken = [self._seconds(lambda number=number: tried.step(number)) for number in numbers[:: len(numbers) - 1]]
        if sum(taken) < ENOUGH:
            taken += [self._seconds(lambda number=number: tried.step(number)) for number in numbers[1:-1]]
        return StepCost(sum(taken) / len(taken), peak_bytes(self.run.device) - self.before)

    def _by_operations(self, shard: Shard) -> StepCost | None:
        """A step in proportion to its operations; None where they cannot be counted, in a network that reads values."""
        name, train = self.run.config.squeeze.base_model[0], self.run.train
        try:
            with Counting() as counting:
                trial(self.run.method, self.context, shard, self._untrained(), META).step(0)
            passes = count(self.load(name), (train.channels, train.image_size, train.image_size))
        except (RuntimeError, NotImplementedError):
            return None
        passed = flops(counting.found, "fp32") / flops(passes.backward, "fp32") * passes.images
        return StepCost(passed * self.network(name).backward, counting.peak)

    def start(self, shard: Shard) -> float:
        """Seconds to choose the first images of a class; where networks are trained or much is looked at for that, of
        the passes alone."""
        run = self.run
        looked = run.method.images_looked_at(len(run.train.rows_of(shard.labels[0])), run.spec.ipc)
        expected = looked * self.observers[0].forward
        fetched = getattr(run.method.settings, "backbone", None)  # weights that a dry run does not ask for
        if run.method.images_before(len(run.train)) or fetched or expected > LONG:
            return expected
        models = [model.to(run.device) for model in self._untrained()]
        context = with_observers(run.method, replace(run.context, accelerator=None), models)
        ready = run.method.stand_in(shard, context)
        return self._seconds(lambda: run.method.start(shard, context, ready))

    def _numbers(self, shard: Shard) -> list[int]:
        """Steps from the second to the last but one, as many as there are observers and at least two: images may join, or
        grow, on the way."""
        steps, count = self.run.method.recipe(shard, self.run.spec).steps, max(2, len(self.observer_names))
        return np.linspace(min(1, steps - 1), max(steps - 2, 1), count).round().astype(int).tolist()

    def counted_step(self, shard: Shard) -> tuple[list[Work], int]:
        """The operations of a step for the turn of one observer, their mean over all of them, and bytes in use at once."""
        tried = trial(self.run.method, self.context, shard, self._untrained(), META)
        tried.step(0)
        numbers, found, peak = self._numbers(shard), [], 0
        turns = len(numbers)
        for number in numbers:
            with Counting() as counting:
                tried.step(number)
            found += [Work(one.flops / turns, one.bytes / turns) for one in counting.found]
            peak = max(peak, counting.peak)
        return found, peak

    @cached_property
    def context(self):
        """The context of the method, with black images in the place of the real ones, and without other processes."""
        return replace(self.run.context, train=BlackImages(self.run.train), accelerator=None)

    def student(self, student: str, images: int, epochs: int) -> TrainingCost:
        """The training of a student on `images` training images with hard labels."""
        run, classes = self.run, self.run.train.num_classes
        model = self.load(student)
        batch = run.protocol.resolve(student, run.training_ipc).batch_size(images)

        def train(count: int, epochs: int) -> None:
            black = torch.zeros(count, *run.train.shape[1:], dtype=torch.uint8)
            run.student_trainer.train(model, black, torch.arange(count) % classes, key=Key(0), epochs=epochs)

        return self._training(student, images, batch, epochs, train)

    def label_epoch(self, images: int, epochs: int) -> float:
        """Seconds to make and to label the views of an epoch of `images` training images."""
        if epochs <= FEW:
            return images * sum(self.network(name).forward for name in self.teacher_names)
        if images not in self._labelled:
            self._labelled[images] = self._label_epoch(images)
        return self._labelled[images]

    def _label_epoch(self, images: int) -> float:
        run, protocol = self.run, self.run.student_protocol
        batch, image = protocol.batch_size(images), sum(self.network(name).forward for name in self.teacher_names)
        if batch * image > LONG:
            return images * image
        count = min(images, batch * max(1, min(EPOCH_BATCHES, int(LONG / (batch * image)))))
        models = [self.load(name).to(run.device).freeze() for name in self.teacher_names]
        teacher = Ensemble.for_protocol(
            models, protocol, run.config.run.precision, run.method.label_weights(len(models))
        )
        black, labels = torch.zeros(count, *run.train.shape[1:], dtype=torch.uint8), torch.arange(count)
        given = (black.to(run.device), (labels % run.train.num_classes).to(run.device))

        def label() -> None:
            for rows, _, seen in view_batches(*given, run.policy, Key(0), 0, batch):
                teacher.logits(seen.images, batch_sizes(len(rows), batch))

        label()
        return self._seconds(label) * images / count

    def member(self, name: str) -> TrainingCost:
        """The training of a network of the pool on the real images."""
        run, settings = self.run, self.run.config.squeeze
        train, model = run.train, self.load(name)
        policy = training_policy(settings, train.image_size, train.stored_size, run.flip)

        def fit(count: int, epochs: int) -> None:
            recipe = replace(squeeze_recipe(settings), epochs=epochs)
            few = BlackImages(train.subset(np.linspace(0, len(train) - 1, count).astype(int)))
            bar = Progress(name, epochs, show=False)
            train_on(model, recipe, settings.squeeze_batch, few, policy, Key(0), run.device, bar, state=None)

        return self._training(name, len(train), settings.squeeze_batch, settings.squeeze_epochs, fit)

    def _training(
        self, name: str, images: int, batch: int, epochs: int, train: Callable[[int, int], None]
    ) -> TrainingCost:
        """The cost of epochs on `images`, from trainings on a part of them for one epoch and for a few.

        Args:
            train: trains on a number of images for a number of epochs.
        """
        image = self.network(name).training
        if epochs <= FEW or TRIED_EPOCHS * batch * image > LONG:
            return TrainingCost(images * image)
        count = min(images, batch * max(1, min(EPOCH_BATCHES, int(LONG / (TRIED_EPOCHS * batch * image)))))
        train(count, 1)
        once, more = (self._seconds(lambda epochs=epochs: train(count, epochs)) for epochs in (1, TRIED_EPOCHS - 2))
        epoch = max(more - once, 0.0) / (TRIED_EPOCHS - 3)
        return TrainingCost(epoch * images / count, max(once - epoch, 0.0))

    def _untrained(self) -> list[ImageModel]:
        return [self.load(name) for name in self.observer_names] if self.run.method.info.pool else []

    def _seconds(self, work: Callable[[], object]) -> float:
        return seconds_of(work, self.run.device)
