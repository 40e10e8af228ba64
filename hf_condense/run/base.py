"""A run: everything that is settled before its first stage, and does not change afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.images import ImageSource
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits
from hf_condense.data.whitening import Whitening
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.models.fresh import FreshNetworks
from hf_condense.plan import Plan, SetSpec
from hf_condense.run.resolve import Config


@dataclass(frozen=True)
class Run:
    """What stages, estimate and publishing read.

    Args:
        folder: where stages write.
        splits: real images to condense and to score on.
        plan: the method's, for these classes and this IPC.
        protocol: of students, as it was asked for; not resolved for a student.
        accelerator: the processes.
        key: of every draw.
        flip: whether a mirrored image keeps its class.
        whitening: of the real images, where images are moved in whitened pixels or students see them; else None.
    """

    config: Config
    folder: Path
    splits: Splits
    method: Method
    plan: Plan
    protocol: Protocol
    accelerator: Accelerator
    key: Key
    flip: bool
    whitening: Whitening | None

    @property
    def train(self) -> ImageSource:
        return self.splits.train

    @property
    def test(self) -> ImageSource:
        return self.splits.test

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def spec(self) -> SetSpec:
        """Size of the synthetic set."""
        return SetSpec(self.train.num_classes, self.config.run.ipc, self.train.image_size)

    @property
    def training_ipc(self) -> int:
        """Training images of a class: published images may hold several. Protocols choose their values by it."""
        return self.config.run.ipc * self.method.formation_factor**2

    @property
    def training_images(self) -> int:
        """Training images of all classes."""
        return self.train.num_classes * self.training_ipc

    @property
    def labelled(self) -> bool:
        """Whether a regime needs a teacher; without one a method that needs no pool trains no network."""
        made_here = ("hard", "stored") if self.method.labels_by else ("hard",)
        return any(regime not in made_here for regime in self.config.evaluation.regimes)

    @property
    def needs_pool(self) -> bool:
        """Whether networks are trained on the real data: for the synthesis, or to make labels."""
        return self.labelled or self.method.info.pool

    @cached_property
    def student_protocol(self) -> Protocol:
        """The protocol as it is for the first student, whose views and labels are published."""
        return self.protocol.resolve(self.config.evaluation.students[0], self.training_ipc)

    @cached_property
    def policy(self) -> ViewPolicy:
        """Views in which students see the images."""
        return self.student_protocol.policy(self.train.image_size, self.flip)

    @cached_property
    def student_trainer(self) -> StudentTrainer:
        """Trains networks as the students of this run are trained."""
        train = self.train
        return StudentTrainer(
            self.protocol,
            self.training_ipc,
            train.num_classes,
            train.mean,
            train.std,
            self.device,
            self.flip,
            whitening=self.whitening,
        )

    @cached_property
    def context(self) -> Context:
        """What the method sees of the run, without observers and their statistics."""
        run, train = self.config.run, self.train
        fresh = FreshNetworks(
            self.config.squeeze.base_model[0], train.plain_spec, device=self.device, whitening=self.whitening
        )
        return Context(
            train,
            train.image_size,
            run.ipc,
            self.key / "condense",
            self.device,
            run.precision,
            self.flip,
            fresh=fresh,
            whitening=self.whitening,
            student_trainer=self.student_trainer,
            accelerator=self.accelerator,
        )

    @cached_property
    def statistics(self) -> StatisticsRequest | None:
        """Statistics of the real images that the method needs from its observers; None where it needs none."""
        return self.method.statistics(self.context)
