"""Gathers from a finished run what is published: images, labels, facts that are the same on every run, and the record."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hf_condense.evaluation.students import training_plan
from hf_condense.files import load_tensors
from hf_condense.hub.artefact import Artefact
from hf_condense.hub.models import refuse_lost_teachers
from hf_condense.hub.provenance import describe_model, gather_content, gather_record, training_block
from hf_condense.hub.refusals import told_clearly
from hf_condense.hub.training import recorded_training
from hf_condense.run_stages import label_settings

if TYPE_CHECKING:
    from hf_condense.evaluation.report import ScoreTable
    from hf_condense.evaluation.run import ImageSet
    from hf_condense.trainer import CondensationTrainer


def gather_artefact(trainer: CondensationTrainer, own: ImageSet, table: ScoreTable) -> Artefact:
    """The artefact of a run whose stages are done.

    Args:
        own: the condensed set, with its label store where it has one.
        table: its scores beside the baselines.
    """
    labels, soft = trainer.stages()["relabel"].folder, image_labels(trainer, own)
    stored = own.store if trainer.protocol.label_per == "view" else soft
    online = "online" in trainer.config.evaluation.regimes  # else nobody has to be able to get the teacher
    content = gather_content(
        method=trainer.method.info, config=trainer.config.sections(), source=trainer.splits.info,
        models=used_models(trainer), regimes=["hard", *["stored"] * bool(stored), *["online"] * online],
        scores=table.without_cost(), store=own.store and own.store.settings, training=how_to_train(trainer, own),
    )  # fmt: skip
    record = gather_record(
        trainer.stage_facts(), trainer.device, processes=trainer.accelerator.num_processes,
        scores_table=table.markdown(), scores=table.record(),
    )  # fmt: skip
    return Artefact(
        own.images, own.labels, list(trainer.train.class_names), content, record, stages=own.stages,
        float_images=trainer.synthetic.pixels, store_folder=labels / "views" if own.store else None, **soft,
    )  # fmt: skip


def image_labels(trainer: CondensationTrainer, own: ImageSet) -> dict[str, Any]:
    """Soft labels of the images and what they are: the method's own, or the teacher's; nothing where there are none."""
    if own.soft is not None:
        kind = {"kind": "probabilities", "temperature": 1.0, "ensemble": None, "by": trainer.method.labels_by}
        return {"soft_labels": own.soft.half(), "soft_label_kind": kind}
    if not trainer.labelled:
        return {}
    path = trainer.stages()["relabel"].folder / "soft_labels.safetensors"
    made = label_settings(trainer)
    kind = {"kind": "probabilities", "temperature": 1.0, "ensemble": made["average"], "teacher_bn": made["teacher_bn"]}
    return {"soft_labels": load_tensors(path)[0]["soft_labels"], "soft_label_kind": kind}


def ready_to_push(trainer: CondensationTrainer) -> None:
    """Refuses before hours of work what a push would refuse after them.

    Raises:
        ConfigError: labels that need a teacher whom nobody else could get.
        HubError: the Hub cannot be reached, or does not know the token.
    """
    from huggingface_hub import HfApi

    c = trainer.config
    trained = c.squeeze.squeeze_epochs > 0 or c.weak.weak
    regimes = [r for r in c.evaluation.regimes if r == "online" or (r == "stored" and c.labels.store == "virtual")]
    if trained and not c.run.push_models:
        refuse_lost_teachers(regimes, list(c.squeeze.teachers or c.squeeze.base_model))
    with told_clearly(c.run.push_to_hub):
        HfApi().whoami()


def used_models(trainer: CondensationTrainer) -> list[dict[str, Any]]:
    """Every network of the run, with what it did in it."""
    pool, method = trainer.members(), trainer.method
    observers = pool.observers(trainer.config.squeeze.observers).names if method.info.pool else ()
    roles = {"observer": observers, "teacher": trainer.teachers(pool).names if trainer.labelled else ()}
    return [describe_model(member, [r for r, names in roles.items() if member.name in names]) for member in pool]


def how_to_train(trainer: CondensationTrainer, own: ImageSet) -> dict[str, Any]:
    """What a student needs to be trained as it was scored."""
    train, protocol, factor = trainer.train, trainer.student_protocol, trainer.method.formation_factor
    images = len(own.images) * factor**2
    recorded = recorded_training(
        protocol, images, mean=train.mean, std=train.std, flip=trainer.flip, stages=own.stages,
        rates=own.rates, whitening=trainer.whitening.facts if protocol.zca else None,
    )  # fmt: skip
    settings, siamese = label_settings(trainer), protocol.siamese_policy(trainer.flip)
    _, plan = training_plan(protocol, images, own.stages, own.rates)
    return training_block(
        trainer.protocol.name, trainer.policy, settings["batch"], plan.epochs,
        formation_factor=factor, **({"siamese": asdict(siamese)} if siamese else {}), **recorded,
    )  # fmt: skip
