"""One file of real statistics for each network of a pool, from one pass over the real data that all processes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.models.statistics import (
    RealStatistics,
    collect_statistics,
    merge_statistics,
    running_statistics,
)
from hf_condense.processes import Processes
from hf_condense.progress import Progress


def write_statistics(
    paths: Sequence[Path],
    models: Sequence[nn.Module],
    source: ImageSource,
    policy: ViewPolicy | None,
    patch: int,
    key: Key,
    device: torch.device,
    *,
    mode: str,
    kinds: Sequence[str],
    processes: Processes,
) -> None:
    """Writes the statistics of each of `models` to its path; they read back with `RealStatistics.load`.

    Each process takes whole classes, so that sums are those of one process.

    Args:
        mode: "exact" or "official" as in `collect_statistics`; "running" writes those of the BatchNorms, and makes an
            exact pass only for the networks that have none.
        processes: they share the images.
    """
    rank, world = processes.rank, processes.world
    work = dict(zip(paths, models))
    if mode == "running":
        any_images = torch.zeros(2, source.channels, source.image_size, source.image_size, device=device)
        for path, model in list(work.items()):
            remembered = running_statistics(model, any_images, source.num_classes)
            if remembered is not None:
                del work[path]
                if rank == 0:
                    remembered.save(path)
    if not work:
        return
    with Progress("statistics", len(source), show=rank == 0) as progress:
        found = collect_statistics(
            list(work.values()),
            source,
            policy,
            patch,
            key,
            device,
            mode="exact" if mode == "running" else mode,
            kinds=kinds,
            rank=rank,
            world=world,
            progress=lambda images: progress.advance(images * world),
        )
    if world > 1:
        for statistics, path in zip(found, work):
            statistics.save(path.with_suffix(f".{rank}"))
        processes.wait()
        parts = [[path.with_suffix(f".{r}") for r in range(world)] for path in work]
        found = [merge_statistics([RealStatistics.load(p) for p in part]) for part in parts] if rank == 0 else []
    for statistics, path in zip(found, work) if rank == 0 else ():
        statistics.save(path)
        for part in path.parent.glob(f"{path.stem}.[0-9]*"):
            part.unlink()
