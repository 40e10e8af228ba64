"""Networks of a run as model repositories: what is sent, how a provenance record names them, how they come back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_condense.config import check
from hf_condense.errors import ConfigError, ModelError
from hf_condense.files import read_json
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.provenance import portable
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.card import render
from hf_condense.models.checkpoints import FACTS, read_checkpoint
from hf_condense.models.loading import ImageModel
from hf_condense.models.members import MANIFEST, PoolMember
from hf_condense.records.base import read_record, sealed
from hf_condense.records.networks import PoolManifest
from hf_condense.snapshots import fetch_snapshot

if TYPE_CHECKING:
    from hf_condense.hub.distilled import DistilledDataset

SENT = (".safetensors", ".json", ".md")  # never a pickle


def model_repository(repo_id: str, name: str) -> str:
    """`<repo>-<model>`, in the letters that the Hub takes."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name.rpartition(":")[2])
    return f"{repo_id}-{re.sub(r'[.]{2,}', '.', plain).strip('-.')}"


def published_place(model: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, str] | None:
    """(Hub id, revision) where exactly these weights can be had, or None.

    That is where a push has sent them, or where they came from if they were taken as published: training on from
    published weights makes others.

    Args:
        model: an entry of `content["models"]`.
        record: `record` of the same set.
    """
    sent = record.get("published_models", {}).get(model["name"])
    if sent is not None:
        return sent["id"], sent["revision"]
    id = str(model.get("id") or "")
    taken = model.get("pretrained") and not model.get("epochs") and model.get("revision")
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", id) and not id.startswith("torchvision/")
    return (id.partition("@")[0], model["revision"]) if taken and on_hub else None


def unpublished(content: Mapping[str, Any], record: Mapping[str, Any], role: str | None = None) -> list[str]:
    """Names of the models (of one role) that nobody else can get."""
    models = [m for m in content.get("models", []) if role is None or role in m["roles"]]
    return [m["name"] for m in models if published_place(m, record) is None]


def needs_teacher(content: Mapping[str, Any]) -> list[str]:
    """Label regimes of a set that work only where its teachers can be had."""
    labels = content["labels"]
    virtual = (labels.get("store") or {}).get("store") == "virtual"
    return [r for r in labels["regimes"] if r == "online" or (r == "stored" and virtual)]


def refuse_lost_teachers(regimes: list[str], lost: list[str]) -> None:
    """Raises ConfigError where label regimes would need teachers whom nobody else can get."""
    check(
        not (regimes and lost), "push_models", False,
        f"True, because {' and '.join(regimes)} labels need {', '.join(lost)}, which nobody else can get",
        "add --push_models, or run without these labels (--regimes hard,stored)",
    )  # fmt: skip


def find_member(pool: Path, model: Mapping[str, Any]) -> Path:
    """The folder of a model in a run's pool.

    Raises:
        ModelError: the pool has no network with these weights.
    """
    manifest = pool / MANIFEST
    digests = read_record(manifest, PoolManifest)["sha256"] if manifest.is_file() else {}
    for name, digest in digests.items():
        if digest == model["sha256"]:
            return pool / name
    raise ModelError(
        "push_models", model["name"], f"a network with weights {model['sha256'][:16]} in {pool}",
        "push the run folder, with its pool, that made the dataset",
    )  # fmt: skip


def model_files(folder: Path, repo_id: str, source_id: str) -> dict[str, Path | bytes]:
    """What goes to a model's repository: weights, configuration, facts and card; no place of this machine.

    Args:
        folder: of the member, as `PoolMember.save` wrote it; its sha256 is checked.
        source_id: the dataset that it was trained on, as the provenance names it.

    Raises:
        ArtefactError: the folder is damaged.
        ModelError: it holds a file that is neither safetensors nor JSON.
    """
    member = PoolMember.load(folder)
    files: dict[str, Path | bytes] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.suffix not in SENT:
            raise ModelError("push_models", path.name, "safetensors and JSON only", f"take it out of {folder}")
        files[path.name] = path
    for name in (FACTS, "member.json"):
        files[name] = json.dumps(sealed(portable(read_json(folder / name))), indent=2, ensure_ascii=False).encode()
    card = replace(member.card(), dataset=hub_dataset(source_id) or "", repo_id=repo_id)
    files["README.md"] = render(card).encode()
    return files


