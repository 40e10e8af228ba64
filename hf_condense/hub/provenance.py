"""Where a condensed set comes from: `content`, the same on every run, and `record`, free to differ."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.source import SourceInfo
from hf_condense.methods.registry import MethodInfo
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import PREFIX, is_probe
from hf_condense.models.members import PoolMember

LIBRARIES = (
    "hf-condense",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pyarrow",
    "pillow",
)
# settings that affect where or how often something is written, not the result
WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "overwrite",
        "push_to_hub",
        "push_models",
        "trackers",
        "checkpoint_every",
        "decode_gb",
        "cuda_graphs",
    }
)


def portable(value: Any) -> Any:
    """`value` without local paths (they become `local:<name>`) and without settings that have no effect."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): portable(v) for k, v in value.items() if k not in WITHOUT_EFFECT}
    if isinstance(value, (list, tuple)):
        return [portable(v) for v in value]
    if isinstance(value, Path):
        return f"local:{value.name}"
    if isinstance(value, str):
        probe = PREFIX if is_probe(value) else ""
        path = value.removeprefix(probe).removeprefix("local-dir:")
        if os.path.isabs(path) or ("/" in path and os.path.exists(path)):
            return f"{probe}local:{Path(path).name}"
    return value


def describe_model(member: PoolMember, roles: Iterable[str]) -> dict[str, Any]:
    """Describes a pool member: id, revision, sha256 of its weights, and roles (observer, teacher ...)."""
    weak = {"kind": member.kind, "epoch": member.epoch, "ratio": member.ratio} if member.is_weak else {}
    shared = {"processes": member.processes} if member.processes else {}
    return portable(
        {
            "name": member.name,
            "roles": list(roles),
            **member.source,
            "sha256": member.sha256,
            "top1": member.top1,
            "epochs": member.epochs,
            "parameters": member.parameters,
            **weak,
            **shared,
        }
    )


def describe_network(model: ImageModel, roles: Iterable[str]) -> dict[str, Any]:
    """Describes a network outside the pool, used as published, with the same keys."""
    facts = {"sha256": model.sha256(), "top1": None, "epochs": 0, "parameters": model.parameter_count}
    return portable({"name": model.name, "roles": list(roles), **model.source, **facts})


def training_block(
    protocol: str,
    policy: ViewPolicy | None,
    batch_size: int,
    epochs: int,
    formation_factor: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """The full training settings of the scored student; a reader needs no table of protocols.

    Args:
        policy: the views of `hard` and `online` training (stored labels bring their own); None trains on whole images.
        formation_factor: f, where each image holds f x f training images (`data.formation`).
        more: learned rates, PDD stage order ...
    """
    views = asdict(policy) if policy is not None else None
    plain = formation_factor == 1
    decode = "unit pixels: byte / 255" if plain else {"formation": {"factor": formation_factor}}
    return {
        "protocol": protocol,
        "policy": views,
        "batch_size": batch_size,
        "epochs": epochs,
        "decode": decode,
        **more,
    }


def gather_content(
    *,
    method: MethodInfo,
    config: Mapping[str, Any],
    source: SourceInfo,
    models: list[dict[str, Any]],
    regimes: Iterable[str],
    training: dict[str, Any],
    store: Mapping[str, Any] | None = None,
    scores: Any = None,
    **more: Any,
) -> dict[str, Any]:
    """Everything that settings determine: equal settings give equal bytes, so it contains no time, version or path.

    Args:
        config: resolved settings by section (`Config.sections()`).
        models: from `describe_model`.
        regimes: label regimes a student can train with: hard, stored, online.
        training: from `training_block`.
        store: facts of the per-view label store (kind, temperature, ensemble, epochs, batch, bytes ...).
        scores: the score table as plain data, without seconds and memory.
    """
    origin = portable(asdict(source))
    class_names = origin.pop("class_names")
    about = {k: getattr(method, k) for k in ("name", "title", "paper", "citation", "summary", "real_pixels")}
    return {
        "method": about,
        "source": origin,
        "class_names": list(class_names),
        "config": portable(config),
        "models": models,
        "labels": {"regimes": list(regimes), "store": portable(store) if store else None},
        "training": portable(training),
        "scores": scores,
        **more,
    }


def gather_record(
    stages: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    *,
    processes: int = 1,
    scores_table: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Facts of this one run: versions, commit, machine, date, seconds and peak memory of each stage.

    Args:
        stages: stage name -> {"seconds": float, "peak_bytes": int, "reused": what came from the cache}.
        scores_table: Markdown, for the card.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *portable(sys.argv[1:])]),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "git": git_state(),
        "device": device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "stages": [{"name": name, **facts} for name, facts in stages.items()],  # in order, which JSON keys are not
        "scores_table": scores_table,
        **more,
    }


def versions() -> dict[str, str]:
    """Version of each library that takes part; those that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout this library runs from and whether it has changes; None when it is installed otherwise."""
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", package, *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # otherwise the repository is that of an enclosing project
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    """The device of the run: the accelerator's name, or the processor's and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
