"""Networks of a run as model repositories: publishing, identifying and loading them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_condense.errors import ModelError
from hf_condense.files import read_json
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.provenance import portable
from hf_condense.models.card import render
from hf_condense.models.checkpoints import FACTS, read_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.members import MANIFEST, PoolMember
from hf_condense.records.base import read_record, sealed
from hf_condense.records.networks import PoolManifest
from hf_condense.snapshots import fetch_snapshot

SENT = (".safetensors", ".json", ".md")  # never a pickle


def model_repository(repo_id: str, name: str) -> str:
    """`<repo>-<model>`, in characters that the Hub allows."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name.rpartition(":")[2])
    return f"{repo_id}-{re.sub(r'[.]{2,}', '.', plain).strip('-.')}"


def published_place(model: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, str] | None:
    """(Hub id, revision) that holds exactly these weights, or None.

    This is the repository of a push, or the origin of weights that were used as published; weights that were trained
    further exist only where a push sent them.

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
    """Names of the models (of one role) that are not published."""
    models = [m for m in content.get("models", []) if role is None or role in m["roles"]]
    return [m["name"] for m in models if published_place(m, record) is None]


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
        "push_models",
        model["name"],
        f"a network with weights {model['sha256'][:16]} in {pool}",
        "push the run folder, with its pool, that made the dataset",
    )


def model_files(folder: Path, repo_id: str, source_id: str) -> dict[str, Path | bytes]:
    """The files of a model's repository: weights, configuration, facts and card, without local paths.

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
        ModelError: it cannot be fetched, or has other weights.
    """
    allowed = "a model repository that can be read"
    folder = fetch_snapshot(id, "model", revision=revision, error=ModelError, field="teacher", allowed=allowed)
    model = read_checkpoint(folder)
    if model.sha256() != sha256:
        raise ModelError("teacher", f"{id} with weights {model.sha256()}", sha256, "name the revision of the record")
    return model
