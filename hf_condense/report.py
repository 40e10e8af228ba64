"""What a person sees at the end of a run, and the pictures on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_condense.hub.preview import comparison, image_grid

if TYPE_CHECKING:
    from hf_condense.evaluation.run import ImageSet, ScoreTable
    from hf_condense.methods.base import Shard
    from hf_condense.trainer import CondensationTrainer


def snapshot(folder: Path, class_names: list[str]) -> Callable[[Shard, int, torch.Tensor], None]:
    """Writes a grid of a shard's images while they are optimised: `pictures/<shard>-step<t>.png`."""

    def write(shard: Shard, step: int, images: torch.Tensor) -> None:
        image_grid(images, torch.tensor(shard.labels), class_names, folder / f"{shard.id}-step{step:05d}.png")

    return write


def finish(trainer: CondensationTrainer, table: ScoreTable, rows: dict[str, ImageSet], folder: Path) -> None:
    """Prints scores and cost, and names the picture to look at and the three lines that load the set."""
    pictures = trainer.folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    per_class = trainer.config.run.ipc
    some = min(trainer.train.num_classes, 10)
    shown = {
        name: torch.cat([row.images[row.labels == c][: min(per_class, 3)] for c in range(some)])
        for name, row in rows.items()
    }
    comparison(pictures / "comparison.png", shown)
    print()
    print(table.text())
    print()
    print(costs(trainer, folder))
    print(f"\nlook at   {pictures / 'comparison.png'} and {folder / 'preview.png'}")
    print(f"load with load_dataset({str(folder)!r})")


def costs(trainer: CondensationTrainer, folder: Path) -> str:
    """Seconds and peak memory of each stage, and what is published in bytes."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak memory':>12}"]
    for name, facts in trainer.stage_facts().items():
        lines.append(f"{name:<12} {facts['seconds']:>9.1f} {facts['peak_bytes'] / 1e6:>9.0f} MB")
    sizes = {part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file()) for part in ("data", "soft_labels")}
    lines.append(f"published: images and labels {sizes['data'] / 1e3:.0f} kB, label store {sizes['soft_labels'] / 1e3:.0f} kB")
    return "\n".join(lines)
