"""What is seen at the end of a run: scores, costs, pictures, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hf_condense.run.condense import Condense
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.pictures import COMPARISON, columns, real_rows
from hf_condense.run.pipeline import Pipeline
from hf_condense.text import listed


def finish(pipeline: Pipeline, dataset: Path) -> None:
    """Prints scores and cost, and names the picture to look at and the line that loads the set.

    Args:
        pipeline: of a finished run.
        dataset: the published folder.
    """
    run = pipeline.run
    show(pipeline)
    print(f"\n{pipeline[Evaluate].text()}\n\n{costs(pipeline.facts(), dataset)}\n")
    synthetic = pipeline[Condense].synthetic
    if synthetic.soft_labels is not None:
        others = int((synthetic.soft_labels.argmax(1) != synthetic.labels).sum())
        print(
            f"soft labels made with the images: the largest is another class's for {others} of {len(synthetic.labels)}"
        )
    print(f"look at   {run.folder / 'pictures' / 'comparison.png'} and {dataset / 'preview.png'}")
    print(f"load with load_dataset({str(dataset)!r})")


def show(pipeline: Pipeline) -> None:
    """Gives callbacks the rows of a comparison."""
    images, labels = pictured(pipeline)
    names, callbacks = pipeline.run.train.class_names, pipeline.callbacks
    callbacks.emit("on_images", callbacks.state(), images=images, labels=labels, class_names=names, name=COMPARISON)


def pictured(pipeline: Pipeline) -> tuple[dict[str, Tensor], Tensor]:
    """A few images of ten classes: row -> uint8 [n, C, S, S], and the labels int64 [n] of the columns."""
    run, synthetic = pipeline.run, pipeline[Condense].synthetic
    chosen = columns(synthetic.labels, run.train.num_classes)
    labels, name = synthetic.labels[chosen], run.config.run.method
    baseline = "random" in run.config.evaluation.baselines and name != "random"
    rows = real_rows(run.train, labels, run.key, baseline)
    if not synthetic.initial.equal(synthetic.images):
        rows["first images"] = synthetic.initial[chosen]
    return {**rows, run.method.info.title.split(" (")[0]: synthetic.images[chosen]}, labels


def costs(stage_facts: dict[str, dict[str, Any]], dataset: Path) -> str:
    """Seconds and peak memory of each stage, and what is published in bytes."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak memory':>12}"]
    for name, facts in stage_facts.items():
        reused = f"   without {listed(facts['reused'])}: from the cache" if facts["reused"] else ""
        lines.append(f"{name:<12} {facts['seconds']:>9.1f} {facts['peak_bytes'] / 1e6:>9.0f} MB{reused}")
    sizes = {
        part: sum(f.stat().st_size for f in (dataset / part).rglob("*") if f.is_file())
        for part in ("data", "soft_labels")
    }
    lines.append(
        f"published: images and labels {sizes['data'] / 1e3:.0f} kB, label store {sizes['soft_labels'] / 1e3:.0f} kB"
    )
    return "\n".join(lines)
