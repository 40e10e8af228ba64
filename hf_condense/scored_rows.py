"""What a run scores: its condensed set, and the sets beside which that means something."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_condense.config import check
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.run import ImageSet
from hf_condense.models.loading import load_untrained
from hf_condense.models.networks import means_weights
from hf_condense.selection.real import random_real

if TYPE_CHECKING:
    from hf_condense.data.images import ImageSource
    from hf_condense.resolve import Config
    from hf_condense.trainer import CondensationTrainer

log = logging.getLogger(__name__)


def scorable(trainer: CondensationTrainer) -> Config:
    """The settings without label regimes that the protocol cannot train with and a random row that the data cannot fill.

    Raises:
        ConfigError: somebody asked for one of them by name, no regime is left, or a student is no architecture.
        ModelError: a student that nobody knows, or that does not take such images.
    """
    config, protocol = trainer.config, trainer.protocol
    train = trainer.train
    for student in config.evaluation.students:
        check(not means_weights(student), "students", student, "architectures: a student begins untrained")
        load_untrained(  # only to see that it can be made
            "students", student, num_classes=train.num_classes, image_size=train.image_size, channels=train.channels,
            mean=train.mean, std=train.std, key=Key(0),
        )  # fmt: skip
    evaluation, kept = config.evaluation, {"regimes": [], "baselines": []}
    staged = trainer.method.plan(train.num_classes, config.run.ipc).groups[-1][0].stage > 1

    def check_possible(setting: str, name: str) -> None:
        if setting == "regimes":
            protocol.check_regime(name, staged)
            kept_labels = protocol.label_per == "image" or config.labels.store != "none"
            check(
                name != "stored" or kept_labels, "regimes", name, "hard or online with --store none: no labels are kept",
                "--store full, or --regimes hard",
            )  # fmt: skip
        elif name == "random" and config.run.method != "random":
            _check_enough(train, config.run.ipc)

    for setting, names in kept.items():
        for name in getattr(evaluation, setting):
            try:
                check_possible(setting, name)
                names.append(name)
            except ConfigError as error:
                if config.came_from[setting] in ("flag", "file"):
                    raise
                log.warning("without %s of the %s: %s", name, setting, error)
    check(len(kept["regimes"]) > 0, "regimes", evaluation.regimes, f"one that protocol {protocol.name} trains with")
    return config.change("evaluation", **{setting: tuple(names) for setting, names in kept.items()})


def _check_enough(train: ImageSource, ipc: int) -> None:
    """Raises ConfigError where a class has fewer images than a row of random ones takes."""
    counts = np.bincount(train.labels, minlength=train.num_classes)
    few = f"{ipc} or more images of each class; {train.class_names[counts.argmin()]} has {counts.min()}"
    check(counts.min() >= ipc, "baselines", "random", few, "leave that row out, or choose a smaller --ipc")


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
