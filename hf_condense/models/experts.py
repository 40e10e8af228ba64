"""Expert trajectories: the weights of networks after every epoch of their training on the real images.

They are the targets of trajectory matching (arXiv:2203.11932, section 3.1).
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.config import check, check_choices
from hf_condense.data.cache import cache_folder, note_use, one_at_a_time
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.data.upload import to_device
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.files import (
    check_inside,
    fingerprint,
    load_tensor_shapes,
    load_tensors,
    regular_size,
    remove_leftovers,
    save_tensors,
    sha256_file,
)
from hf_condense.models.flat import Encoded, FlatNetwork
from hf_condense.models.training import Batch, FitRecipe, fit
from hf_condense.processes import Processes
from hf_condense.progress import Progress
from hf_condense.records.base import read_record, write_record
from hf_condense.records.experts import ExpertManifest
from hf_condense.snapshots import fetch_snapshot

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_condense.data.images import ImageSource
    from hf_condense.models.fresh import FreshNetworks
    from hf_condense.models.image_model import ImageModel

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
VERSION = 1  # raised when the same recipe no longer gives the same trajectories
# Encoded images up to this size stay on the device; larger sets are encoded batch by batch. So do snapshots.
DEVICE_BYTES = 4 << 30


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


class ExpertBuffer:
    """Snapshots of experts in a folder: `manifest.json`, and `expert-00000.safetensors` with [epochs + 1, P] each.

    Snapshots are read one at a time, when asked for. Made by `train_experts`, or `open`.

    Attributes:
        experts: how many there are.
        epochs: number of the last snapshot; 0 is before training.
        table: (name, shape) of each parameter; size: P.
        bytes: of their files.
    """

    def __init__(self, folder: Path, manifest: dict, experts: int) -> None:
        self.folder, self.manifest, self.experts = Path(folder), manifest, experts
        self.epochs = manifest["recipe"]["epochs"]
        self.table = [(name, tuple(shape)) for name, shape in manifest["table"]]
        self.size = sum(math.prod(shape) for _, shape in self.table)
        self.bytes = sum(facts["bytes"] for facts in manifest["experts"][:experts])
        self._slices: dict[int, Any] = {}
        self._placed: dict[tuple[int, int, str], Tensor] = {}

    @classmethod
    def open(cls, folder: Path | str, experts: int | None = None, verify: bool = False) -> ExpertBuffer:
        """The first `experts` of a folder, or all.

        Args:
            verify: whether checksums are verified, not only file sizes.

        Raises:
            ArtefactError: files are missing, damaged or of another version, or there are fewer experts.
        """
        folder = Path(folder)
        manifest = read_record(check_inside(folder, folder / MANIFEST), ExpertManifest)
        found = len(manifest["experts"])
        experts = found if experts is None else experts
        if experts > found:
            raise ArtefactError(
                "experts", experts, f"up to {found}, as many as {folder} holds", "ask for fewer experts"
            )
        for number, facts in enumerate(manifest["experts"][:experts]):
            path = folder / _name(number)
            size = regular_size(check_inside(folder, path)) or 0
            if size != facts["bytes"] or (verify and sha256_file(path) != facts["sha256"]):
                step = "delete it and train the experts again"
                raise ArtefactError(str(path), f"{size} bytes", f"the {facts['bytes']} bytes of the manifest", step)
        return cls(folder, manifest, experts)

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """float32 [P] on the CPU: the weights of an expert after `epoch` epochs."""
        check(0 <= expert < self.experts, "expert", expert, f"0 to {self.experts - 1}")
        check(0 <= epoch <= self.epochs, "epoch", epoch, f"0 to {self.epochs}")
        if expert not in self._slices:
            self._slices[expert] = self._open(self.folder / _name(expert))
        found = self._slices[expert][epoch : epoch + 1][0].float()
        if not found.isfinite().all():
            place = f"{self.folder / _name(expert)}: epoch {epoch}"
            raise ArtefactError(place, "infinite, or not a number", "finite weights", "train the experts again")
        return found

    def placed(self, expert: int, epoch: int, device: torch.device) -> Tensor:
        """`snapshot` on `device`. Up to `DEVICE_BYTES` of them stay there; on a CPU the system keeps what was read."""
        place = expert, epoch, str(device)
        if place in self._placed:
            return self._placed[place]
        found = to_device(self.snapshot(expert, epoch), device)
        if device.type != "cpu" and (len(self._placed) + 1) * found.nbytes <= DEVICE_BYTES:
            self._placed[place] = found
        return found

    def _open(self, path: Path) -> Any:
        """The snapshots of a file, opened without reading them."""
        from safetensors import safe_open

        shape, wanted = load_tensor_shapes(path), [self.epochs + 1, self.size]
        if shape != {"trajectory": wanted}:
            raise ArtefactError(str(path), shape, f"trajectory {wanted}", "delete it and train the experts again")
        return safe_open(str(path), framework="pt").get_slice("trajectory")


def train_experts(
    fresh: FreshNetworks,
    source: ImageSource,
    recipe: ExpertRecipe,
    count: int,
    *,
    key: Key,
    device: torch.device,
    accelerator: Accelerator | None = None,
    folder: Path | str | None = None,
) -> ExpertBuffer:
    """Experts trained on a source, or those of `folder`; kept in the cache folder, where more of them extend it.

    Expert k begins as `fresh.numbered(k, key)`. Images are augmented and seen as its `normalise` gives them. Processes
    share the experts, and all get the same buffer. An interrupted training resumes from its last whole epoch.

    Args:
        fresh: gives the networks (untrained, or chains); needs `numbered` and `fingerprint`.
        count: experts.
        key: names initial weights, order and augmentation.
        folder: of experts that were trained before, or a Hub model repository of them: nothing is trained.

    Raises:
        ConfigError: the networks have state beside weights; weights became infinite, or two snapshots in a row are
            equal; the experts of `folder` are of another network, or of images normalised otherwise.
        ArtefactError: files are damaged, or `folder` holds too few.
    """
    network = fresh.numbered(0, key)
    flat = FlatNetwork(network)
    if folder is not None:
        return _imported(_fetched(folder), flat, recipe, count)
    identity = {
        "version": VERSION,
        "table": flat.table,
        "seen": _seen(network),
        "networks": fresh.fingerprint,
        "recipe": asdict(recipe),
        "source": source.fingerprint,
        "key": key.seed(),
    }
    folder = cache_folder() / "experts" / fingerprint(identity)
    processes = Processes(accelerator)
    if processes.main:
        size = count * (recipe.epochs + 1) * flat.size * getattr(torch, recipe.dtype).itemsize / 1e9
        message = "experts: %d x %d snapshots of %d weights, %.3g GB in %s"
        log.info(message, count, recipe.epochs + 1, flat.size, size, folder)
    mine = processes.share(range(count))
    training = _Training(fresh, source, recipe, key, device, folder)
    with Progress("experts", len(mine) * recipe.epochs, show=processes.main) as progress:
        for number in mine:
            training.make(number, progress)
    processes.wait()
    if processes.main:
        _write_manifest(folder, identity, count)
    processes.wait()
    for number in range(count):
        note_use("experts", folder / _name(number))
    return ExpertBuffer.open(folder, count)


class _Training:
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
        path, unfinished = self.folder / _name(number), self.folder / f"unfinished-{number:05d}"
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


def _name(number: int) -> str:
    return f"expert-{number:05d}.safetensors"


def _seen(network: ImageModel) -> dict[str, Any]:
    """The encoding of images before the first layer, which trajectories depend on."""
    if network.whitening is not None:
        return network.whitening.facts
    return {"kind": "normalised", "mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}


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


def _fetched(place: Path | str) -> Path:
    """The local folder of experts; those of a Hub repository are fetched into the Hub's cache."""
    if Path(place).is_dir():
        return Path(place)
    allowed = "a folder, or a Hub model repository that can be read"
    return fetch_snapshot(str(place), "model", error=ArtefactError, field="expert_folder", allowed=allowed)