def fetch_model(id: str, revision: str, sha256: str) -> ImageModel:
    """A network that a push has sent, from the Hub or its cache, checked by the hash of its weights.

    Raises:
        ModelError: it cannot be had, or has other weights.
    """
    allowed = "a model repository that can be read"
    folder = fetch_snapshot(id, "model", revision=revision, error=ModelError, field="teacher", allowed=allowed)
    model = read_checkpoint(folder)
    if model.sha256() != sha256:
        raise ModelError("teacher", f"{id} with weights {model.sha256()}", sha256, "name the revision of the record")
    return model


def published_teacher(data: DistilledDataset) -> Ensemble:
    """The teacher of a distilled dataset as it labelled: its networks from the Hub, averaged as they were.

    For those that were pushed beside the set (`--push_models`). The folder of the run has them all, in `pool/models`,
    where `models.checkpoints.read_checkpoint` reads each.

    Raises:
        ModelError: a teacher was not pushed, cannot be had, or has other weights than recorded.
    """
    teachers = recorded_teachers(data.content)
    sent = data.record.get("published_models", {})
    missing = [m["name"] for m in teachers if m["name"] not in sent]
    if missing or not teachers:
        raise ModelError(
            "teacher", missing, "networks that were pushed beside the set",
            f"{_from_the_run(data)}, or push the set again with --push_models",
        )  # fmt: skip
    models = [fetch_model(sent[m["name"]]["id"], sent[m["name"]]["revision"], m["sha256"]) for m in teachers]
    made = data.content["soft_label"]
    return Ensemble(models, made["ensemble"], bn=made.get("teacher_bn", "running"))


def need_image_model(field: str, model: object, *others: type) -> None:
    """Raises ConfigError where something is neither an ImageModel nor one of the `others`."""
    check(
        isinstance(model, (ImageModel, *others)), field, type(model).__name__,
        "an ImageModel" + " or a name for load_model" * (str in others),
        "take one from hf_condense.models.loading.load_model, or put your network into an ImageModel",
    )  # fmt: skip


def check_teacher(data: DistilledDataset, teacher: Ensemble | None) -> None:
    """Refuses a teacher whose labels would not be those of the set: a network by the same name has other weights.

    Raises:
        ConfigError: there is none, or one of its networks is none of the record's (where nothing is recorded: untrained).
    """
    recorded = {m.get("sha256") for m in data.content.get("models", [])}
    names = ", ".join(m["name"] for m in recorded_teachers(data.content))
    allowed = f"an Ensemble of the recorded teachers{names and f' ({names})'}, with the weights that labelled the set"
    published = bool(data.record.get("published_models"))
    step = "take `hub.models.published_teacher(data)`" if published else _from_the_run(data)
    if not isinstance(teacher, Ensemble):
        raise ConfigError("teacher", None if teacher is None else type(teacher).__name__, allowed, step)
    for model in teacher.models:
        if (model.sha256() not in recorded) if recorded else model.needs_squeeze:
            raise ConfigError("teacher", f"{model.name} with weights {model.sha256()[:16]}", allowed, step)


def recorded_teachers(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Entries of the models that made the soft labels."""
    return [m for m in content.get("models", []) if "teacher" in m["roles"]]


def _from_the_run(data: DistilledDataset) -> str:
    """Where the teachers lie if nobody published them, as something to type."""
    pool, made = data.folder.parent / "pool/models", data.content.get("soft_label") or {}
    pool = pool if pool.is_dir() else "RUN/pool/models"  # of the run that made the set, wherever that is
    how = f'"{made.get("ensemble") or "logits"}", bn="{made.get("teacher_bn", "running")}"'
    return f"read each from its folder in {pool}: `Ensemble([read_checkpoint(folder), ...], {how})`"
