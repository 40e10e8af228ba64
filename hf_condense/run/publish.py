"""Publish: from the outputs of a run to the folder that is the Hub repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.students import training_plan
from hf_condense.hub.artefact import Artefact, write_artefact
from hf_condense.hub.provenance import describe_model, gather_content, gather_record, training_block
from hf_condense.hub.refusals import clear_hub_errors
from hf_condense.hub.teachers import refuse_lost_teachers
from hf_condense.hub.training import recorded_training
from hf_condense.plan import Synthetic
from hf_condense.run.base import Run
from hf_condense.run.condense import Condense
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.pipeline import Pipeline
from hf_condense.run.relabel import Labels, Relabel, training_facts
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.stage import Outputs


def publish(pipeline: Pipeline) -> Path:
    """Writes `dataset/` from the outputs of a run, and returns it. Called on all processes; one of them writes."""
    run = pipeline.run
    for stage in (Squeeze, Condense, Relabel, Evaluate):  # outputs are read on all processes, or on none
        if stage in pipeline:
            pipeline[stage]
    if run.accelerator.is_main_process:
        labels = pipeline[Relabel] if run.labelled else None
        artefact = gather_artefact(
            run, pipeline[Condense].synthetic, labels, pipeline[Evaluate], used_models(run, pipeline), pipeline.facts()
        )
        write_artefact(run.folder / "dataset", artefact)
    run.accelerator.wait_for_everyone()
    return run.folder / "dataset"


def gather_artefact(
    run: Run,
    synthetic: Synthetic,
    labels: Labels | None,
    table: ScoreTable,
    models: list[dict[str, Any]],
    stage_facts: dict[str, dict[str, Any]],
) -> Artefact:
    """The artefact of finished stages.

    Args:
        labels: of the teacher; None where no regime needs it.
        models: as the provenance names them.
    """
    store, soft = labels.store if labels else None, image_labels(run, synthetic, labels)
    stored = store if run.protocol.label_per == "view" else soft
    online = "online" in run.config.evaluation.regimes  # otherwise the teacher need not be published
    content = gather_content(
        method=run.method.info,
        config=run.config.sections(),
        source=run.splits.info,
        models=models,
        regimes=["hard", *["stored"] * bool(stored), *["online"] * online],
        scores=table.without_cost(),
        store=store and store.settings,
        training=how_to_train(run, synthetic),
        **source_rows(run, synthetic),
    )
    record = gather_record(
        stage_facts,
        run.device,
        processes=run.accelerator.num_processes,
        scores_table=table.markdown(),
        scores=table.record(),
    )
    return Artefact(
        synthetic.images,
        synthetic.labels,
        list(run.train.class_names),
        content,
        record,
        stages=synthetic.stages,
        float_images=synthetic.pixels,
        store_folder=labels.folder if store else None,
        **soft,
    )


def image_labels(run: Run, synthetic: Synthetic, labels: Labels | None) -> dict[str, Any]:
    """Soft labels of the images and what they are: the method's own, or the teacher's; nothing where there are none."""
    kind = {"kind": "probabilities", "temperature": 1.0}
    if synthetic.soft_labels is not None:
        kind |= {"ensemble": None, "by": run.method.labels_by}
        return {"soft_labels": synthetic.soft_labels.half(), "soft_label_kind": kind}
    if labels is None:
        return {}
    protocol = run.student_protocol
    kind |= {"ensemble": protocol.average, "teacher_bn": protocol.teacher_bn}
    if labels.weights is not None:
        kind["weights"] = list(labels.weights)
    return {"soft_labels": labels.images, "soft_label_kind": kind}


def source_rows(run: Run, synthetic: Synthetic) -> dict[str, Any]:
    """Which real images are in each image, for methods that publish them; a stream has no row numbers."""
    if not run.method.info.real_pixels or run.config.data.streaming:
        return {}
    origin = synthetic.origin.reshape(len(synthetic.labels), -1)
    rows = np.where(origin < 0, -1, run.train.rows[np.maximum(origin, 0)])
    return {"source_rows": {"split": run.splits.info.train_split, "rows": rows.tolist()}}


def used_models(run: Run, done: Outputs) -> list[dict[str, Any]]:
    """Every network of the run, with what it did in it."""
    found = list(done[Condense].networks)
    if not run.needs_pool:
        return found
    networks = done[Squeeze]
    observers = networks.observers.names
    roles = {"observer": observers, "teacher": networks.teachers.names, "probe": observers[: run.method.probed]}
    pool = [describe_model(m, [role for role, names in roles.items() if m.name in names]) for m in networks.pool]
    return pool + found


def how_to_train(run: Run, synthetic: Synthetic) -> dict[str, Any]:
    """What a student needs to be trained as it was scored."""
    train, protocol, images = run.train, run.student_protocol, run.training_images
    facts = training_facts(run, synthetic)
    recorded = recorded_training(
        protocol,
        images,
        mean=train.mean,
        std=train.std,
        flip=run.flip,
        stages=synthetic.stages,
        rates=facts["rates"],
        whitening=run.whitening.facts if protocol.zca else None,
    )
    siamese = protocol.siamese_policy(run.flip)
    _, plan = training_plan(protocol, images, synthetic.stages, facts["rates"])
    return training_block(
        run.protocol.name,
        run.policy,
        protocol.batch_size(images),
        plan.epochs,
        formation_factor=run.method.formation_factor,
        **({"siamese": asdict(siamese)} if siamese else {}),
        **recorded,
    )


def ready_to_push(run: Run) -> None:
    """Refuses before hours of work what a push would refuse after them.

    Raises:
        ConfigError: labels that need a teacher that others could not get.
        HubError: the Hub cannot be reached, or does not know the token.
    """
    from huggingface_hub import HfApi

    c = run.config
    trained = c.squeeze.squeeze_epochs > 0 or c.weak.weak
    regimes = [r for r in c.evaluation.regimes if r == "online" or (r == "stored" and c.labels.store == "virtual")]
    if trained and not c.run.push_models:
        refuse_lost_teachers(regimes, list(c.squeeze.teachers or c.squeeze.base_model))
    with clear_hub_errors(c.run.push_to_hub):
        HfApi().whoami()
