"""Trains a network on the real images, with hard labels and the views of the squeeze."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from hf_condense.config import SqueezeSettings
from hf_condense.data.augmentation import ViewPolicy, apply_views, draw_views, views_of
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.data_parallel import DataParallel, whole_batch
from hf_condense.models.image_model import ImageModel
from hf_condense.models.training import Batch, FitRecipe, fit
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource


def training_policy(settings: SqueezeSettings, image_size: int, stored_size: int, flip: bool) -> ViewPolicy:
    """Views of the squeeze: pad-and-crop for small images, random resized crop for those that are stored larger."""
    least = settings.squeeze_crop_min
    if least is None and stored_size == image_size:
        pad = settings.squeeze_pad if settings.squeeze_pad is not None else image_size // 8
        return ViewPolicy(size=image_size, pad=pad, flip=0.5 * flip)
    return ViewPolicy(size=image_size, crop=(0.08 if least is None else least, 1.0), flip=0.5 * flip)


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
