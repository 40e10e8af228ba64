"""What a person sees at the end of a run, and the pictures on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_condense.hub.preview import comparison, image_grid

if TYPE_CHECKING:
    from hf_condense.evaluation.report import ScoreTable
    from hf_condense.methods.base import Shard
    from hf_condense.trainer import CondensationTrainer


def snapshot(folder: Path, class_names: list[str]) -> Callable[[Shard, int, torch.Tensor], None]:
    """Writes a grid of a shard's images while they are optimised: `pictures/<shard>-step<t>.png`."""

    folder.mkdir(parents=True, exist_ok=True)

    def write(shard: Shard, step: int, images: torch.Tensor) -> None:
        image_grid(images, torch.tensor(shard.labels), class_names, folder / f"{shard.id}-step{step:05d}.png")

    return write


def finish(trainer: CondensationTrainer, table: ScoreTable, folder: Path) -> None:
    """Prints scores and cost, and names the picture to look at and the line that loads the set."""
    picture = trainer.folder / "pictures" / "comparison.png"
    comparison(picture, trainer.pictured())
    print(f"\n{table.text()}\n\n{costs(trainer, folder)}\n")
    print(f"look at   {picture} and {folder / 'preview.png'}")
    print(f"load with load_dataset({str(folder)!r})")


def costs(trainer: CondensationTrainer, folder: Path) -> str:
    """Seconds and peak memory of each stage, and what is published in bytes."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak memory':>12}"]
    for name, facts in trainer.stage_facts().items():
        lines.append(f"{name:<12} {facts['seconds']:>9.1f} {facts['peak_bytes'] / 1e6:>9.0f} MB")
    sizes = {
        part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file())
        for part in ("data", "soft_labels")
    }
    lines.append(
        f"published: images and labels {sizes['data'] / 1e3:.0f} kB, label store {sizes['soft_labels'] / 1e3:.0f} kB"
    )
    return "\n".join(lines)
