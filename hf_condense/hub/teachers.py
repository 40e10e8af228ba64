"""The teachers of a distilled set: which label regimes need them, and whether a network is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_condense.config import check
from hf_condense.errors import ConfigError
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel


def needs_teacher(content: Mapping[str, Any]) -> list[str]:
    """Label regimes of a set that require its teachers."""
    labels = content["labels"]
    virtual = (labels.get("store") or {}).get("store") == "virtual"
    return [r for r in labels["regimes"] if r == "online" or (r == "stored" and virtual)]


def refuse_lost_teachers(regimes: list[str], lost: list[str]) -> None:
    """Raises ConfigError where label regimes need teachers that are not published."""
    check(
        not (regimes and lost),
        "push_models",
        False,
        f"True, because {' and '.join(regimes)} labels need {', '.join(lost)}, which others cannot get",
        "add --push_models, or run without these labels (--regimes hard,stored)",
    )


def recorded_teachers(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Entries of the models that made the soft labels."""
    return [m for m in content.get("models", []) if "teacher" in m["roles"]]


def check_teacher(
    content: Mapping[str, Any], record: Mapping[str, Any], folder: Path, teacher: Ensemble | None
) -> None:
    """Refuses a teacher that is not the one of the set: a network with the same name can have other weights.

    Raises:
        ConfigError: there is none, or one of its networks is none of the record's (where nothing is recorded: untrained).
    """
    recorded = {m.get("sha256") for m in content.get("models", [])}
    names = ", ".join(m["name"] for m in recorded_teachers(content))
    allowed = f"an Ensemble of the recorded teachers{names and f' ({names})'}, with the weights that labelled the set"
    published = bool(record.get("published_models"))
    step = "take `hf_condense.load_teacher(data)`" if published else from_the_run(content, folder)
    if not isinstance(teacher, Ensemble):
        raise ConfigError("teacher", None if teacher is None else type(teacher).__name__, allowed, step)
    for model in teacher.models:
        if (model.sha256() not in recorded) if recorded else model.needs_squeeze:
            raise ConfigError("teacher", f"{model.name} with weights {model.sha256()[:16]}", allowed, step)


def need_image_model(field: str, model: object, *others: type) -> None:
    """Raises ConfigError where something is neither an ImageModel nor one of the `others`."""
    check(
        isinstance(model, (ImageModel, *others)),
        field,
        type(model).__name__,
        "an ImageModel" + " or a name for load_model" * (str in others),
        "take one from hf_condense.models.loading.load_model, or put your network into an ImageModel",
    )


def from_the_run(content: Mapping[str, Any], folder: Path) -> str:
    """The folders of unpublished teachers, as an argument to type."""
    pool, made = folder.parent / "pool/models", content.get("soft_label") or {}
    pool = pool if pool.is_dir() else "RUN/pool/models"  # of the run that made the set, wherever that is
    how = f'"{made.get("ensemble") or "logits"}", bn="{made.get("teacher_bn", "running")}"'
    how += f", weights={made['weights']}" if made.get("weights") else ""
    return f"read each from its folder in {pool}: `Ensemble([read_checkpoint(folder), ...], {how})`"
