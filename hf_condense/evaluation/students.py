"""Students: networks trained from scratch on a set, by a protocol, in a label regime. Images stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.augmentation import ViewPolicy, Views, draw_mix, mix_images, mixed_targets
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import siamese_pixels
from hf_condense.data.spaces import pixel_space
from hf_condense.data.upload import to_device
from hf_condense.errors import ConfigError
from hf_condense.evaluation.looks import Best, Looks, validation_images
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.phases import soft_hard_soft
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.staged import stage_rows
from hf_condense.labels.replay import LabelStore, as_logits
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import batch_sizes, part_size, slices, view_batches
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
DEVICE_BYTES = 4 << 30  # sets up to this size are kept on the device, larger ones (full ImageNet) are fetched by batch


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


def train_student(
    name: str,
    images: Tensor,
    labels: Tensor,
    regime: str,
    *,
    protocol: Protocol,
    test_images: Tensor,
    test_labels: Tensor,
    num_classes: int,
    key: Key,
    device: torch.device,
    teacher: Ensemble | None = None,
    store: LabelStore | None = None,
    train_as_if_images: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    flip: bool = True,
    precision: str = "fp32",
    title: str | None = None,
    work: str = "",
    looks: int = 0,
    state_folder: Path | None = None,
    stages: Tensor | None = None,
    rates: Sequence[float] | None = None,
    soft: Tensor | None = None,
    whitening: Whitening | None = None,
    backbones: Mapping[str, ImageModel] | None = None,
    keep: Callable[[ImageModel], None] | None = None,
    best_seen: bool = True,
) -> StudentResult:
    """Trains one student and scores it once, after its last epoch.

    Args:
        name: of the architecture, or `probe:` and a trained network (`models.linear_probe.load_student`).
        images: uint8 (or float unit pixels) [N, C, S, S]; `labels` int64 [N].
        regime: "hard", "stored" (needs `store`, or `soft` where the protocol's labels are per image) or "online" (needs
            `teacher`).
        test_images, test_labels: as above; read only when training is over, and for `best_top1` where the protocol looks.
        key: names initial weights and views. Students of one key on two sets differ by the set alone.
        train_as_if_images: train with the batch, epochs and steps that the protocol has for a set of this many images; a larger
            set then gives every epoch another part of itself.
        image_size: side of the student's input; defaults to that of `images`.
        mean, std: of the dataset in unit pixels, one for each channel or one for all.
        flip: whether the protocol's horizontal flips make sense for these classes.
        title: by which the progress of its epochs is shown; by default it is not.
        work: name by which callbacks find it; defaults to `name`.
        looks: how many times before the last epoch its accuracy on part of the test images is logged, for a curve. Nothing
            is chosen by it, and it counts as no training time.
        state_folder: where an unfinished training is kept, to go on from.
        stages: int64 [N] the stage in which each image was made, for a training in stages (`evaluation.staged`).
        rates: learning rates learned with the set, one a stage; used where the protocol takes them.
        soft: probabilities [N, K], one row per image.
        whitening: of the dataset, for protocols with `zca`.
        backbones: trained networks that probes may name, beside those that have published weights.
        keep: gets the network that `top1` is of.
        best_seen: whether the looks at the test set that the protocol has are taken.

    Raises:
        ConfigError: the regime's teacher or store is missing, or the protocol has no value for this student or labels
            that the protocol cannot train with.
        ModelError: the name is unknown, or stands for trained weights; or its loss is infinite or no number.
    """
    check(len(images) == len(labels), "images", len(images), f"as many as labels ({len(labels)})")
    size = image_size or images.shape[-1]
    as_if = train_as_if_images or len(images)
    ipc = max(1, as_if // num_classes)
    protocol, recipe = training_plan(protocol.resolve(name, ipc), as_if, stages, rates, precision)
    recipe = replace(recipe, fused=recipe.optimizer != "sgd")
    look_every = protocol.best_every if best_seen else 0
    mean, std = ([*v] * images.shape[1] if len(v) == 1 else v for v in (mean, std))
    model = load_student(
        "students",
        name,
        ImageSpec(num_classes=num_classes, image_size=size, channels=images.shape[1], mean=mean, std=std),
        key=key / "init",
        whitening=whitening if protocol.zca else None,
        backbones=backbones,
    ).to(device)
    fused = fuse(model, _worth_fusing(model, protocol, recipe, as_if, size, device))
    looks_at = Looks(
        validation_images(test_images, size, protocol.val_resize),
        test_labels,
        size=size,
        num_classes=num_classes,
        device=device,
        epochs=recipe.epochs,
        curve=looks,
        best=Best(look_every, protocol.best_from * recipe.epochs),
    )
    reset_peak(device)
    with Progress(title or name, recipe.epochs, show=title is not None, part=True, name=work or name) as progress:
        result = fit_student(
            model,
            images,
            labels,
            regime,
            protocol,
            recipe,
            size=size,
            key=key,
            device=device,
            teacher=teacher,
            store=store,
            train_as_if_images=as_if,
            mean=mean,
            std=std,
            flip=flip,
            stages=stages,
            soft=soft,
            whitening=whitening,
            on_epoch=looks_at,
            progress=progress,
            state_folder=state_folder,
        )
        scored = result.model if result.ema_model is None else result.ema_model
        predicted = looks_at.predictions(scored)
        top1 = looks_at.top1(predicted)
        progress.log({"top1": top1})
        fuse(scored, False)
        if keep is not None:
            keep(scored)
    history = result.history  # which survives a restart
    best_top1 = max([top1, *(row["top1"] for row in history if "top1" in row)]) if look_every else None
    return StudentResult(
        top1=top1,
        best_top1=best_top1,
        steps=result.steps,
        seconds=result.seconds - sum(row.get("looking", 0.0) for row in history),
        peak_memory=peak_bytes(device),
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
    images: Tensor,
    labels: Tensor,
    regime: str,
    protocol: Protocol,
    recipe: FitRecipe,
    *,
    size: int,
    key: Key,
    device: torch.device,
    flip: bool = True,
    on_epoch: Callable | None = None,
    progress: Progress | None = None,
    state_folder: Path | None = None,
    **labelled,
) -> FitResult:
    """Trains `model`, from the weights it has, on a set; `protocol` and `recipe` are those of `training_plan`.

    The other arguments are those of `train_student` and `student_batches`.
    """
    if images.numel() * images.element_size() <= DEVICE_BYTES:
        images, labels = images.to(device), labels.to(device)
    if regime == "hard":  # batches are not cut there (`student_batches`): each is a step
        recipe = replace(recipe, accumulation=1)
    policy = protocol.policy(size, flip)
    batches = student_batches(images, labels, regime, protocol, policy, key, device, flip=flip, **labelled)
    if protocol.hard_share and regime != "hard":
        hard = student_batches(images, labels, "hard", protocol, policy, key / "hard", device, flip=flip, **labelled)
        batches = soft_hard_soft(batches, hard, protocol.hard_epochs(recipe.epochs))
    if protocol.bn_double_update:
        batches = _seen_twice(batches, model)
    return fit(
        model,
        batches,
        protocol_loss(protocol, regime),
        recipe,
        device=device,
        key=key / "fit",
        on_epoch=on_epoch,
        progress=progress,
        state_folder=state_folder,
        setting="students",
        remedy=f"look at the images and labels of the set, or choose another --protocol than {protocol.name}",
    )


def student_batches(
    images: Tensor,
    labels: Tensor,
    regime: str,
    protocol: Protocol,
    policy: ViewPolicy,
    key: Key,
    device: torch.device,
    teacher: Ensemble | None = None,
    store: LabelStore | None = None,
    train_as_if_images: int | None = None,
    *,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    flip: bool = True,
    stages: Tensor | None = None,
    soft: Tensor | None = None,
    whitening: Whitening | None = None,
) -> Callable[[int], Iterator[Batch]]:
    """Epoch number -> its batches, for `fit`; labels by regime. `protocol` is a resolved one.

    A store with fewer epochs than the training is gone through again from its first. Batches are cut for gradient
    accumulation only where they carry soft labels: a part of a mixed batch has lost its partners' classes. A teacher
    sees what the student sees, siamese augmentation included; `mean`, `std`, `flip` and `whitening` are for that alone.
    With `stages` the first `protocol.epochs` epochs are of the first stage of the training, the next of the second.
    """
    protocol.check_regime(regime, stages is not None)
    per_image = regime == "stored" and protocol.label_per == "image"
    if per_image:
        rows = "none" if soft is None else len(soft)
        check(
            rows == len(images), "regime", regime, f"soft labels of {len(images)} images, not {rows}", "--regimes hard"
        )
    if stages is not None:
        parts = [
            student_batches(
                images[rows],
                labels[rows],
                regime,
                protocol,
                policy,
                key,
                device,
                teacher,
                mean=mean,
                std=std,
                flip=flip,
                soft=soft[rows] if per_image else None,
                whitening=whitening,
            )
            for rows in stage_rows(stages, protocol.mode)
        ]
        return lambda epoch: parts[epoch // protocol.epochs](epoch)
    as_if = train_as_if_images or len(images)
    size, limit = protocol.batch_size(as_if), protocol.duration(as_if)[1]
    if limit is None and as_if < len(images):
        limit = -(-as_if // size)
    part = part_size(size, protocol.accumulation)
    if per_image:
        soft = soft.to(device).float()
    elif regime == "stored":
        if store is None:
            raise ConfigError("regime", "stored", "a label store", "run the relabel stage first")
        whole = size if store.batch_size % size == 0 else part

        def stored(epoch: int) -> Iterator[Batch]:
            found = store.replay(epoch % store.epochs, images, labels, whole, device, teacher)
            # a store may hold longer epochs than the training has
            for batch in islice(found, limit and limit * -(-size // whole)):
                yield from slices(batch, part)

        return stored
    if regime == "online":
        if teacher is None:
            raise ConfigError("regime", "online", "a teacher", "give one, or choose the regime hard")
        teacher.to(device)

    siamese = protocol.siamese_policy(flip)
    space = pixel_space("whitened" if protocol.zca else "normalised", mean, std, device, whitening)
    drawn = policy if siamese is None else replace(policy, mix="none")

    def batches(epoch: int) -> Iterator[Batch]:
        found = view_batches(images, labels, drawn, key / "views", epoch, size, device=device, limit=limit)
        for number, (rows, views, batch) in enumerate(found):
            if siamese is not None:
                name = key / "siamese" / epoch / number
                batch.images = siamese_pixels(batch.images, siamese, name, space)
                batch = _mixed(batch, views, policy, name / "mix")
            if regime == "online":
                batch.soft = teacher.logits(batch.images, batch_sizes(len(rows), part))
                yield from slices(batch, part)
            elif per_image:
                batch.soft = _image_labels(soft.index_select(0, to_device(rows, device)), batch)
                yield from slices(batch, part)
            else:
                yield batch

    return batches


def _image_labels(soft: Tensor, batch: Batch) -> Tensor:
    """Logits [b, K] of the images' own probabilities, mixed as the images are."""
    if batch.partner is not None:
        soft = batch.lam * soft + (1 - batch.lam) * soft[batch.partner]
    return as_logits(soft)


def _mixed(batch: Batch, views: Views, policy: ViewPolicy, key: Key) -> Batch:
    """The batch, mixed as `policy` says: by itself, because siamese augmentation comes before mixing."""
    views = replace(views, **draw_mix(policy, key, views.count))
    if views.partner is None:
        return batch
    partner, lam = mixed_targets(views)
    return replace(
        batch, images=mix_images(batch.images, views), partner=to_device(partner, batch.images.device), lam=lam
    )


def _seen_twice(batches: Callable[[int], Iterator[Batch]], model: nn.Module) -> Callable[[int], Iterator[Batch]]:
    """The student sees each batch once more, without gradient: its batch norms update twice, as in RDED's script."""

    def twice(epoch: int) -> Iterator[Batch]:
        for batch in batches(epoch):
            with torch.no_grad():
                model(batch.images)
            yield batch

    return twice
