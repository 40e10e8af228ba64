"""What each stage of a run is made from: by this a second start knows what is done, and names what has changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hf_condense.config import LabelSettings
from hf_condense.files import fingerprint
from hf_condense.labels.formats import store_format
from hf_condense.models.pool import POOL_VERSION
from hf_condense.models.statistics import STATISTICS_VERSION
from hf_condense.models.weak import WEAK_VERSION, find_pool
from hf_condense.stages import Stage

if TYPE_CHECKING:
    from hf_condense.trainer import CondensationTrainer

RELABEL_VERSION = 1
EVALUATE_VERSION = 1


def stages_of(trainer: CondensationTrainer) -> dict[str, Stage]:
    """The stages by name, in their order, each with all that its outputs depend on."""
    c, folder = trainer.config, trainer.folder
    run, data = c.run, asdict(c.data)
    base = {"seed": run.seed, "precision": run.precision, "threads": run.threads}
    pool = {k: v for k, v in asdict(c.squeeze).items() if k not in ("observers", "teachers")}
    pool |= weak_settings(trainer)
    sources = fingerprint([trainer.train.fingerprint, trainer.splits.test.fingerprint])
    for free in ("decode_gb", "streaming"):  # where pixels are kept does not change them
        data.pop(free)
    stages: dict[str, Stage] = {}

    def add(name: str, place: str, settings: dict, version: int, *after: str, by_content: bool = False) -> None:
        before = sources if not after else fingerprint([stages[other].fingerprint for other in after])
        stages[name] = Stage(name, folder / place, settings, version, before, not after, by_content)

    add("squeeze", "pool", {**base, **data, **pool}, POOL_VERSION)
    request = trainer.method.statistics(trainer.context)
    wanted = asdict(request) if request else {}
    add(
        "statistics",
        "statistics",
        {**wanted, "observers": c.squeeze.observers or ("weak",) * c.weak.weak or c.squeeze.base_model},
        STATISTICS_VERSION,
        "squeeze",
    )
    own = {"method": run.method, "ipc": run.ipc, "variant": run.variant, **asdict(c.method)}
    if trainer.method.trains_students:
        own["students"] = trainer.students.fingerprint
    if trainer.method.info.pool:
        add("condense", "shards", own, trainer.method.VERSION, "statistics")
    else:  # what the pool is made of changes nothing, but which network is drawn anew
        network = {"network": c.squeeze.base_model[0]}
        add("condense", "shards", {**base, **data, **network, **own}, trainer.method.VERSION)
    teachers = ("squeeze",) * trainer.labelled
    add("relabel", "labels", label_settings(trainer), RELABEL_VERSION, "condense", *teachers)
    scoring = {**asdict(c.evaluation), "protocol": asdict(trainer.protocol)}
    add("evaluate", "scores", scoring, EVALUATE_VERSION, "relabel", by_content=True)
    return stages


def weak_settings(trainer: CondensationTrainer) -> dict[str, Any]:
    """What the weak models of the pool depend on; nothing where there are none."""
    weak, policy = trainer.config.weak, trainer.synthesis_policy()
    if weak.pool_folder is not None:
        return {"pool": find_pool(weak.pool_folder)[1]}
    if not weak.weak:
        return {}
    own = {k: v for k, v in asdict(weak).items() if k != "label_source"}
    return {**own, "weak_version": WEAK_VERSION, "synthesis_policy": asdict(policy) if policy else None}


def label_settings(trainer: CondensationTrainer) -> dict[str, Any]:
    """What soft labels depend on beside images and networks, and how students see the images."""
    c = trainer.config
    images = trainer.train.num_classes * trainer.shown_ipc
    protocol = trainer.student_protocol
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
        "policy": asdict(trainer.policy),
    }
