"""Loads the teacher of a distilled dataset: its networks from the run that made the set, or from the Hub."""

from __future__ import annotations

from hf_condense.errors import ModelError
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.models import fetch_model, find_member
from hf_condense.hub.teachers import check_teacher, from_the_run, recorded_teachers
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.checkpoints import read_checkpoint
from hf_condense.models.image_model import ImageModel


def load_teacher(data: DistilledDataset) -> Ensemble:
    """The teacher of a distilled dataset, averaged as for its labels, for `training_batches` and `train`.

    Its networks are read from the pool of the run folder that holds the set, or fetched from where they were pushed
    (`--push_models`); weights that differ from the recorded ones are refused.

    Raises:
        ModelError: a teacher is in neither place, cannot be fetched, or has other weights than recorded.
        ArtefactError: the folder of a network is damaged.
    """
    pool = data.folder.parent / "pool" / "models"
    recorded = recorded_teachers(data.content)
    if not (recorded and pool.is_dir()):
        return published_teacher(data)
    teacher = _averaged(data, [read_checkpoint(find_member(pool, model)) for model in recorded])
    check_teacher(data.content, data.record, data.folder, teacher)
    return teacher


def published_teacher(data: DistilledDataset) -> Ensemble:
    """As `load_teacher`, from the Hub alone: the networks that were pushed beside the set.

    Raises:
        ModelError: a teacher was not pushed, cannot be fetched, or has other weights than recorded.
    """
    teachers = recorded_teachers(data.content)
    sent = data.record.get("published_models", {})
    missing = [m["name"] for m in teachers if m["name"] not in sent]
    if missing or not teachers:
        raise ModelError(
            "teacher",
            missing,
            "networks that were pushed beside the set",
            f"{from_the_run(data.content, data.folder)}, or push the set again with --push_models",
        )
    models = [fetch_model(sent[m["name"]]["id"], sent[m["name"]]["revision"], m["sha256"]) for m in teachers]
    return _averaged(data, models)


def _averaged(data: DistilledDataset, models: list[ImageModel]) -> Ensemble:
    made = data.content["soft_label"]
    return Ensemble(models, made["ensemble"], bn=made.get("teacher_bn", "running"), weights=made.get("weights"))
