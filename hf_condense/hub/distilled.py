"""A published distilled dataset: reads it, verifies it and gives it to any training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.formation import decode_set
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.evaluation.trainer_loss import SoftLoss, soft_label_loss
from hf_condense.hub.artefact import SOFT_LABELS, store_manifest
from hf_condense.hub.card import title
from hf_condense.hub.hashes import content_hash, pixels_hash
from hf_condense.hub.place import locate
from hf_condense.hub.push import Pushed, push
from hf_condense.hub.record import NEXT, read_record
from hf_condense.hub.tables import read_tables
from hf_condense.hub.teachers import check_teacher, need_image_model
from hf_condense.hub.training import RecordedTraining, TrainingStage
from hf_condense.labels.store import LabelStore
from hf_condense.models.training import Batch
from hf_condense.text import printable

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening
    from hf_condense.evaluation.protocol import Protocol
    from hf_condense.labels.teacher import Ensemble
    from hf_condense.models.image_model import ImageModel

UNCOVERED = ("training block", "label store", "class names", "networks")  # by the hash of sets of format 1
log = logging.getLogger(__name__)


@dataclass(repr=False)  # the record alone is pages
class DistilledDataset:
    """A condensed set in memory. Made by `load`, which checks it.

    Args:
        folder: its local path.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        soft_labels: float16 [N, K] of the teacher on the un-augmented images, or None.
        stages: int64 [N], PDD stage of each image, or None.
        float_images: float32 [N, C, H, W] where the method leaves [0, 1], or None.
        class_names: class number -> name.
        content, record: provenance (condensation.json).
    """

    folder: Path
    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    stages: Tensor | None
    float_images: Tensor | None
    class_names: list[str]
    content: dict[str, Any]
    record: dict[str, Any]
    _table: pa.Table
    _manifest: dict[str, Any] | None = None

    @classmethod
    def load(cls, folder_or_id: str | Path, revision: str | None = None) -> DistilledDataset:
        """Reads a folder or a Hub dataset repository and checks its content hash.

        Raises:
            ArtefactError: nothing is there, a file is missing or damaged, or the data differ from the published ones.
        """
        data = cls.read(locate(folder_or_id, revision))
        if data.content["labels"].get("store") is not None and data._manifest is None:
            place = str(data.folder / SOFT_LABELS)
            raise ArtefactError(place, "missing", "the stored labels of the set", "fetch the dataset again")
        recorded = data.content.get("content_hash")
        if data.content_hash != recorded:
            raise ArtefactError(
                f"content hash of {folder_or_id}",
                data.content_hash,
                f"{recorded}, as published",
                "fetch it again; if it still differs, images or labels were changed after publishing",
            )
        if data.class_names != data.content["class_names"]:
            raise ArtefactError(
                f"class names of {folder_or_id}",
                data.class_names[:5],
                f"{data.content['class_names'][:5]} ...",
                "fetch it again; the class order was changed after publishing",
            )
        if data.uncovered:
            log.warning(
                "%s is of format 1: its hash covers images, labels and soft labels, but not %s",
                folder_or_id,
                ", ".join(data.uncovered),
            )
        return data

    @classmethod
    def read(cls, folder: Path) -> DistilledDataset:
        """Reads a folder without checking the content hash (`load` does; `inspection` reports it).

        Raises:
            ArtefactError: a file is missing or damaged, or its content is not of the form that this library writes.
        """
        both = read_record(folder)
        try:
            tables = read_tables(folder, both["content"])
            manifest = store_manifest(folder / SOFT_LABELS)
        # what pyarrow, `datasets` and NumPy raise on tables of another layout
        except (pa.ArrowException, AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArtefactError(str(folder), reason, "tables as hf-condense writes them", NEXT) from error
        table = tables.__dict__.pop("table")
        parts: dict[str, Any] = {**both, **vars(tables)}
        return cls(folder=folder, **parts, _table=table, _manifest=manifest)

    @property
    def content_hash(self) -> str:
        """The hash computed from the data that were read: over all that a student needs; in format 1 `pixels_hash`."""
        if self.content["format"] == 1:
            return self.pixels_hash
        return content_hash(self.content, self.pixels_hash, self._manifest)

    @property
    def pixels_hash(self) -> str:
        """The hash of images, labels and soft labels as they were read."""
        return pixels_hash(
            self.images, self.labels, self.soft_labels, stages=self.stages, float_images=self.float_images
        )

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The parts that students need and that the hash does not cover."""
        return UNCOVERED if self.content["format"] == 1 else ()

    @cached_property
    def store(self) -> LabelStore | None:
        """The per-view label store, checked against these images; None when none was published."""
        folder = self.folder / SOFT_LABELS
        if not folder.is_dir():
            return None
        return LabelStore.open(folder, self.images, len(self.class_names))

    @cached_property
    def policy(self) -> ViewPolicy:
        """The recorded views of `hard` and `online` training; whole images where the record has none."""
        recorded = self.content.get("training", {}).get("policy")
        return ViewPolicy(**recorded) if recorded else ViewPolicy(size=self.images.shape[-1], flip=0.0)

    @property
    def formation_factor(self) -> int:
        """f, where each image holds f x f training images as tiles (`data.formation`); 1 where it is one."""
        rule = self.content.get("training", {}).get("decode")
        return rule["formation"]["factor"] if isinstance(rule, dict) else 1

    def to_dataset(self) -> Dataset:
        """The default config as a `datasets.Dataset`: image, label, soft_label."""
        return Dataset(self._table)

    def training_batches(
        self,
        regime: Literal["stored", "hard", "online"],
        epoch: int,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
        teacher: Ensemble | None = None,
        seed: int = 0,
        whitening: Whitening | None = None,
    ) -> Iterator[Batch]:
        """One epoch of augmented batches on `device`, with the recorded augmentation and labels.

        A set that was made in stages is trained on in stages: the images of an epoch depend on its number
        (`training_stages` says how many epochs each stage has, and at which rates).

        Args:
            regime: hard (class numbers only), stored (`soft` holds the published logits of each view, or the logarithm
                of each image's label where labels belong to images), online (`soft` holds the logits of `teacher`).
            epoch: determines order and views; epochs may be requested in any order. A store with fewer epochs repeats.
            batch_size: defaults to the recorded one; with stored labels a divisor of the stored batch.
            teacher: for `online`, and for stored labels that are virtual: the recorded one, as `published_teacher` or
                `read_checkpoint` of each folder in the run's `pool/models` gives it.
            seed: determines order and views of `hard` and `online`; stored labels include theirs.
            whitening: of the source, for sets whose networks see whitened pixels (`data.whitening.fitted_whitening`).

        Raises:
            ConfigError: an unknown regime, no teacher where one is needed or another one, or an epoch after the last stage.
            ArtefactError: `stored` where no per-view labels were published, or virtual ones of another teacher.
        """
        device = torch.device(device)
        if regime not in ("stored", "hard", "online"):
            raise ConfigError("regime", regime, "stored, hard, online", "choose one of them")
        images, labels = self._on(device)
        if regime == "stored" and not self.training.labels_images(regime):
            store = self._stored()
            return store.replay(epoch % store.epochs, images, labels, batch_size, teacher=teacher)
        self._need_teacher(regime, teacher)
        return self.training.batches(
            images, labels, regime, epoch, self.policy, seed, batch_size, teacher=teacher, whitening=whitening
        )

    @cached_property
    def training(self) -> RecordedTraining:
        """How students were trained when the set was scored."""
        stages = None if self.stages is None else self.stages.repeat(self.formation_factor**2)
        return RecordedTraining(self.content.get("training", {}), self.class_names, stages, self.soft_labels)

    def training_stages(self) -> list[TrainingStage]:
        """Images, epochs and learning rates of each stage of a student's training; most sets have one stage.

        Raises:
            ArtefactError: the set carries no recipe.
        """
        return self.training.plan(len(self) * self.formation_factor**2)

    def train(
        self,
        network: ImageModel | str,
        regime: Literal["stored", "hard", "online"] = "hard",
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        teacher: Ensemble | None = None,
        whitening: Whitening | None = None,
        state_folder: Path | None = None,
    ) -> ImageModel:
        """A network trained on this set as students were when it was scored: stages, rates, augmentation and labels.

        Args:
            network: a name for `load_model`, from scratch; or a network, from the weights it has.
            regime, teacher, whitening: as for `training_batches`.
            seed: determines initial weights, order and views.
            state_folder: folder of checkpoints from which an interrupted training resumes; the caller deletes it.

        Raises:
            ConfigError, ArtefactError: a network of another kind, a regime without what it needs, or a set without a recipe.
        """
        need_image_model("network", network, str)
        self._need_teacher(regime, teacher)
        images, labels = self._on(torch.device(device))
        store = self._stored() if regime == "stored" and not self.training.labels_images(regime) else None
        return self.training.train(
            network, images, labels, regime, seed, whitening, teacher=teacher, store=store, state_folder=state_folder
        )

    def torch_dataset(self, soft: bool = False, transform: Callable[[Tensor], Tensor] | None = None) -> TorchDataset:
        """For a DataLoader: items {"pixel_values", "labels"}. For transformers' Trainer with class numbers; with soft
        labels take `for_trainer`, because Trainer's default loss for them is wrong.

        Args:
            soft: labels are the soft labels as probabilities (float32 [K]) instead of class numbers.
            transform: applied to each image, a float tensor [C, H, W] of unit pixels (normalisation, augmentation).

        Raises:
            ArtefactError: `soft` where the set carries no soft labels.
        """
        images, labels = decode_set(self.images, self.labels, self.formation_factor)
        return TorchDataset(images, self.probabilities() if soft else labels, transform)

    def for_trainer(
        self,
        loss: SoftLoss | Literal["recorded"] | Protocol = "soft_ce",
        transform: Callable[[Tensor], Tensor] | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """What transformers' Trainer needs to train on the soft labels: `Trainer(model, args, **data.for_trainer())`.

        Args:
            loss: "soft_ce", "kl", "mse_gt" or "gift"; "recorded" for that of the students that the set was scored with; or
                a protocol.
            transform: as for `torch_dataset`.
            values: of the loss, as for `evaluation.trainer_loss.soft_label_loss`: temperature, gamma ...

        Returns:
            `train_dataset`, whose labels [K + 1] are the probabilities and then the class number, and `compute_loss_func`.
            The dataset alone fails at the first step, because no loss of transformers takes labels of that shape. Class
            numbers, those of a test set, are taken by the loss as well.

        Raises:
            ArtefactError: the set carries no soft labels.
            ConfigError: an unknown loss.
        """
        soft = self.probabilities()
        labels = torch.cat([soft, self.labels[:, None].float()], 1)
        chosen = self.training.protocol if loss == "recorded" else loss
        return {
            "train_dataset": TorchDataset(self.images, labels, transform),
            "compute_loss_func": soft_label_loss(chosen, **values),
        }

    def probabilities(self) -> Tensor:
        """Soft labels float32 [N, K], one row per image, each of which adds up to one.

        Raises:
            ArtefactError: the set carries none, or they do not belong to the images that students see.
        """
        if self.soft_labels is None:
            raise ArtefactError("soft", True, "False: this set has no soft labels", "train with class numbers")
        if self.formation_factor > 1:
            raise ArtefactError(
                "soft",
                True,
                "False: soft labels are of whole images, and each holds several training images",
                "train with class numbers",
            )
        logits = self.content["soft_label"]["kind"] == "logits"
        return self.soft_labels.float().softmax(1) if logits else self.soft_labels.float()

    def push_to_hub(self, repo_id: str, **options: Any) -> Pushed:
        """Publishes the folder as a dataset repository, in one commit of the files that differ.

        Args:
            repo_id: `owner/name`; the token's owner where there is only a name.
            options: private, public, create_pr, revision, dry_run, as for `hub.push.push`.

        Raises:
            ArtefactError: a file was changed after it was written.
            ConfigError: options that contradict each other, or a label regime whose teacher is not published.
            HubError: the Hub refuses, or cannot be reached.
        """
        return push(self.folder, repo_id, **options)

    def _stored(self) -> LabelStore:
        if self.store is not None:
            return self.store
        have = self.content["labels"]["regimes"]
        raise ArtefactError("regime", "stored", f"what was published: {', '.join(have)}", "use another regime")

    def _need_teacher(self, regime: str, teacher: Ensemble | None) -> None:
        if regime == "online" and (teacher is None or teacher is not self.__dict__.get("_trusted")):
            check_teacher(self.content, self.record, self.folder, teacher)
            self.__dict__["_trusted"] = teacher  # an epoch should not pay for hashing the weights again

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        kept = self.__dict__.get("_placed")  # an epoch should not pay for the copy again
        if kept is None or kept[0] != device:
            images, labels = decode_set(self.images, self.labels, self.formation_factor)
            kept = self.__dict__["_placed"] = (device, images.to(device), labels.to(device))
        return kept[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        regimes = ", ".join(self.content["labels"]["regimes"])
        return printable(f"DistilledDataset({title(self.content)}, labels {regimes}, {str(self.folder)!r})")


class TorchDataset(torch.utils.data.Dataset):
    """Training images as unit pixels with their labels, under the keys that transformers uses."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor] | None) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        pixels = self.images[i].float() / 255 if self.images.dtype == torch.uint8 else self.images[i]
        return {"pixel_values": self.transform(pixels) if self.transform else pixels, "labels": self.labels[i]}
