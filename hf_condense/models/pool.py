"""The squeeze: a pool of networks trained on the real data, cached by the hash of their settings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from hf_condense.config import SqueezeSettings
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy
from hf_condense.data.cache import note_use, one_at_a_time
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.files import atomic_path, fingerprint, sha256_file
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.data_parallel import DataParallel, pays
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model
from hf_condense.models.members import POOL_VERSION, ModelPool, PoolMember, count_macs
from hf_condense.models.networks import weight_tag
from hf_condense.models.real_training import squeeze_recipe, train_on, training_policy
from hf_condense.processes import Processes
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource

__all__ = ["POOL_VERSION", "ModelPool", "PoolMember", "PoolTraining", "squeeze"]


@dataclass(frozen=True)
class PoolTraining:
    """What the members of a pool share, each of which is trained, measured and kept in a folder of its own.

    Args:
        image_size: side in pixels that the networks see.
        key: determines initialisations, order of images and views.
        cache_folder: members are stored in `models/<hash>` there and reused; an interrupted training resumes.
        flip: whether mirrored images still belong to their class.
        progress: whether bars and results are shown.
        dataset: id of the source dataset, for the cards.
        parallel: trains each on all processes at once, which all call `member`.
    """

    settings: SqueezeSettings
    train: ImageSource
    test: ImageSource
    image_size: int
    key: Key
    device: torch.device
    cache_folder: Path
    flip: bool = True
    progress: bool = True
    dataset: str = ""
    parallel: DataParallel | None = None

    @property
    def policy(self) -> ViewPolicy:
        """The views that networks are trained on."""
        return training_policy(self.settings, self.image_size, self.train.stored_size, self.flip)

    @property
    def world(self) -> int | None:
        """How many processes train a network together; None where one does it alone."""
        return self.parallel.processes.world if self.parallel else None

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.parallel is None or self.parallel.processes.main

    def place(self, name: str) -> Path:
        """The folder of a member, by the hash of all that it depends on; other members of the pool are not part of it."""
        settings, train = self.settings, self.train
        own = {k: v for k, v in asdict(settings).items() if k.startswith("squeeze_") and k != "squeeze_parallel"}
        own["pretrained"] = settings.pretrained or weight_tag(name) != ""
        parts = [
            [POOL_VERSION, VIEW_VERSION],
            name,
            checkpoint_files(name),
            own,
            self.policy,
            train.fingerprint,
            self.test.fingerprint,
            train.mean,
            str(self.key),
        ]
        # of several processes other weights, by rounding and by the parts that batch norms see
        return self.cache_folder / "models" / (fingerprint(parts) + (f"-{self.world}-processes" if self.world else ""))

    def member(self, name: str, copies: Sequence[int] = ()) -> PoolMember:
        """One member, frozen on the device: from the cache when it is there, else trained, measured and kept.

        Args:
            copies: numbers of finished epochs after which the network is kept as well, in `copy_place`.

        Raises:
            ModelError: see `squeeze`.
        """
        place = self.place(name)
        kept = {epoch: copy_place(place, epoch) for epoch in copies}

        def made() -> bool:
            return place.exists() and all(folder.exists() for folder in kept.values())

        if self.parallel:
            with one_at_a_time(place) if self.main else nullcontext():
                if not self.parallel.decided(made()):
                    self._make(name, place, kept)
                self.parallel.processes.wait()
        elif not made():
            with one_at_a_time(place):
                if not made():  # by another run that shares the cache
                    self._make(name, place, kept)
        # read back even what was just made, so that a first and a repeated run go on from the very same bytes
        member = PoolMember.load(place)
        note_use(name, place)
        member.model.to(self.device)
        if member.macs is None:  # kept before they were counted
            member.macs = count_macs(member.model, self.image_size)
        return member

    def _make(self, name: str, place: Path, kept: dict[int, Path]) -> None:
        """Trains a network (or takes its published weights) and saves it in `place`, and its copies by epoch."""
        images = replace(self.train.spec, image_size=self.image_size)
        model = load_model(name, images, pretrained=self.settings.pretrained, key=self.key / "initial" / name)
        # named by its copies: an unfinished training that kept others has passed the epochs of these
        state = place.with_name(f"{place.name}{'-' + fingerprint(sorted(kept)) if kept else ''}.fit")
        if self.settings.squeeze_epochs:
            self._fit(name, model, state, kept)
        elif model.needs_squeeze:
            raise ModelError(
                "squeeze_epochs",
                0,
                f"1 or more for {name}: its classes do not map to the dataset's by name",
                "train the new head with --squeeze_epochs, or write the class names (label_names, id2label) into "
                "its config.json",
            )
        model.needs_squeeze = False
        if self.main and not place.exists():
            self._save(name, model, place)
        if self.main:
            shutil.rmtree(state, ignore_errors=True)

    def _fit(self, name: str, model: ImageModel, state: Path, kept: dict[int, Path]) -> None:
        """Trains on the real images, and writes the network after the epochs of `kept`."""

        def keep(epoch: int, model: ImageModel, *_) -> None:
            if self.main and (folder := kept.get(epoch + 1)) and not folder.exists():
                model.needs_squeeze = False
                with atomic_path(folder) as temporary:
                    write_checkpoint(model, temporary, self.image_size)

        settings = self.settings
        with Progress(f"squeeze {name}", settings.squeeze_epochs, show=self.progress, name=name) as bar:
            train_on(
                model,
                squeeze_recipe(settings),
                settings.squeeze_batch,
                self.train,
                self.policy,
                self.key / "fit" / name,
                self.device,
                bar,
                state,
                keep,
                parallel=self.parallel,
            )

    def _save(self, name: str, model: ImageModel, place: Path) -> None:
        """Measures the network on the test images and writes it as a member."""
        member = PoolMember.measured(
            name,
            model,
            self.test,
            self.device,
            self.image_size,
            epochs=self.settings.squeeze_epochs,
            license=None if model.source["pretrained"] else self.train.license,
            dataset=self.dataset,
            processes=self.world,
        )
        with atomic_path(place) as temporary:
            member.save(temporary)


def squeeze(training: PoolTraining, accelerator=None) -> ModelPool:
    """Trains every network of the settings' `base_model` (or takes its published weights) and measures it.

    With several processes each network is trained whole on one of them, or, where there are fewer networks than
    processes and the training is long, on all of them at once; all return the same pool.

    Args:
        accelerator: an `accelerate.Accelerator`; its processes share the work, and the main one alone shows it.

    Raises:
        ModelError: a network is unknown, cannot be fetched, does not fit the images, has weights or outputs that are not
            finite, or is hardly above chance.
    """
    settings, train = training.settings, training.train
    names = settings.base_model
    if len(set(names)) < len(names):
        raise ModelError("base_model", list(names), "each name once", "drop the repeated names")
    processes = Processes(accelerator)
    show = training.progress and processes.main
    parallel = DataParallel(accelerator) if _in_parallel(settings, train, processes.world) else None
    # ranks share the work but not the key: a member is the same network on any process
    training = replace(training, progress=show, parallel=parallel)
    if processes.world > 1 and not parallel:
        for name in processes.share(names):
            training.member(name)
        processes.wait()
    members = [training.member(name) for name in names]
    for member in members:
        if show:
            begun = f"weights of {member.source['id']}" if member.source["pretrained"] else "from scratch"
            count = len(training.test)
            tqdm.write(f"squeeze: {member.name} ({begun}), top-1 {100 * member.top1:.1f} % on {count} test images")
        refuse_chance(member, settings.min_top1_over_chance, train.num_classes)
    return ModelPool(members)


def _in_parallel(settings: SqueezeSettings, train: ImageSource, world: int) -> bool:
    """Whether every network is trained by all processes at once."""
    if world == 1 or not settings.squeeze_epochs or settings.squeeze_batch < world:
        return False
    if settings.squeeze_parallel is not None:
        return settings.squeeze_parallel
    return len(settings.base_model) < world and pays(settings.squeeze_epochs, len(train))


def refuse_chance(member: PoolMember, patience: float, num_classes: int) -> None:
    """Refuses networks near chance: their labels would be noise, which would show only in the scores."""
    chance = 1 / num_classes
    # only classes that were learned elsewhere can stand in another order
    order = "the usual cause is another label order: compare the model's class names with the dataset's; else "
    if member.top1 < patience * chance:
        raise ModelError(
            "base_model",
            f"{member.name} with top-1 {100 * member.top1:.1f} %",
            f"{100 * patience * chance:.1f} % or more ({patience} times chance)",
            f"{order if member.source['pretrained'] else ''}train longer (--squeeze_epochs), lower --squeeze_lr, "
            "or lower --min_top1_over_chance",
        )


def checkpoint_files(name: str) -> dict[str, str]:
    """File name -> sha256 where `name` is a folder: the same path can hold other weights later. Otherwise empty."""
    folder = Path(name.removeprefix("local-dir:").removeprefix("transformers:")).expanduser()
    return {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file()} if folder.is_dir() else {}


def copy_place(place: Path, epoch: int) -> Path:
    """Where the network of `place` is kept as it was after `epoch` epochs: its checkpoint, not measured."""
    return place.with_name(f"{place.name}-epoch{epoch:04d}")
