"""Training dynamics: the outputs for every real image after each epoch of a training, recorded once and cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy
from hf_condense.data.cache import one_at_a_time
from hf_condense.data.randomness import Key
from hf_condense.files import fingerprint, load_tensors, save_tensors
from hf_condense.models.loading import load_model
from hf_condense.models.pool import checkpoint_files
from hf_condense.models.real_training import train_on
from hf_condense.models.training import FitRecipe, predict
from hf_condense.progress import Progress
from hf_condense.selection.scores import el2n

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource
    from hf_condense.models.image_model import ImageModel

DYNAMICS_VERSION = 1  # raised when the same settings no longer give the same record
LOOK_BATCH = 1024


@dataclass(frozen=True)
class Dynamics:
    """Records of every training image after each epoch, un-augmented, by the network in eval mode.

    Args:
        probability: float32 [epochs, n], of the true class.
        el2n: float32 [epochs, n], length of the error vector.
        correct: bool [epochs, n].
    """

    probability: torch.Tensor
    el2n: torch.Tensor
    correct: torch.Tensor


def training_dynamics(
    name: str,
    recipe: FitRecipe,
    batch_size: int,
    train: ImageSource,
    policy: ViewPolicy,
    *,
    key: Key,
    device: torch.device,
    cache_folder: Path,
) -> Dynamics:
    """Trains network `name` on all of `train`, from scratch unless its name means weights, and records each epoch.

    The record is stored in `cache_folder` under the hash of its inputs: shards and processes share it, and an
    interrupted training goes on.

    Raises:
        ModelError: the network is unknown, cannot be fetched, or does not fit the images.
        ArtefactError: the cache cannot be written to, or the record there is damaged.
    """
    identity = [
        DYNAMICS_VERSION,
        VIEW_VERSION,
        name,
        checkpoint_files(name),
        recipe,
        batch_size,
        policy,
        train.fingerprint,
        train.mean,
        train.std,
        str(key),
    ]
    place = Path(cache_folder) / "dynamics" / f"{fingerprint(identity)}.safetensors"
    if not place.exists():
        with one_at_a_time(place):
            if not place.exists():
                model = load_model(name, train.spec, key=key / "initial")
                _record(place, model, recipe, batch_size, train, policy, key / "fit", device)
    return _read(place)


@lru_cache(maxsize=1)  # a path contains the hash of its inputs, and all classes read the same one
def _read(place: Path) -> Dynamics:
    return Dynamics(**load_tensors(place)[0])


def _record(place: Path, model: ImageModel, recipe: FitRecipe, batch_size: int, train, policy, key, device) -> None:
    work = place.with_suffix(".fit")  # also holds the unfinished training, which resumes after the recorded epochs

    def epoch_file(epoch: int) -> Path:
        return work / f"epoch-{epoch:05d}.safetensors"

    def keep(epoch: int, model: ImageModel, *_) -> None:
        save_tensors(epoch_file(epoch), look(model, train, device))

    with Progress(f"training dynamics {model.name}", recipe.epochs) as bar:
        train_on(
            model,
            recipe,
            batch_size,
            train,
            policy,
            key,
            device,
            bar,
            work,
            keep,
            "dynamics_model",
            "lower --dynamics_lr",
        )
    epochs = [load_tensors(epoch_file(epoch))[0] for epoch in range(recipe.epochs)]
    save_tensors(place, {name: torch.stack([e[name] for e in epochs]) for name in epochs[0]})
    shutil.rmtree(work, ignore_errors=True)


def look(model: ImageModel, source: ImageSource, device: torch.device) -> dict[str, torch.Tensor]:
    """The fields of `Dynamics` for one epoch, [n] each."""
    found: dict[str, list[torch.Tensor]] = {"probability": [], "el2n": [], "correct": []}
    for _, images, labels in source.batches(LOOK_BATCH):
        logits = predict(model, images, device, size=source.image_size)
        found["probability"].append(logits.softmax(1).gather(1, labels[:, None])[:, 0])
        found["el2n"].append(el2n(logits, labels))
        found["correct"].append(logits.argmax(1) == labels)
    return {name: torch.cat(parts) for name, parts in found.items()}