def _imported(folder: Path, flat: FlatNetwork, recipe: ExpertRecipe, count: int) -> ExpertBuffer:
    """The experts of a folder, if network and normalisation are equal and they were trained for enough epochs."""
    buffer, seen = ExpertBuffer.open(folder, count, verify=True), _seen(flat.network)
    needed = (
        (
            buffer.table == flat.table,
            f"{buffer.size} weights",
            f"experts of {flat.network.name} ({flat.size} weights)",
        ),
        (buffer.manifest["seen"] == seen, buffer.manifest["seen"], f"experts that have seen {seen}"),
        (buffer.epochs >= recipe.epochs, f"{buffer.epochs} epochs", f"{recipe.epochs} or more"),
    )
    for holds, found, allowed in needed:
        step = "choose the network and settings that they were trained with, or train new ones"
        check(holds, "expert_folder", found, allowed, step)
    return buffer


def _write_manifest(folder: Path, identity: dict, count: int) -> None:
    """Lists the existing experts in the manifest; entries of other runs are kept."""
    path = folder / MANIFEST
    with one_at_a_time(path):
        listed = read_record(path, ExpertManifest)["experts"] if path.exists() else []
        for number in range(len(listed), count):
            file = folder / _name(number)
            facts = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
            listed.append(facts | load_tensors(file)[1])
        write_record(path, ExpertManifest, identity | {"experts": listed})
