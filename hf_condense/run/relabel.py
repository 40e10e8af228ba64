"""Relabel: soft labels of the condensed images, and of their views where a regime stores them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_condense.config import LabelSettings
from hf_condense.data.randomness import Key
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.files import load_tensors, save_tensors
from hf_condense.labels.columns import expected_bytes
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.formats import kept_epochs, store_format
from hf_condense.labels.store import LabelStore, write_store
from hf_condense.plan import Synthetic
from hf_condense.progress import Progress
from hf_condense.run.base import Run
from hf_condense.run.condense import Condense
from hf_condense.run.probe import Probe
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.stage import Cost, Outputs, Stage

IMAGES = "soft_labels.safetensors"


@dataclass(frozen=True)
class Labels:
    """Soft labels of the condensed set.

    Args:
        images: float16 [N, K] probabilities of the un-augmented images.
        store: labels of views, where they are stored; it lies in `folder`.
        weights: of the teachers in the mean that they are; None for equal ones.
    """

    images: Tensor
    store: LabelStore | None
    folder: Path
    weights: tuple[float, ...] | None = None


class Relabel(Stage[Labels]):
    """The teacher looks at the published images, where a regime needs it."""

    name, place, after = "relabel", "labels", (Condense, Squeeze)

    def used(self, run: Run) -> bool:
        return run.labelled

    def settings(self, run: Run) -> dict[str, Any]:
        c, protocol, images = run.config, run.student_protocol, run.training_images
        epochs, limit = protocol.soft_epochs(images), protocol.duration(images)[1]
        stored = "stored" in c.evaluation.regimes and protocol.label_per == "view"
        views = c.labels if stored else LabelSettings("none")
        return {
            "teachers": c.squeeze.teachers or ((c.weak.label_source,) if c.weak.weak else c.squeeze.base_model),
            "average": protocol.average,
            "teacher_bn": protocol.teacher_bn,
            **store_format(views, protocol.softening, protocol.label_parts),
            "epochs": c.labels.label_epochs or epochs,
            "limit": limit,
            "batch": protocol.batch_size(images),
            "policy": asdict(run.policy),
        }

    def make(self, run: Run, done: Outputs, folder: Path) -> None:
        synthetic, teacher, protocol = done[Condense].synthetic, done[Squeeze].teacher, run.student_protocol
        settings, main = self.settings(run), run.accelerator.is_main_process
        if main:
            soft = teacher.soft_labels(synthetic.images, run.device)
            save_tensors(folder / IMAGES, {"soft_labels": soft})
        if settings["store"] == "none":
            return
        with Progress("labels", settings["epochs"], show=main) as progress:
            write_store(
                folder / "views",
                synthetic.images,
                synthetic.labels,
                teacher,
                run.policy,
                run.key / "students" / "labels",
                settings["epochs"],
                settings["batch"],
                run.device,
                form=store_format(run.config.labels, protocol.softening, protocol.label_parts),
                limit=settings["limit"],
                accelerator=run.accelerator,
                progress=progress,
                formation_factor=run.method.formation_factor,
            )

    def load(self, run: Run, done: Outputs, folder: Path) -> Labels:
        views, store = folder / "views", None
        if self.settings(run)["store"] != "none":
            store = LabelStore.open(views, done[Condense].synthetic.images)
        return Labels(load_tensors(folder / IMAGES)[0]["soft_labels"], store, views, done[Squeeze].teacher.weights)

    def cost(self, run: Run, probe: Probe) -> Cost:
        settings, images = self.settings(run), run.training_images
        if settings["store"] in ("none", "virtual"):
            return Cost()
        kept = len(kept_epochs(settings, Key(0), settings["epochs"]))
        seconds = kept * probe.label_epoch(images, kept) / probe.processes
        classes = run.spec.num_classes
        encoding = encoding_of({**settings, "dtype": "float16", "classes": classes})
        disk = expected_bytes(
            kept,
            images,
            classes,
            settings["batch"],
            settings["policy"]["mix"] != "none",
            encoding,
            views=settings["views"],
        )
        return Cost(seconds, disk=disk)


def scored_sets(run: Run) -> int:
    """Rows of the score table that get soft labels: the set itself, and those that it is compared with."""
    baselines, selects = run.config.evaluation.baselines, not run.plan.optimised
    others = {"random": run.config.run.method != "random", "initial": not selects, "centroids": True}
    return 1 + sum(differs and name in baselines for name, differs in others.items())


def condensed_set(run: Run, done: Outputs) -> ImageSet:
    """The condensed images as students are scored on them."""
    synthetic = done[Condense].synthetic
    store = done[Relabel].store if run.labelled else None
    return ImageSet(synthetic.images, synthetic.labels, store=store, **training_facts(run, synthetic))


def training_facts(run: Run, synthetic: Synthetic) -> dict[str, Any]:
    """What students have to know of the set beside images and labels."""
    rates = synthetic.learned.get("lr")
    return {
        "formation_factor": run.method.formation_factor,
        "stages": synthetic.stages,
        "rates": rates and tuple(rates),
        "soft": synthetic.soft_labels,
    }
