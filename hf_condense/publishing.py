"""Gathers from a finished run what is published: images, labels, facts that are the same on every run, and the record."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hf_condense.files import load_tensors
from hf_condense.hub.artefact import Artefact
from hf_condense.hub.provenance import describe_model, gather_content, gather_record, training_block

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
    settings, labels = trainer.label_settings(), trainer.stages()["relabel"].folder
    content = gather_content(
        method=trainer.method.info, config=trainer.config.sections(), source=trainer.splits.info,
        models=used_models(trainer), regimes=["hard", *["stored"] * bool(own.store), *["online"] * trainer.labelled],
        scores=table.without_cost(), store=own.store and own.store.settings, training=how_to_train(trainer),
    )  # fmt: skip
    record = gather_record(
        trainer.stage_facts(), trainer.device, processes=trainer.accelerator.num_processes,
        scores_table=table.markdown(), scores=table.record(),
    )  # fmt: skip
    soft = {}
    if trainer.labelled:
        soft["soft_labels"] = load_tensors(labels / "soft_labels.safetensors")[0]["soft_labels"]
        soft["soft_label_kind"] = {"kind": "probabilities", "temperature": 1.0, "ensemble": settings["average"]}
    return Artefact(
        own.images, own.labels, list(trainer.train.class_names), content, record,
        float_images=trainer.synthetic.pixels, store_folder=labels / "views" if own.store else None, **soft,
    )  # fmt: skip


def used_models(trainer: CondensationTrainer) -> list[dict[str, Any]]:
    """Every network of the run, with what it did in it."""
    pool, method = trainer.members(), trainer.method
    observers = pool.observers(trainer.config.squeeze.observers).names if method.info.pool else ()
    roles = {"observer": observers, "teacher": trainer.teachers(pool).names if trainer.labelled else ()}
    return [describe_model(member, [r for r, names in roles.items() if member.name in names]) for member in pool]


def how_to_train(trainer: CondensationTrainer) -> dict[str, Any]:
    """What a student needs to be trained as it was scored."""
    settings, siamese = trainer.label_settings(), trainer.student_protocol.siamese_policy(trainer.flip)
    return training_block(
        trainer.protocol.name, trainer.policy, settings["batch"], settings["epochs"],
        formation_factor=trainer.method.formation_factor, **({"siamese": asdict(siamese)} if siamese else {}),
    )  # fmt: skip
