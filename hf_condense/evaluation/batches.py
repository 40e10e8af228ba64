"""The batches of a student's training: views of its images, with the labels of their regime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, Views, draw_mix, mix_images, mixed_targets
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import siamese_pixels
from hf_condense.data.spaces import PixelSpace, pixel_space
from hf_condense.data.upload import to_device
from hf_condense.errors import ConfigError
from hf_condense.evaluation.phases import Epochs
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.replay import as_logits
from hf_condense.labels.views import batch_sizes, part_size, slices, view_batches
from hf_condense.models.training import Batch

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening


@dataclass(frozen=True)
class Pixels:
    """The pixels of a dataset, as siamese augmentation sees them.

    Args:
        mean, std: in unit pixels, one for each channel or one for all.
        flip: whether a mirrored image keeps its class.
        whitening: for protocols with `zca`.
    """

    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.25,)
    flip: bool = True
    whitening: Whitening | None = None

    def space(self, protocol: Protocol, device: torch.device) -> PixelSpace:
        """That of the student's input."""
        return pixel_space("whitened" if protocol.zca else "normalised", self.mean, self.std, device, self.whitening)


def student_batches(
    found: TrainingSet,
    protocol: Protocol,
    policy: ViewPolicy,
    key: Key,
    device: torch.device,
    pixels: Pixels = Pixels(),
) -> Epochs:
    """Epoch number -> its batches, for `fit`; labels by regime. `protocol` is a resolved one.

    A store with fewer epochs than the training is gone through again from its first. Batches are cut for gradient
    accumulation only where they carry soft labels: a part of a mixed batch has lost its partners' classes. A teacher
    sees what the student sees, siamese augmentation included. With stages the first `protocol.epochs` epochs are of the
    first stage of the training, the next of the second.

    Raises:
        ConfigError: the regime's teacher or store is missing, or the protocol cannot train with these labels.
    """
    found.check_labels(protocol)
    if found.stages is not None:
        parts = [student_batches(part, protocol, policy, key, device, pixels) for part in found.by_stage(protocol)]
        return lambda epoch: parts[epoch // protocol.epochs](epoch)
    if found.regime == "stored" and not found.labels_images(protocol):
        return _stored_batches(found, protocol, device)
    return _drawn_batches(found, protocol, policy, key, device, pixels)


def _stored_batches(found: TrainingSet, protocol: Protocol, device: torch.device) -> Epochs:
    """Batches of the views that a store has labels of."""
    store = found.store
    if store is None:
        raise ConfigError("regime", "stored", "a label store", "run the relabel stage first")
    size, limit = protocol.batch_size(found.trained_as), found.batches_per_epoch(protocol)
    part = part_size(size, protocol.accumulation)
    whole = size if store.batch_size % size == 0 else part

    def batches(epoch: int) -> Iterator[Batch]:
        replayed = store.replay(epoch % store.epochs, found.images, found.labels, whole, device, found.teacher)
        # a store may hold longer epochs than the training has
        for batch in islice(replayed, limit and limit * -(-size // whole)):
            yield from slices(batch, part)

    return batches


def _drawn_batches(
    found: TrainingSet, protocol: Protocol, policy: ViewPolicy, key: Key, device: torch.device, pixels: Pixels
) -> Epochs:
    """Batches of views that are drawn now."""
    size, limit = protocol.batch_size(found.trained_as), found.batches_per_epoch(protocol)
    labelled = _labelling(found, part_size(size, protocol.accumulation), device)
    siamese, space = protocol.siamese_policy(pixels.flip), pixels.space(protocol, device)
    drawn = policy if siamese is None else replace(policy, mix="none")

    def batches(epoch: int) -> Iterator[Batch]:
        viewed = view_batches(
            found.images, found.labels, drawn, key / "views", epoch, size, device=device, limit=limit
        )
        for number, (rows, views, batch) in enumerate(viewed):
            if siamese is not None:
                name = key / "siamese" / epoch / number
                batch.images = siamese_pixels(batch.images, siamese, name, space)
                batch = _mixed(batch, views, policy, name / "mix")
            yield from labelled(rows, batch)

    return batches


def _labelling(found: TrainingSet, part: int, device: torch.device) -> Callable[[Tensor, Batch], Iterable[Batch]]:
    """Rows of the images and a batch of their views -> the batch with its labels, in parts where those are soft."""
    if found.regime == "hard":
        return lambda rows, batch: (batch,)
    labels = _taught(found, part, device) if found.regime == "online" else _of_images(found, device)

    def labelled(rows: Tensor, batch: Batch) -> Iterator[Batch]:
        batch.soft = labels(rows, batch)
        return slices(batch, part)

    return labelled


def _taught(found: TrainingSet, part: int, device: torch.device) -> Callable[[Tensor, Batch], Tensor]:
    """Logits [b, K] of the teacher for the images of a batch."""
    teacher = found.teacher
    if teacher is None:
        raise ConfigError("regime", "online", "a teacher", "give one, or choose the regime hard")
    teacher.to(device)
    return lambda rows, batch: teacher.logits(batch.images, batch_sizes(len(rows), part))


def _of_images(found: TrainingSet, device: torch.device) -> Callable[[Tensor, Batch], Tensor]:
    """Logits [b, K] of the images' own probabilities, mixed as the images are."""
    known = found.soft.to(device).float()

    def labels(rows: Tensor, batch: Batch) -> Tensor:
        soft = known.index_select(0, to_device(rows, device))
        if batch.partner is not None:
            soft = batch.lam * soft + (1 - batch.lam) * soft[batch.partner]
        return as_logits(soft)

    return labels


def _mixed(batch: Batch, views: Views, policy: ViewPolicy, key: Key) -> Batch:
    """The batch, mixed as `policy` says: by itself, because siamese augmentation comes before mixing."""
    views = replace(views, **draw_mix(policy, key, views.count))
    if views.partner is None:
        return batch
    partner, lam = mixed_targets(views)
    return replace(
        batch, images=mix_images(batch.images, views), partner=to_device(partner, batch.images.device), lam=lam
    )
