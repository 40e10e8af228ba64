"""A row of a score table: published images, and the labels that students of them learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.formation import decode_set
from hf_condense.data.pixels import image_digest
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.files import fingerprint

if TYPE_CHECKING:
    from hf_condense.labels.replay import LabelStore
    from hf_condense.labels.teacher import Ensemble


@dataclass
class ImageSet:
    """One row of the table: images that students are trained on.

    Args:
        images: uint8, or float unit pixels, [N, C, S, S], as published; `labels` int64 [N].
        formation_factor: f, where each image holds f x f training images (`data.formation`): students see those.
        store: labels of its views, for the regime "stored"; made in the scores folder where there is none.
        regimes: those it is scored in; None: all that are asked for.
        train_as_if_images: train as long as on a set of this many images; None: as long as its own size says.
        bytes: of the images as published; defaults to those of the raw pixels.
        digest: stands for the images in fingerprints; defaults to a computed one (give it for large sets).
        note: shown under the table.
        stages: int64 [N], the stage in which each image was made; students are then trained in stages.
        rates: learning rates learned with the set, one a stage.
        as_class_means: instead of students the nearest class mean of these images is scored, for each student that is a
            probe and with hard labels; `bytes` are then those of the means.
        soft: probabilities [N, K], one row per image: the regime "stored" of protocols with labels per image. Made by the
            teacher where there are none; without a teacher such rows are scored in the other regimes alone.
    """

    images: Tensor
    labels: Tensor
    store: LabelStore | None = None
    regimes: tuple[str, ...] | None = None
    train_as_if_images: int | None = None
    bytes: int | None = None
    digest: str | None = None
    note: str = ""
    formation_factor: int = 1
    stages: Tensor | None = None
    rates: tuple[float, ...] | None = None
    soft: Tensor | None = None
    as_class_means: bool = False

    def __post_init__(self) -> None:
        self.labels = torch.as_tensor(self.labels)
        for name in ("stages", "soft"):
            rows = getattr(self, name)
            fits = rows is None or len(rows) == len(self.labels)
            check(
                fits,
                name,
                None if rows is None else len(rows),
                f"one row per image, of which there are {len(self.labels)}",
            )
        if self.soft is not None:
            self.soft = self.soft.half()  # as it is published
        if self.digest is None:
            more = [self.formation_factor] if self.formation_factor > 1 else []
            more += [image_digest(self.stages)] if self.stages is not None else []
            more += [list(self.rates)] if self.rates else []
            self.digest = fingerprint([image_digest(self.images), image_digest(self.labels), *more])
        if self.bytes is None:
            self.bytes = self.images.numel() * self.images.element_size()

    def has_labels(self, protocol: Protocol) -> bool:
        """Whether there are labels for the regime "stored"."""
        return (self.store if protocol.label_per == "view" else self.soft) is not None

    def training_set(self, regime: str, teacher: Ensemble | None) -> TrainingSet:
        """What its students are trained on, with decoded images."""
        images, labels = decode_set(self.images, self.labels, self.formation_factor)
        stages = self.stages if self.stages is None else self.stages.repeat(self.formation_factor**2)
        return TrainingSet(
            images, labels, regime, teacher, self.store, self.soft, stages, self.rates, self.train_as_if_images
        )

    def label_identity(self, regime: str, protocol: Protocol, teacher: dict[str, Any] | None) -> Any:
        """Stands for the labels of a regime in fingerprints; `teacher`: the facts of it."""
        if regime == "stored":
            return self.store.fingerprint if protocol.label_per == "view" else image_digest(self.soft)
        return teacher if regime == "online" else None

    def label_bytes(self, regime: str, protocol: Protocol, teacher: Ensemble | None) -> int:
        """What a student of the regime needs beside images and class numbers."""
        if regime == "hard":
            return 0
        if regime == "stored" and protocol.label_per == "image":
            return self.soft.numel() * self.soft.element_size()
        if regime == "online":
            return teacher.bytes
        return self.store.bytes + (teacher.bytes if self.store.virtual else 0)
