"""A step of a method before there is anything to take it with: untrained networks, made-up statistics, black images."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_condense.data.images import ImageSource
from hf_condense.methods.base import Context, Method, StatisticsRequest
from hf_condense.models.image_model import ImageModel
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.statistics import RealStatistics, running_statistics
from hf_condense.models.taps import Taps
from hf_condense.plan import Shard
from hf_condense.shard_optimiser import ShardOptimiser, space_of

CPU = torch.device("cpu")


class BlackImages:
    """A source whose images are all black: nothing is read or decoded, and pages of zeros take no memory."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def images(self, rows: Sequence[int] | np.ndarray | None = None) -> Tensor:
        return torch.zeros(len(self) if rows is None else len(rows), *self.shape[1:], dtype=torch.uint8)

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        return map(self.images, batches)

    def decoded(self) -> Tensor:
        return self._decoded

    @cached_property
    def _decoded(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.uint8)


def trial(
    method: Method,
    context: Context,
    shard: Shard,
    models: Sequence[ImageModel],
    device: torch.device,
    ready: Any = None,
) -> ShardOptimiser:
    """A shard of a method on `device`, ready to step. What it is made of changes what a step finds, not what it does.

    Args:
        context: on the CPU or on `device`.
        models: observers of methods with a pool, untrained, on the CPU; they are moved to `device`.
        ready: of the method; defaults to its stand-in.
    """
    observed = with_observers(method, context, models)
    whitening = observed.whitening and copy.deepcopy(observed.whitening).to(device)
    fresh = observed.fresh and type(observed.fresh)(
        observed.fresh.name, context.train.plain_spec, device=device, whitening=whitening
    )
    here = replace(observed, device=device, fresh=fresh, whitening=whitening)
    for model in models:
        model.to(device)
    if ready is None:
        ready = method.stand_in(shard, here)
    train, recipe = context.train, method.recipe(shard, here.spec)
    generator = torch.Generator().manual_seed(0)
    size = (len(shard.rows), train.channels, context.image_size, context.image_size)
    first = torch.rand(size, generator=generator).to(device)
    objective = method.objective(here, ready)
    if objective.needs_sources:
        rows = np.arange(len(shard.rows) * method.real_images_each) % len(train)
        objective.sources = train.images(rows).unflatten(0, (len(shard.rows), method.real_images_each))
    return ShardOptimiser(
        shard,
        recipe,
        objective,
        space_of(recipe, first, train.mean, train.std, whitening),
        first,
        shard.key(context.key),
        Path(tempfile.gettempdir()) / "no checkpoint",
    )


def with_observers(method: Method, context: Context, models: Sequence[ImageModel]) -> Context:
    """The context of a method that looks through `models`, with made-up statistics; as it is for other methods."""
    if not method.info.pool:
        return context
    request = method.statistics(context)
    statistics = [made_up_statistics(model, request, context.train) for model in models] if request else None
    pool = ModelPool([_member(str(i), model.freeze()) for i, model in enumerate(models)])
    return replace(context, observers=pool, statistics=statistics)


@torch.no_grad()
def made_up_statistics(model: ImageModel, request: StatisticsRequest, source: ImageSource) -> RealStatistics:
    """Statistics of the layout that `request` gives: zero means, unit variances."""
    images = torch.zeros(2, source.channels, source.image_size, source.image_size)
    if request.mode == "running":
        found = running_statistics(model, images, source.num_classes)
        if found is not None:
            return found
    with Taps(model.eval(), request.patch, request.kinds) as taps:
        model(images)
        taps.collect()
    first = torch.zeros(source.num_classes, taps.layout.size, dtype=torch.float64)
    return RealStatistics(torch.ones(source.num_classes, dtype=torch.float64), first, first + 1, taps.layout)


def _member(name: str, model: ImageModel) -> PoolMember:
    return PoolMember(name, model, 1.0, "", model.source, 0, model.parameter_count, 0)
