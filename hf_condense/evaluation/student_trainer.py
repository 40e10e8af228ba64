"""Trains a given network on a set by a protocol, as students are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hf_condense.evaluation.batches import Pixels
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.students import fit_student, training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.files import fingerprint

if TYPE_CHECKING:
    from hf_condense.data.randomness import Key
    from hf_condense.data.whitening import Whitening
    from hf_condense.labels.store import LabelStore
    from hf_condense.labels.teacher import Ensemble
    from hf_condense.models.image_model import ImageModel


@dataclass(frozen=True)
class StudentTrainer:
    """What all students of a run share. Methods that train networks on their own images are given one.

    Args:
        protocol: the run's, not yet resolved for a student.
        ipc: training images of a class in the finished set, by which some protocols choose their values.
        mean, std: of the dataset in unit pixels, one for each channel or one for all.
        flip: whether a mirrored image keeps its class.
        whitening: of the dataset, for protocols with `zca`.
    """

    protocol: Protocol
    ipc: int
    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    flip: bool = True
    precision: str = "fp32"
    whitening: Whitening | None = None

    @property
    def fingerprint(self) -> str:
        """Of everything here that changes a trained network."""
        facts = [self.ipc, self.num_classes, list(self.mean), list(self.std), self.flip, self.precision]
        facts += [self.whitening.facts] if self.whitening is not None else []
        return fingerprint([asdict(self.protocol), *facts])

    def train(
        self,
        network: ImageModel,
        images: Tensor,
        labels: Tensor,
        *,
        key: Key,
        epochs: int | None = None,
        lr: float | None = None,
        soft: Tensor | None = None,
        regime: Literal["hard", "stored", "online"] = "hard",
        teacher: Ensemble | None = None,
        store: LabelStore | None = None,
        stages: Tensor | None = None,
        rates: Sequence[float] | None = None,
        state_folder: Path | None = None,
    ) -> ImageModel:
        """Trains `network` on a set, from the weights it has, and returns it in eval mode.

        Where the protocol averages weights, the network has the averaged ones.

        Args:
            images: uint8, or float unit pixels, [n, C, S, S], as students see them; `labels` int64 [n].
            key: names order, views and dropout.
            epochs: passes over the set; defaults to the protocol's `epochs` or `steps`.
            lr: defaults to the protocol's.
            soft: probabilities [n, K], one row per image, to train with instead of class numbers.
            regime: "hard", "online" with the labels of `teacher`, or "stored" with those of `store`.
            stages: int64 [n] the stage in which each image was made, to train in stages; by default all at once.
            rates: learned with the set, one a stage; used where the protocol takes them.
            state_folder: where an unfinished training is kept, to go on from; the caller deletes it.

        Raises:
            ConfigError: the protocol has no value for this network, or `teacher` is missing.
        """
        regime = "stored" if soft is not None else regime
        found = TrainingSet(images, labels, regime, teacher, store, soft, stages, rates)
        changes = {"label_per": "image"} if soft is not None else {}
        if epochs is not None:
            changes |= {"epochs": epochs, "steps": None}
        if lr is not None:
            changes["lr"] = lr
        resolved = self.protocol.resolve(network.name, self.ipc)
        protocol, recipe = training_plan(replace(resolved, **changes), len(images), stages, rates, self.precision)
        result = fit_student(
            network,
            found,
            protocol,
            recipe,
            size=images.shape[-1],
            key=key,
            device=self.device,
            pixels=Pixels(self.mean, self.std, self.flip, self.whitening),
            state_folder=state_folder,
        )
        if result.ema_model is not None:
            network.load_state_dict(result.ema_model.state_dict())
        return network
