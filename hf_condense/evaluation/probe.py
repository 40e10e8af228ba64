"""Linear probes on features: those of a set are computed once where a protocol shows whole images. And the rows beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hf_condense.data.pixels import image_digest, unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.evaluation.looks import as_classes, validation_images
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.students import StudentResult, StudentScorer, training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.replay import as_logits
from hf_condense.labels.views import epoch_batches
from hf_condense.memory import peak_bytes, reset_peak
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import FeatureHead, backbone_of, new_head
from hf_condense.models.training import Batch, FitResult, fit
from hf_condense.selection.centres import medoids

AT_ONCE = 256  # images that pass a backbone together


def shows_whole_images(protocol: Protocol) -> bool:
    """Whether all views of an image are the image: its features then never change."""
    policy = protocol.policy(1)
    drawn = policy.crop, policy.flip, policy.pad, policy.shuffle > 1, policy.rand_augment, policy.mix != "none"
    return not any(drawn) and not protocol.siamese


@dataclass(frozen=True)
class _Pictures:
    """Images that are the same where their digests are."""

    digest: str
    images: Tensor = field(compare=False, repr=False)


def features(backbone: ImageModel, images: Tensor, size: int, device: torch.device) -> Tensor:
    """Features float32 [N, d] on the CPU of uint8 or unit-pixel images [N, C, S, S], kept for the next call with the same."""
    return _features(backbone, _Pictures(image_digest(images), images), size, device)


@lru_cache(maxsize=12)  # test and training images of a few backbones; sets of a few images push them out slowly
@torch.no_grad()
def _features(backbone: ImageModel, pictures: _Pictures, size: int, device: torch.device) -> Tensor:
    backbone.to(device).eval()
    parts = pictures.images.split(AT_ONCE)
    return torch.cat([embed(backbone, unit_pixels(part, device, size)).float().cpu() for part in parts])


@dataclass(frozen=True)
class Probed:
    """What the probes of one network share.

    Args:
        name: of the student, `probe:` and the network.
        backbone: the frozen network. Features of equal images are computed once for all who have the same one.
        size: side of its input in pixels, before it resizes them itself.
        test_images, test_labels: uint8 [M, C, S, S], as `looks.validation_images` gives them, and int64 [M].
    """

    name: str
    backbone: ImageModel
    size: int
    device: torch.device
    num_classes: int
    test_images: Tensor
    test_labels: Tensor

    @classmethod
    def load(cls, student: str, images: Tensor, scorer: StudentScorer) -> Probed:
        """The network that a student `probe:<network>` of a table names, for sets like `images`."""
        spec = scorer.spec.with_channels(images.shape[1])
        shown = validation_images(scorer.test_images, spec.image_size, scorer.protocol.val_resize)
        backbone = backbone_of(student, spec, scorer.backbones)
        return cls(student, backbone, spec.image_size, scorer.device, spec.num_classes, shown, scorer.test_labels)

    def features(self, images: Tensor) -> Tensor:
        """Features float32 [N, d] on the CPU of uint8 or unit-pixel images [N, C, S, S]."""
        return features(self.backbone, images, self.size, self.device)

    def train(
        self, found: TrainingSet, protocol: Protocol, key: Key, keep: Callable[[ImageModel], None] | None = None
    ) -> StudentResult:
        """Trains and scores a head on the features of a set, step for step as `StudentScorer.train` trains it.

        One thing differs: a larger set that is trained as if it were smaller is seen in whole batches of the protocol,
        because features cost nothing. `protocol` shows whole images; `keep` gets the scored network.
        """
        as_if = found.trained_as
        protocol, recipe = training_plan(protocol.resolve(self.name, max(1, as_if // self.num_classes)), as_if)
        limit, known = found.batches_per_epoch(protocol), self.features(found.images).to(self.device)
        labels, targets = found.labels.to(self.device), self._targets(found)

        def batches(epoch: int) -> Iterator[Batch]:
            for rows in epoch_batches(key / "views", epoch, len(known), protocol.batch_size(len(known)), limit):
                rows = rows.to(self.device)
                yield Batch(known[rows], labels[rows], soft=None if targets is None else targets[rows])

        reset_peak(self.device)
        model = new_head(self.backbone, key / "init")
        head = FeatureHead(model).to(self.device)
        plain = replace(recipe, accumulation=1, precision="fp32")
        result = fit(head, batches, protocol_loss(protocol, found.regime), plain, device=self.device, key=key / "fit")
        scored = result.ema_model or result.model
        score = self._result(scored, result)
        if keep is not None:
            head.load_state_dict(scored.state_dict())  # the model's own layer
            keep(model)
        return score

    def class_means(self, images: Tensor, labels: Tensor) -> tuple[StudentResult, int]:
        """Scores the nearest class mean, for which nothing is trained; and gives the bytes of those means."""
        means = class_means(self.features(images), labels, self.num_classes)
        return self._result(lambda known: nearest_mean(known, means.to(known)), None), means.numel() * 4

    def _targets(self, found: TrainingSet) -> Tensor | None:
        """Logits [N, K] that the head learns; None where it learns class numbers."""
        if found.regime == "hard":
            return None
        if found.regime == "stored":
            return as_logits(found.soft.to(self.device).float())
        found.teacher.to(self.device)
        parts = (unit_pixels(part, self.device, self.size) for part in found.images.split(AT_ONCE))
        return torch.cat([found.teacher.logits(part) for part in parts])

    @torch.no_grad()
    def _result(self, classify: Callable[[Tensor], Tensor], fitted: FitResult | None) -> StudentResult:
        known = self.features(self.test_images).to(self.device)
        right = torch.as_tensor(self.test_labels).numpy()
        predicted = as_classes(classify(known), self.num_classes)
        top1 = float((predicted == right).mean())
        if fitted is None:
            return StudentResult(top1, None, 0, 0.0, 0, predicted)
        return StudentResult(top1, None, fitted.steps, fitted.seconds, peak_bytes(self.device), predicted)


def class_means(known: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean features float32 [K, d] of each class; of `known` [N, d] with `labels` int64 [N]."""
    sums = torch.zeros(num_classes, known.shape[1], dtype=torch.float64).index_add_(0, labels, known.double())
    return (sums / torch.bincount(labels, minlength=num_classes)[:, None]).float()


def nearest_mean(known: Tensor, means: Tensor) -> Tensor:
    """Logits [N, K], the largest of which is that of the class whose mean [K, d] is nearest to the row of `known` [N, d]."""
    return known @ means.mT - means.square().sum(1) / 2


def centroid_rows(known: Tensor, labels: np.ndarray, num_classes: int, ipc: int, key: Key) -> np.ndarray:
    """Rows int64 [K * ipc] of the images nearest to the k-means centroids of each class in its features, class by class."""
    found = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        found.append(rows[medoids(known[torch.from_numpy(rows)], ipc, key / label).numpy()])
    return np.concatenate(found)
