"""Students: networks trained from scratch on a set, by a protocol, in a label regime. Images stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.evaluation.batches import Pixels, student_batches
from hf_condense.evaluation.looks import Best, Looks, validation_images
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.phases import Epochs, soft_hard_soft
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.staged import stage_rows
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.memory import peak_bytes, reset_peak
from hf_condense.models.convnet import block_elements, fuse
from hf_condense.models.linear_probe import load_student
from hf_condense.models.training import Batch, FitRecipe, FitResult, fit
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening
    from hf_condense.models.image_model import ImageModel

# elements of maps: 0.4 to 0.8 s are saved, for 0.3 s of compilation (benchmarks/student_step.py)
FUSE_FROM = 2 * 10**8


@dataclass(frozen=True)
class StudentResult:
    """One trained student. Accuracies are fractions of the test images.

    Args:
        top1: the headline: after the last epoch, of the averaged weights where the protocol has them. No other network
            is looked at: 10,000 test images take a sixth of the time that a small student is trained.
        best_top1: largest over the looks at the test set that the source of the protocol takes, or None where none were
            taken. Optimistic.
        steps: optimiser steps. seconds: of training alone. peak_memory: bytes.
        fused: whether the blocks of a ConvNet were computed as one operation each, which is equal up to rounding.
        predictions: uint8 [M] (uint16 above 256 classes), the class that the scored student sees in each test image.
    """

    top1: float
    best_top1: float | None
    steps: int
    seconds: float
    peak_memory: int
    predictions: np.ndarray = field(repr=False, compare=False)
    fused: bool = False


@dataclass(frozen=True, eq=False)
class StudentScorer:
    """Trains students from scratch and scores them: what all students of a table share.

    Args:
        protocol: not yet resolved for a student.
        spec: of the students' input; channels are those of the images that they are trained on.
        test_images, test_labels: uint8 [M, C, S, S] and int64 [M]; read only when training is over, and for `best_top1`
            where the protocol looks.
        flip: whether the protocol's horizontal flips make sense for these classes.
        whitening: of the dataset, for protocols with `zca`.
        backbones: trained networks that probes may name, beside those that have published weights.
        keep: gets the network that `top1` is of.
        best_seen: whether the looks at the test set that the protocol has are taken.
    """

    protocol: Protocol
    spec: ImageSpec
    test_images: Tensor
    test_labels: Tensor
    device: torch.device
    flip: bool = True
    precision: str = "fp32"
    whitening: Whitening | None = None
    backbones: Mapping[str, ImageModel] | None = None
    keep: Callable[[ImageModel], None] | None = None
    best_seen: bool = True

    def train(
        self,
        name: str,
        found: TrainingSet,
        key: Key,
        *,
        title: str | None = None,
        work: str = "",
        looks: int = 0,
        state_folder: Path | None = None,
    ) -> StudentResult:
        """Trains one student and scores it once, after its last epoch.

        Args:
            name: of the architecture, or `probe:` and a trained network (`models.linear_probe.load_student`).
            key: names initial weights and views. Students of one key on two sets differ by the set alone.
            title: by which the progress of its epochs is shown; by default it is not.
            work: name by which callbacks find it; defaults to `name`.
            looks: how many times before the last epoch its accuracy on part of the test images is logged, for a curve.
                Nothing is chosen by it, and it counts as no training time.
            state_folder: where an unfinished training is kept, to go on from.

        Raises:
            ConfigError: the regime's teacher or store is missing, or the protocol has no value for this student or
                labels that the protocol cannot train with.
            ModelError: the name is unknown, or stands for trained weights; or its loss is infinite or no number.
        """
        spec, as_if = self.spec.with_channels(found.images.shape[1]), found.trained_as
        resolved = self.protocol.resolve(name, max(1, as_if // spec.num_classes))
        protocol, recipe = training_plan(resolved, as_if, found.stages, found.rates, self.precision)
        recipe = replace(recipe, fused=recipe.optimizer != "sgd")
        whitening = self.whitening if protocol.zca else None
        model = load_student(
            "students", name, spec, key=key / "init", whitening=whitening, backbones=self.backbones
        ).to(self.device)
        fused = fuse(model, _worth_fusing(model, protocol, recipe, as_if, spec.image_size, self.device))
        looks_at = self._looks(protocol, recipe, looks)
        reset_peak(self.device)
        with Progress(title or name, recipe.epochs, show=title is not None, part=True, name=work or name) as progress:
            result = fit_student(
                model,
                found,
                protocol,
                recipe,
                size=spec.image_size,
                key=key,
                device=self.device,
                pixels=Pixels(spec.mean, spec.std, self.flip, self.whitening),
                on_epoch=looks_at,
                progress=progress,
                state_folder=state_folder,
            )
            scored = result.model if result.ema_model is None else result.ema_model
            predicted = looks_at.predictions(scored)
            progress.log({"top1": looks_at.top1(predicted)})
            fuse(scored, False)
            if self.keep is not None:
                self.keep(scored)
        return _result(result, predicted, looks_at, peak_bytes(self.device), fused)

    def _looks(self, protocol: Protocol, recipe: FitRecipe, curve: int) -> Looks:
        """The looks at the test images that a training by the resolved protocol takes."""
        return Looks(
            validation_images(self.test_images, self.spec.image_size, protocol.val_resize),
            self.test_labels,
            size=self.spec.image_size,
            num_classes=self.spec.num_classes,
            device=self.device,
            epochs=recipe.epochs,
            curve=curve,
            best=Best(protocol.best_every if self.best_seen else 0, protocol.best_from * recipe.epochs),
        )


def _result(fitted: FitResult, predicted: np.ndarray, looks_at: Looks, peak_memory: int, fused: bool) -> StudentResult:
    """The scores of a training whose scored network sees `predicted` in the test images."""
    top1, history = looks_at.top1(predicted), fitted.history  # which survives a restart
    seen = [row["top1"] for row in history if "top1" in row]
    return StudentResult(
        top1=top1,
        best_top1=max([top1, *seen]) if looks_at.best.every else None,
        steps=fitted.steps,
        seconds=fitted.seconds - sum(row.get("looking", 0.0) for row in history),
        peak_memory=peak_memory,
        predictions=predicted,
        fused=fused,
    )


def _worth_fusing(
    model: ImageModel, protocol: Protocol, recipe: FitRecipe, images: int, size: int, device: torch.device
) -> bool:
    """Whether a training on `images` images is long enough to earn the compilation of `fuse` back. Depends on nothing
    that is measured: all processes, and a resumed training, decide alike."""
    limit = protocol.duration(images)[1]
    seen = recipe.epochs * (min(images, limit * protocol.batch_size(images)) if limit else images)
    return device.type == "cpu" and recipe.precision == "fp32" and seen * block_elements(model, size) >= FUSE_FROM


def training_plan(
    protocol: Protocol,
    images: int,
    stages: Tensor | None = None,
    rates: Sequence[float] | None = None,
    precision: str = "fp32",
) -> tuple[Protocol, FitRecipe]:
    """A resolved protocol for one set: with the epochs of each of its stages, and the recipe of the whole training.

    Args:
        images: how many there are, where the set has no `stages`; `rates`: learned with it, one a stage.
    """
    sizes = [images] if stages is None else [len(rows) for rows in stage_rows(stages, protocol.mode)]
    protocol = protocol.staged(sizes)
    rates = protocol.base_rates(rates, len(sizes))
    return protocol, protocol.fit_recipe("", 1, images, precision, rates)


def fit_student(
    model: ImageModel,
    found: TrainingSet,
    protocol: Protocol,
    recipe: FitRecipe,
    *,
    size: int,
    key: Key,
    device: torch.device,
    pixels: Pixels,
    on_epoch: Callable | None = None,
    progress: Progress | None = None,
    state_folder: Path | None = None,
) -> FitResult:
    """Trains `model`, from the weights it has, on a set; `protocol` and `recipe` are those of `training_plan`.

    Args:
        size: side of its input.
        key, pixels: as of `student_batches`.
        on_epoch, progress, state_folder: as of `fit`.
    """
    found = found.on(device)
    if found.regime == "hard":  # batches are not cut there (`student_batches`): each is a step
        recipe = replace(recipe, accumulation=1)
    policy = protocol.policy(size, pixels.flip)
    batches = student_batches(found, protocol, policy, key, device, pixels)
    if protocol.hard_share and found.regime != "hard":
        hard = student_batches(replace(found, regime="hard"), protocol, policy, key / "hard", device, pixels)
        batches = soft_hard_soft(batches, hard, protocol.hard_epochs(recipe.epochs))
    if protocol.bn_double_update:
        batches = _seen_twice(batches, model)
    return fit(
        model,
        batches,
        protocol_loss(protocol, found.regime),
        recipe,
        device=device,
        key=key / "fit",
        on_epoch=on_epoch,
        progress=progress,
        state_folder=state_folder,
        setting="students",
        remedy=f"look at the images and labels of the set, or choose another --protocol than {protocol.name}",
    )


def _seen_twice(batches: Epochs, model: nn.Module) -> Epochs:
    """The student sees each batch once more, without gradient: its batch norms update twice, as in RDED's script."""

    def twice(epoch: int) -> Iterator[Batch]:
        for batch in batches(epoch):
            with torch.no_grad():
                model(batch.images)
            yield batch

    return twice
