"""The student training of a published set: protocol, stages and rates, rebuilt from its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.evaluation.batches import Pixels, student_batches
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.staged import stage_rows
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.evaluation.students import training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import is_probe, load_student
from hf_condense.models.loading import load_model
from hf_condense.models.training import Batch

if TYPE_CHECKING:
    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.data.whitening import Whitening
    from hf_condense.labels.teacher import Ensemble

ABOUT = ("citation", "note", "cases")  # of a protocol, but not of a training


@dataclass(frozen=True)
class TrainingStage:
    """One stage of a student's training; a set that was not made in stages has one.

    Args:
        rows: int64, the training images that it sees.
        epochs: its epochs, as `DistilledDataset.training_batches` counts them.
        rates: the learning rate of each of them. Weights and optimiser go on from stage to stage.
    """

    rows: Tensor
    epochs: range
    rates: tuple[float, ...]


def recorded_training(
    protocol: Protocol,
    images: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    flip: bool,
    stages: Tensor | None = None,
    rates: Sequence[float] | None = None,
    whitening: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a training for `training_block`, beside views and sizes.

    Args:
        protocol: resolved for the student that the record stands for.
        images: how many a student sees (decoded ones).
        mean, std, flip: of the dataset: how networks normalise, and whether a mirrored image keeps its class.
        stages: int64 of the published images; rates: learned with the set, one a stage.
        whitening: facts of the whitening that networks of this set normalise by.
    """
    recipe = {name: value for name, value in asdict(protocol).items() if name not in ABOUT}
    found: dict[str, Any] = {"recipe": recipe, "pixels": {"mean": list(mean), "std": list(std), "flip": flip}}
    if rates:
        found["learned_rates"] = list(rates)
    if whitening:
        found["whitening"] = whitening
    if stages is not None:
        staged, plan = training_plan(protocol, images, stages, rates)
        found["stages"] = {
            "order": stages.unique().tolist(),
            "mode": protocol.mode,
            "rates": plan.rates or [plan.lr],
            "epochs": staged.epochs,
            "momentum": "begins anew" if protocol.reset_between else "carried over",
        }
    return found


class RecordedTraining:
    """The training that a record stands for, on a set in memory.

    Args:
        facts: the `training` block of condensation.json.
        class_names: of the set.
        stages: int64 [N], the stage of each training image, or None.
        soft: probabilities [N, K], one row per image, or None.
    """

    def __init__(
        self, facts: dict[str, Any], class_names: Sequence[str], stages: Tensor | None, soft: Tensor | None
    ) -> None:
        self.facts, self.class_names, self.soft = facts, tuple(class_names), soft
        self.stages = stages if "recipe" in facts else None  # without a recipe the schedule of the stages is unknown
        self.rates: list[float] | None = facts.get("learned_rates")
        self.pixels: dict[str, Any] = facts.get("pixels", {})
        self.protocol = self._protocol()

    def _protocol(self) -> Protocol:
        """The recorded protocol; where only views were recorded, one without optimiser settings."""
        recipe = self.facts.get("recipe")
        if recipe is None:
            batch, epochs = self.facts.get("batch_size") or 64, self.facts.get("epochs") or 1
            return Protocol(self.facts.get("protocol", "unknown"), "", epochs=epochs, batch=batch)
        unknown = sorted(recipe.keys() - {f.name for f in fields(Protocol)})
        if unknown:
            raise ArtefactError("training recipe", unknown, "values of this version", "install a newer hf-condense")
        return Protocol(**recipe, citation="")

    def labels_images(self, regime: str) -> bool:
        """Whether the regime's labels are those of the images, whatever their views."""
        return regime == "stored" and self.protocol.label_per == "image" and self.soft is not None

    def plan(self, images: int) -> list[TrainingStage]:
        """The stages of the training on this number of images."""
        self._require_recipe()
        _, recipe = training_plan(self.protocol, images, self.stages, self.rates)
        parts = [torch.arange(images)] if self.stages is None else stage_rows(self.stages, self.protocol.mode)
        length, found = recipe.epochs // len(parts), []
        for number, rows in enumerate(parts):
            epochs = range(number * length, (number + 1) * length)
            found.append(TrainingStage(rows, epochs, tuple(recipe.rate(epoch) for epoch in epochs)))
        return found

    def batches(
        self,
        images: Tensor,
        labels: Tensor,
        regime: str,
        epoch: int,
        policy: ViewPolicy,
        seed: int,
        batch_size: int | None,
        *,
        teacher: Ensemble | None,
        whitening: Whitening | None,
    ) -> Iterator[Batch]:
        """One epoch; arguments as for `DistilledDataset.training_batches`."""
        protocol = self.protocol
        if self.stages is not None:
            last = self.plan(len(images))[-1].epochs.stop - 1
            check(0 <= epoch <= last, "epoch", epoch, f"0 to {last}, the last of the stages")
            protocol, _ = training_plan(protocol, len(images), self.stages, self.rates)
        if batch_size is not None:
            protocol = replace(protocol, batch=batch_size, accumulation=1)
        found = TrainingSet(images, labels, regime, teacher, soft=self.soft, stages=self.stages)
        pixels = Pixels(**self.pixels, whitening=whitening)
        return student_batches(found, protocol, policy, Key(seed, "train"), images.device, pixels)(epoch)

    def train(
        self,
        network: ImageModel | str,
        images: Tensor,
        labels: Tensor,
        regime: str,
        seed: int,
        whitening: Whitening | None,
        **more: Any,
    ) -> ImageModel:
        """Trains a network; arguments as for `DistilledDataset.train` and `StudentTrainer.train`."""
        self._require_recipe()
        key, classes = Key(seed, "train"), len(self.class_names)
        if isinstance(network, str):
            spec = ImageSpec(
                num_classes=classes,
                image_size=images.shape[-1],
                channels=images.shape[1],
                mean=self.pixels["mean"],
                std=self.pixels["std"],
                class_names=self.class_names,
            )
            more_of = {"key": key / "init", "whitening": whitening if self.protocol.zca else None}
            if is_probe(network):
                network = load_student("network", network, spec, **more_of)
            else:
                network = load_model(network, spec, **more_of)
        ipc = max(1, len(images) // classes)
        students = StudentTrainer(
            self.protocol, ipc, classes, device=images.device, whitening=whitening, **self.pixels
        )
        soft = self.soft if self.labels_images(regime) else None
        return students.train(
            network, images, labels, key=key, regime=regime, soft=soft, stages=self.stages, rates=self.rates, **more
        )

    def _require_recipe(self) -> None:
        if "recipe" not in self.facts:
            raise ArtefactError("training recipe", None, "a recorded protocol", "train with training_batches")
