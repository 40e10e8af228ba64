"""The squeeze: a pool of networks trained on the real data, cached by the hash of their settings."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from hf_condense.config import SqueezeSettings
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy, apply_views, draw_views, views_of
from hf_condense.data.cache import note_use, one_at_a_time
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.errors import ModelError
from hf_condense.files import atomic_path, fingerprint, sha256_file
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.data_parallel import DataParallel, pays, whole_batch
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model
from hf_condense.models.members import POOL_VERSION, ModelPool, PoolMember, count_macs
from hf_condense.models.networks import weight_tag
from hf_condense.models.training import Batch, FitRecipe, fit
from hf_condense.processes import Processes
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource

__all__ = ["POOL_VERSION", "ModelPool", "PoolMember", "squeeze", "train_member"]


def squeeze(
    settings: SqueezeSettings,
    train: ImageSource,
    test: ImageSource,
    *,
    image_size: int,
    key: Key,
    device: torch.device,
    cache_folder: Path,
    flip: bool = True,
    accelerator=None,
    progress: bool = True,
    dataset: str = "",
) -> ModelPool:
    """Trains every network of `settings.base_model` (or takes its published weights) and measures it on `test`.

    With several processes each network is trained whole on one of them, or, where there are fewer networks than
    processes and the training is long, on all of them at once; all return the same pool.

    Args:
        image_size: side in pixels that the networks see.
        key: determines initialisations, order of images and views.
        cache_folder: networks are stored in `models/<hash>` there and reused; an interrupted training resumes.
        flip: whether mirrored images still belong to their class.
        accelerator: an `accelerate.Accelerator`; its processes share the work.
        progress: whether bars and results are shown.
        dataset: id of the source dataset, for the cards.

    Raises:
        ModelError: a network is unknown, cannot be fetched, does not fit the images, has weights or outputs that are not
            finite, or is hardly above chance.
    """
    names = settings.base_model
    if len(set(names)) < len(names):
        raise ModelError("base_model", list(names), "each name once", "drop the repeated names")
    processes = Processes(accelerator)
    # ranks share the work but not the key: a member is the same network on any process
    options: dict[str, Any] = {
        "image_size": image_size,
        "key": key,
        "device": device,
        "cache_folder": cache_folder,
        "flip": flip,
        "dataset": dataset,
    }
    show = progress and processes.main
    parallel = DataParallel(accelerator) if _in_parallel(settings, train, processes.world) else None
    if parallel:
        options["parallel"] = parallel
    elif processes.world > 1:
        for name in processes.share(names):
            train_member(name, settings, train, test, progress=show, **options)
        processes.wait()
    members = [train_member(name, settings, train, test, progress=show, **options) for name in names]
    for member in members:
        if show:
            begun = f"weights of {member.source['id']}" if member.source["pretrained"] else "from scratch"
            tqdm.write(f"squeeze: {member.name} ({begun}), top-1 {100 * member.top1:.1f} % on {len(test)} test images")
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


def train_member(
    name: str,
    settings: SqueezeSettings,
    train: ImageSource,
    test: ImageSource,
    *,
    image_size: int,
    key: Key,
    device: torch.device,
    cache_folder: Path,
    flip: bool = True,
    progress: bool = True,
    dataset: str = "",
    copies: Sequence[int] = (),
    parallel: DataParallel | None = None,
) -> PoolMember:
    """One member of the pool, frozen on `device`: from the cache when it is there, else trained, measured and kept.

    Args:
        parallel: trains it on all processes at once, which all call this.
        copies: numbers of finished epochs after which the network is kept as well, in `copy_place`.

    Raises:
        ModelError: see `squeeze`.
    """
    policy = training_policy(settings, image_size, train.stored_size, flip)
    place = member_place(name, settings, train, test, policy, key, cache_folder)
    world = parallel.processes.world if parallel else None
    if world:  # other weights, by rounding and by the parts that batch norms see
        place = place.with_name(f"{place.name}-{world}-processes")
    main = parallel is None or parallel.processes.main
    kept = {epoch: copy_place(place, epoch) for epoch in copies}

    def made() -> bool:
        return place.exists() and all(folder.exists() for folder in kept.values())

    def make() -> None:
        model = load_model(
            name,
            replace(train.spec, image_size=image_size),
            pretrained=settings.pretrained,
            key=key / "initial" / name,
        )

        def keep(epoch: int, model: ImageModel, *_) -> None:
            if main and (folder := kept.get(epoch + 1)) and not folder.exists():
                model.needs_squeeze = False
                with atomic_path(folder) as temporary:
                    write_checkpoint(model, temporary, image_size)

        # named by its copies: an unfinished training that kept others has passed the epochs of these
        state = place.with_name(f"{place.name}{'-' + fingerprint(sorted(kept)) if kept else ''}.fit")
        if settings.squeeze_epochs:
            with Progress(f"squeeze {name}", settings.squeeze_epochs, show=progress, name=name) as bar:
                train_on(
                    model,
                    squeeze_recipe(settings),
                    settings.squeeze_batch,
                    train,
                    policy,
                    key / "fit" / name,
                    device,
                    bar,
                    state,
                    keep,
                    parallel=parallel,
                )
        elif model.needs_squeeze:
            raise ModelError(
                "squeeze_epochs",
                0,
                f"1 or more for {name}: its classes do not map to the dataset's by name",
                "train the new head with --squeeze_epochs, or write the class names (label_names, id2label) into "
                "its config.json",
            )
        model.needs_squeeze = False
        if main and not place.exists():
            license = None if model.source["pretrained"] else train.license
            member = PoolMember.measured(
                name,
                model,
                test,
                device,
                image_size,
                epochs=settings.squeeze_epochs,
                license=license,
                dataset=dataset,
                processes=world,
            )
            with atomic_path(place) as temporary:
                member.save(temporary)
        if main:
            shutil.rmtree(state, ignore_errors=True)

    if parallel:
        with one_at_a_time(place) if main else nullcontext():
            if not parallel.decided(made()):
                make()
            parallel.processes.wait()
    elif not made():
        with one_at_a_time(place):
            if not made():  # by another run that shares the cache
                make()
    # read back even what was just made, so that a first and a repeated run go on from the very same bytes
    member = PoolMember.load(place)
    note_use(name, place)
    member.model.to(device)
    if member.macs is None:  # kept before they were counted
        member.macs = count_macs(member.model, image_size)
    return member


def training_policy(settings: SqueezeSettings, image_size: int, stored_size: int, flip: bool) -> ViewPolicy:
    """Views of the squeeze: pad-and-crop for small images, random resized crop for those that are stored larger."""
    least = settings.squeeze_crop_min
    if least is None and stored_size == image_size:
        pad = settings.squeeze_pad if settings.squeeze_pad is not None else image_size // 8
        return ViewPolicy(size=image_size, pad=pad, flip=0.5 * flip)
    return ViewPolicy(size=image_size, crop=(0.08 if least is None else least, 1.0), flip=0.5 * flip)


def member_place(
    name: str,
    settings: SqueezeSettings,
    train: ImageSource,
    test: ImageSource,
    policy: ViewPolicy,
    key: Key,
    cache_folder: Path,
) -> Path:
    """The folder of a member, by the hash of all that it depends on; other members of the pool are not part of it."""
    own = {k: v for k, v in asdict(settings).items() if k.startswith("squeeze_") and k != "squeeze_parallel"}
    own["pretrained"] = settings.pretrained or weight_tag(name) != ""
    versions = [POOL_VERSION, VIEW_VERSION]
    parts = [
        versions,
        name,
        checkpoint_files(name),
        own,
        policy,
        train.fingerprint,
        test.fingerprint,
        train.mean,
        str(key),
    ]
    return Path(cache_folder) / "models" / fingerprint(parts)


def checkpoint_files(name: str) -> dict[str, str]:
    """File name -> sha256 where `name` is a folder: the same path can hold other weights later. Otherwise empty."""
    folder = Path(name.removeprefix("local-dir:").removeprefix("transformers:")).expanduser()
    return {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file()} if folder.is_dir() else {}


def copy_place(place: Path, epoch: int) -> Path:
    """Where the network of `place` is kept as it was after `epoch` epochs: its checkpoint, not measured."""
    return place.with_name(f"{place.name}-epoch{epoch:04d}")


def squeeze_recipe(settings: SqueezeSettings) -> FitRecipe:
    return FitRecipe(
        epochs=settings.squeeze_epochs,
        lr=settings.squeeze_lr,
        momentum=settings.squeeze_momentum,
        weight_decay=settings.squeeze_weight_decay,
        schedule=settings.squeeze_schedule,
    )


def train_on(
    model: ImageModel,
    recipe: FitRecipe,
    batch_size: int,
    train: ImageSource,
    policy: ViewPolicy,
    key: Key,
    device: torch.device,
    bar: Progress,
    state: Path | None,
    on_epoch: Callable[..., None] | None = None,
    setting: str = "base_model",
    remedy: str = "lower --squeeze_lr",
    parallel: DataParallel | None = None,
) -> None:
    """Trains on hard labels of the real images, each in a view of its own. `state` keeps the unfinished training, if given.

    With `parallel`, images and views of a batch are those of one process, and each takes its part of them.

    Raises:
        ModelError: it diverges; the message names the network by its `setting`, and the `remedy`.
    """
    labels, side = torch.from_numpy(train.labels).to(device), train.stored_size
    images = None  # all of them on the device, where they fit
    if device.type == "cuda" and math.prod(train.shape) < 0.3 * torch.cuda.mem_get_info(device)[0]:
        images = train.decoded().to(device)

    def batches(epoch: int) -> Iterator[Batch]:
        order = (key / "order" / epoch).permutation(len(labels))
        parts = [order[a : a + batch_size] for a in range(0, len(order), batch_size)]
        sizes = [len(rows) for rows in parts]
        mine = [whole_batch(size, parallel) for size in sizes]
        parts = [rows[part] for rows, part in zip(parts, mine)]
        if len(parts) > 1 and len(parts[-1]) <= 1:  # batch norm cannot train on a single image
            del parts[-1]
        decoded = (
            train.ahead(parts) if images is None else (images[to_device(torch.from_numpy(p), device)] for p in parts)
        )
        for step, (rows, pixels) in enumerate(zip(parts, decoded)):
            views = draw_views(policy, key / "views" / epoch / step, sizes[step], side, side)
            if parallel:
                views = views_of(views, mine[step])
            yield Batch(
                apply_views(unit_pixels(pixels, device), views, policy),
                labels[to_device(torch.from_numpy(rows), device)],
            )

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits, batch.labels)

    fit(
        model,
        batches,
        loss,
        recipe,
        device=device,
        key=key / "layers",
        parallel=parallel,
        on_epoch=on_epoch,
        progress=bar,
        state_folder=state,
        setting=setting,
        remedy=remedy,
    )
