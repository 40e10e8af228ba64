"""What a student is trained on: images, and their labels in one regime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.staged import stage_rows

if TYPE_CHECKING:
    from hf_condense.labels.replay import LabelStore
    from hf_condense.labels.teacher import Ensemble

DEVICE_BYTES = 4 << 30  # sets up to this size are kept on the device, larger ones (full ImageNet) are fetched by batch


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images with the labels that students learn from.

    Args:
        images: uint8 (or float unit pixels) [N, C, S, S]; `labels` int64 [N].
        regime: "hard", "stored" (needs `store`, or `soft` where the protocol's labels are per image) or "online" (needs
            `teacher`).
        soft: probabilities [N, K], one row per image.
        stages: int64 [N] the stage in which each image was made, for a training in stages (`evaluation.staged`).
        rates: learning rates learned with the set, one a stage; used where the protocol takes them.
        train_as_if_images: train with the batch, epochs and steps that the protocol has for a set of this many images; a larger
            set then gives every epoch another part of itself.

    Raises:
        ConfigError: as many labels as images are needed.
    """

    images: Tensor
    labels: Tensor
    regime: str = "hard"
    teacher: Ensemble | None = None
    store: LabelStore | None = None
    soft: Tensor | None = None
    stages: Tensor | None = None
    rates: Sequence[float] | None = None
    train_as_if_images: int | None = None

    def __post_init__(self) -> None:
        check(
            len(self.images) == len(self.labels), "images", len(self.images), f"as many as labels ({len(self.labels)})"
        )

    @property
    def trained_as(self) -> int:
        """The number of images by which the protocol chooses batch, epochs and steps."""
        return self.train_as_if_images or len(self.images)

    def batches_per_epoch(self, protocol: Protocol) -> int | None:
        """The most batches that an epoch has; None: as many as the images give."""
        limit = protocol.duration(self.trained_as)[1]
        if limit is None and self.trained_as < len(self.images):
            return -(-self.trained_as // protocol.batch_size(self.trained_as))
        return limit

    def labels_images(self, protocol: Protocol) -> bool:
        """Whether the labels are those of the images, whatever their views."""
        return self.regime == "stored" and protocol.label_per == "image"

    def check_labels(self, protocol: Protocol) -> None:
        """Raises ConfigError for labels that the protocol cannot train with, or that images lack."""
        protocol.check_regime(self.regime, self.stages is not None)
        if self.labels_images(protocol):
            rows = "none" if self.soft is None else len(self.soft)
            allowed = f"soft labels of {len(self.images)} images, not {rows}"
            check(rows == len(self.images), "regime", self.regime, allowed, "--regimes hard")

    def by_stage(self, protocol: Protocol) -> list[TrainingSet]:
        """What each stage of the training sees."""
        soft = self.soft if self.labels_images(protocol) else None
        return [
            TrainingSet(
                self.images[rows],
                self.labels[rows],
                self.regime,
                self.teacher,
                soft=None if soft is None else soft[rows],
            )
            for rows in stage_rows(self.stages, protocol.mode)
        ]

    def on(self, device: torch.device) -> TrainingSet:
        """The set with its images on the device, where they are small enough to stay there."""
        if self.images.numel() * self.images.element_size() > DEVICE_BYTES:
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))
