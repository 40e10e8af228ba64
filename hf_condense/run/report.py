"""What is seen at the end of a run: scores, costs, pictures, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_condense.hub.preview import comparison
from hf_condense.plan import Synthetic
from hf_condense.run.condense import Condense
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.pipeline import Pipeline


def finish(pipeline: Pipeline, dataset: Path) -> None:
    """Prints scores and cost, and names the picture to look at and the line that loads the set.

    Args:
        pipeline: of a finished run.
        dataset: the published folder.
    """
    run, synthetic = pipeline.run, pipeline[Condense].synthetic
    pictures = run.folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    comparison(pictures / "comparison.png", pictured(synthetic, run.train.num_classes, run.config.run.method))
    print(f"\n{pipeline[Evaluate].text()}\n\n{costs(pipeline.facts(), dataset)}\n")
    print(f"look at   {pictures / 'comparison.png'} and {dataset / 'preview.png'}")
    print(f"load with load_dataset({str(dataset)!r})")


def pictured(synthetic: Synthetic, num_classes: int, method: str) -> dict[str, torch.Tensor]:
    """A few images of up to ten classes, before and after: name of the row -> uint8 images."""
    places = [torch.where(synthetic.labels == c)[0][:2].tolist() for c in range(min(10, num_classes))]
    rows = [row for found in places for row in found]
    return {"first images": synthetic.initial[rows], method: synthetic.images[rows]}


def costs(stage_facts: dict[str, dict[str, Any]], dataset: Path) -> str:
    """Seconds and peak memory of each stage, and what is published in bytes."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak memory':>12}"]
    for name, facts in stage_facts.items():
        lines.append(f"{name:<12} {facts['seconds']:>9.1f} {facts['peak_bytes'] / 1e6:>9.0f} MB")
    sizes = {
        part: sum(f.stat().st_size for f in (dataset / part).rglob("*") if f.is_file())
        for part in ("data", "soft_labels")
    }
    lines.append(
        f"published: images and labels {sizes['data'] / 1e3:.0f} kB, label store {sizes['soft_labels'] / 1e3:.0f} kB"
    )
    return "\n".join(lines)
