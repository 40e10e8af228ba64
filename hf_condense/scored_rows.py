"""What a run scores: its condensed set, and the sets beside which that means something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hf_condense.data.crops import centre
from hf_condense.evaluation.run import ImageSet
from hf_condense.selection.real import random_real

if TYPE_CHECKING:
    from hf_condense.trainer import CondensationTrainer


def scored_rows(trainer: CondensationTrainer, own: ImageSet) -> dict[str, ImageSet | list[ImageSet]]:
    """What is scored beside the condensed set: all real images, random ones (a draw a seed), the first images."""
    c, synthetic, rows = trainer.config, trainer.synthetic, {}
    baselines = c.evaluation.baselines
    if "full" in baselines:
        full = centre(trainer.train.decoded(), trainer.train.image_size)
        rows["full"] = ImageSet(full, torch.from_numpy(trainer.train.labels), digest=trainer.train.fingerprint)
    if "random" in baselines and c.run.method != "random":
        labels, size = tuple(synthetic.labels.tolist()), trainer.train.image_size
        draws = (
            random_real(trainer.train, labels, size, trainer.key / "baseline" / i)[0]
            for i in range(c.evaluation.student_seeds)
        )
        # in the same stages, so that students take as many steps
        rows["random"] = [ImageSet(images, synthetic.labels, stages=synthetic.stages) for images in draws]
    if "initial" in baselines and not torch.equal(synthetic.initial, synthetic.images):
        rows["initial"] = ImageSet(synthetic.initial, synthetic.labels, **how_made(trainer))
    rows[c.run.method] = own
    if synthetic.pixels is not None:  # what 8 bits and [0, 1] cost
        free = tuple(r for r in c.evaluation.regimes if r != "stored")
        rows[f"{c.run.method} (float)"] = ImageSet(
            synthetic.pixels, synthetic.labels, regimes=free, **how_made(trainer)
        )
    return rows


def how_made(trainer: CondensationTrainer) -> dict[str, Any]:
    """What students have to know of the set beside images and labels."""
    synthetic = trainer.synthetic
    rates = synthetic.learned.get("lr")
    return {
        "formation_factor": trainer.method.formation_factor, "stages": synthetic.stages,
        "rates": rates and tuple(rates), "soft": synthetic.soft_labels,
    }  # fmt: skip
