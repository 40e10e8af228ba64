"""DATM: MTT on stretches of a difficulty that fits the number of images, with labels that are learned too (arXiv:2310.05773)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_condense.config import check, setting
from hf_condense.data.crops import centre
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.data.upload import to_device
from hf_condense.methods.base import Context
from hf_condense.methods.mtt import MTT, MTTSettings
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.flat import FlatNetwork
from hf_condense.objectives.learned_labels import LearnedLabels
from hf_condense.objectives.trajectory import TrajectoryMatching, TrajectorySegments
from hf_condense.plan import Recipe, SetSpec, Shard, Start
from hf_condense.selection.real import preferred_rows

if TYPE_CHECKING:
    from hf_condense.plan import Synthetic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DATMSettings(MTTSettings):
    """Settings of DATM; defaults are those of the official script for CIFAR-10 at 10 images a class."""

    iterations: int = setting(10000, "image steps", quick=20)
    lr: float = setting(100.0, "SGD's learning rate of the images, in units of the space in which networks see them")
    student_steps: int = setting(80, "steps of a student in each image step (N)", quick=10)
    skipped_epochs: int = setting(0, "first epochs of an expert in which no student starts (T-)", quick=0)
    grow_from: int | None = setting(
        None, "value of --first_epochs in the first image step; none: as in the others", quick=None
    )
    grow_steps: int = setting(1000, "image steps in which it grows to --first_epochs")
    threshold: float | None = setting(
        1.0, "segments in which the student ends farther away than this pull nothing; none: all pull"
    )
    init: Literal["right", "real"] = setting(
        "right", "first images: random real ones that the first expert classifies rightly, or any"
    )
    learn_labels: bool = setting(True, "learn soft labels with the images; off: students learn the classes")
    lr_labels: float = setting(2.0, "SGD's learning rate of the logits of the labels")
    labels_momentum: float = setting(0.9, "SGD's momentum of these")
    label_epoch: int | None = setting(
        None, "epochs of the experts whose logits labels begin with, and that choose first images; all by default"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        last, grow = self.first_epochs, self.grow_from
        upto = f"0 to {last - 1}, for --first_epochs {last}"
        check(0 <= self.skipped_epochs < last, "skipped_epochs", self.skipped_epochs, upto)
        between = f"{self.skipped_epochs + 1} to {last}, or none"
        check(grow is None or self.skipped_epochs < grow <= last, "grow_from", grow, between)
        check(self.grow_steps >= 1, "grow_steps", self.grow_steps, "1 or more")
        check(self.threshold is None or self.threshold > 0, "threshold", self.threshold, "above 0, or none")
        check(self.lr_labels >= 0, "lr_labels", self.lr_labels, "0 (labels stay as they are) or more")
        check(0 <= self.labels_momentum < 1, "labels_momentum", self.labels_momentum, "0 or more and below 1")
        epochs = f"0 to {self.trained_epochs}, or none"
        check(self.label_epoch is None or 0 <= self.label_epoch <= self.trained_epochs, "label_epoch", self.label_epoch, epochs)  # fmt: skip
        check(not self.assign_labels, "assign_labels", True, "false", "take tesla, which has assigned labels")


class DATM(MTT):
    """MTT; with `learn_labels` off, segments from the first epoch on and any first images it is MTT itself."""

    name, VERSION = "datm", 1
    Settings = DATMSettings

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> ExpertBuffer | None:
        """The experts; for first images the first of them, where it chooses them."""
        if shard.kind == "start" and self.settings.init == "right":
            return self.trained(context, 1)
        return super().ready(shard, context, earlier)

    def start(self, shard: Shard, context: Context, ready: ExpertBuffer | None = None) -> Start:
        if self.settings.init == "real":
            return super().start(shard, context)
        train, label, device = context.train, shard.labels[0], context.device
        network = self.architecture(context)
        weights = to_device(ready.snapshot(0, self._label_epoch(ready)), device)

        def right(rows: np.ndarray) -> np.ndarray:
            seen = unit_pixels(centre(train.images(rows), context.image_size), device, context.image_size)
            return (network.logits(weights, network.network.normalise(seen)).argmax(1) == label).cpu().numpy()

        rows, others = preferred_rows(train, label, len(shard.labels), context.key / shard.id, right)
        if others:
            message = (
                "class %r: %d of %d first images are not classified rightly by the expert, nor are any others left"
            )
            log.warning(message, train.class_names[label], others, len(rows))
        return Start(centre(train.images(rows), context.image_size).contiguous(), rows)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        s, plain = self.settings, super().recipe(shard, spec)
        if not s.learn_labels:
            return plain
        rates = {**plain.rates, "soft_logits": s.lr_labels}
        return replace(plain, rates=rates, momenta={"soft_logits": s.labels_momentum})

    def matching(
        self, network: FlatNetwork, experts: ExpertBuffer, segments: TrajectorySegments, policy: SiamesePolicy | None
    ) -> TrajectoryMatching:
        s = self.settings
        segments = replace(
            segments,
            skipped_epochs=s.skipped_epochs,
            grow_from=s.grow_from,
            grow_steps=s.grow_steps,
            threshold=s.threshold,
        )
        if not s.learn_labels:
            return super().matching(network, experts, segments, policy)
        return LearnedLabels(network, experts, segments, s.student_lr, policy, epoch=self._label_epoch(experts))

    @property
    def labels_by(self) -> str | None:
        return "learned with the images" if self.settings.learn_labels else None

    def protocol(self, dataset: str) -> str:
        name = self.name if self.settings.learn_labels else MTT.name
        return f"{name}-zca" if self.settings.zca else name

    def staged_protocol(self, dataset: str) -> str:
        return self.protocol(dataset) if self.settings.learn_labels else super().staged_protocol(dataset)

    def _label_epoch(self, experts: ExpertBuffer) -> int:
        return experts.epochs if self.settings.label_epoch is None else self.settings.label_epoch
