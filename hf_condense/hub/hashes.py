"""The hashes of a distilled dataset: what they cover and how they are computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_condense.files import canonical_json

# parts of `content` that decide what a student sees, beside pixels, labels and the store
COVERED = ("class_names", "images", "labels", "soft_label", "training")


def pixels_hash(
    images: Tensor,
    labels: Tensor,
    soft_labels: Tensor | None = None,
    *,
    stages: Tensor | None = None,
    float_images: Tensor | None = None,
) -> str:
    """sha256 over decoded pixels, labels and soft labels in row order, each with its name, type and shape.

    File bytes depend on library versions, decoded values do not. In sets of format 1 this is the `content_hash`; since
    format 2 it stands beside it as `pixels_hash`, so that sets of both kinds can be compared.
    """
    parts = {
        "images": (images, torch.uint8),
        "labels": (labels, torch.int64),
        "soft_labels": (soft_labels, torch.float16),
        "stages": (stages, torch.int64),
        "float_images": (float_images, torch.float32),
    }
    digest = hashlib.sha256()
    for name, (tensor, dtype) in parts.items():
        if tensor is not None:
            array = tensor.detach().to("cpu", dtype).contiguous().numpy()
            digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
            digest.update(array)
    return f"sha256:{digest.hexdigest()}"


def content_hash(content: Mapping[str, Any], pixels: str, manifest: Mapping[str, Any] | None = None) -> str:
    """sha256 over all that a student needs: equal hashes mean equal training.

    That is the canonical JSON of the pixels' hash, of the parts of `content` named in `COVERED`, of each network by name,
    roles and sha256, and of the store's settings and the sha256 of its files.

    Args:
        content: of condensation.json.
        pixels: from `pixels_hash`.
        manifest: of the label store, where there is one.
    """
    networks = [{name: model[name] for name in ("name", "roles", "sha256")} for model in content.get("models", [])]
    store = manifest and {name: manifest.get(name) for name in ("settings", "files")}
    said = {"pixels": pixels, "models": networks, "store": store, **{name: content.get(name) for name in COVERED}}
    return f"sha256:{hashlib.sha256(canonical_json(said).encode()).hexdigest()}"
