"""The training of experts on the real images, whose weights are kept after every epoch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.config import check, check_choices
from hf_condense.data.cache import one_at_a_time
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.data.upload import to_device
from hf_condense.errors import ConfigError
from hf_condense.files import load_tensors, remove_leftovers, save_tensors
from hf_condense.models.expert_buffer import expert_file
from hf_condense.models.flat import Encoded, FlatNetwork
from hf_condense.models.training import Batch, FitRecipe, fit
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.images import ImageSource
    from hf_condense.models.fresh import FreshNetworks
    from hf_condense.models.image_model import ImageModel

DEVICE_BYTES = 4 << 30  # encoded images up to this size stay on the device; larger sets are encoded batch by batch


@dataclass(frozen=True)
class ExpertRecipe:
    """How experts are trained and stored.

    Args:
        epochs: of the training; there is one snapshot more than that.
        lr, momentum, weight_decay: of SGD, without a schedule; decay acts on all weights.
        batch: batch size.
        families: of siamese augmentation, one for each batch, with numbers for each image; () for none.
        dtype: of the snapshots. float16 halves the file size and loses precision where snapshots are close:
            of experts of digits, |difference|^2 two epochs apart is 0.01 % off at first and 2 % after 38 epochs.
    """

    epochs: int
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 256
    families: tuple[str, ...] = FAMILIES
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.epochs >= 1, "expert_epochs", self.epochs, "1 or more")
        check(self.batch >= 1, "expert_batch", self.batch, "1 or more")

    @property
    def policy(self) -> SiamesePolicy | None:
        return SiamesePolicy(self.families, family_per="call") if self.families else None

    @property
    def fit(self) -> FitRecipe:
        """This recipe for `models.training.fit`."""
        sgd = {"momentum": self.momentum, "weight_decay": self.weight_decay, "decay_all": True}
        return FitRecipe(self.epochs, self.lr, **sgd)


class ExpertTraining:
    """Trains experts of one folder, one after another; images are encoded once for all of them."""

    def __init__(
        self,
        fresh: FreshNetworks,
        source: ImageSource,
        recipe: ExpertRecipe,
        key: Key,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.fresh, self.source, self.recipe, self.key = fresh, source, recipe, key
        self.device, self.folder = device, folder
        self._encoded: Callable[[Tensor], Tensor] | None = None

    def make(self, number: int, progress: Progress) -> None:
        """Writes the file of expert `number`, unless it exists."""
        path, unfinished = self.folder / expert_file(number), self.folder / f"unfinished-{number:05d}"
        with one_at_a_time(path):
            if path.exists():
                progress.advance(self.recipe.epochs)
            else:
                remove_leftovers(self.folder, path.name)
                with progress.part(f"expert {number}", self.recipe.epochs) as part:
                    trajectory, losses = self._train(number, unfinished, part)
                save_tensors(path, {"trajectory": trajectory}, {"losses": losses})
            shutil.rmtree(unfinished, ignore_errors=True)

    def _train(self, number: int, folder: Path, progress: Progress) -> tuple[Tensor, list[float]]:
        """Snapshots [epochs + 1, P] as stored, and the mean loss of each epoch. `folder` holds unfinished ones."""
        network, recipe = self.fresh.numbered(number, self.key), self.recipe
        flat, key = FlatNetwork(network), self.key / number / "training"
        if self._encoded is None:
            self._encoded = encoded_images(self.source, network, self.device)
        dtype = getattr(torch, recipe.dtype)

        def keep(epoch: int) -> None:
            save_tensors(folder / f"{epoch:04d}.safetensors", {"weights": flat.flatten().to("cpu", dtype)})

        def on_epoch(epoch: int, model, averaged, row: dict) -> None:
            if not math.isfinite(row["loss"]):
                raise _diverged(number, epoch + 1, recipe)
            keep(epoch + 1)

        keep(0)
        result = fit(
            Encoded(network),
            self._batches(key),
            lambda logits, batch: F.cross_entropy(logits, batch.labels),
            recipe.fit,
            device=self.device,
            key=key / "layers",
            on_epoch=on_epoch,
            progress=progress,
            state_folder=folder,
            save_every=0,
        )
        kept = [load_tensors(folder / f"{e:04d}.safetensors")[0]["weights"] for e in range(recipe.epochs + 1)]
        _check_trajectory(kept, number, recipe)
        return torch.stack(kept), [row["loss"] for row in result.history]

    def _batches(self, key: Key) -> Callable[[int], Iterator[Batch]]:
        labels, policy = torch.from_numpy(self.source.labels).to(self.device), self.recipe.policy

        def batches(epoch: int) -> Iterator[Batch]:
            order = torch.from_numpy((key / "order" / epoch).permutation(len(labels)))
            for number, rows in enumerate(order.split(self.recipe.batch)):
                images = self._encoded(rows)
                if policy is not None:
                    name = key / "siamese" / epoch / number
                    images = apply_siamese(images, draw_siamese(policy, name, len(rows), *images.shape[-2:]), policy)
                yield Batch(images, labels[to_device(rows, self.device)])

        return batches


def encoded_images(source: ImageSource, network: ImageModel, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Gives the real images of rows int64 [b] (on the CPU) as `network.normalise` gives them, encoded once where they fit."""
    if source.fits_in_memory:
        source.decoded()  # kept by the source

    @torch.no_grad()
    def encode(rows: Tensor) -> Tensor:
        return network.normalise(unit_pixels(source.images(rows.numpy()), device, source.image_size))

    every = torch.arange(len(source))
    if encode(every[:1]).numel() * 4 * len(source) > DEVICE_BYTES:
        return encode
    whole = torch.cat([encode(rows) for rows in every.split(1024)])
    return lambda rows: whole[to_device(rows, device)]


def _check_trajectory(snapshots: list[Tensor], number: int, recipe: ExpertRecipe) -> None:
    """Raises ConfigError where snapshots do not differ: the matched distance is divided by their distance."""
    for epoch, (before, after) in enumerate(pairwise(snapshots)):
        if not after.isfinite().all():
            raise _diverged(number, epoch + 1, recipe)
        if torch.equal(before, after):
            raise ConfigError(
                "expert_lr",
                recipe.lr,
                f"a rate that moves the weights; those of expert {number} are the same after "
                f"{epoch} and {epoch + 1} epochs",
                "raise it, or keep snapshots as float32",
            )


def _diverged(number: int, epoch: int, recipe: ExpertRecipe) -> ConfigError:
    message = f"a rate at which weights stay finite; those of expert {number} do not in epoch {epoch}"
    return ConfigError("expert_lr", recipe.lr, message, "lower it (a tenth is a good next try)")
