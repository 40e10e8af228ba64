"""Checks epochs of an untrusted label store: sizes before reading, ranges of values before use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.crops import check_boxes
from hf_condense.data.rand_augment import OPS
from hf_condense.errors import ArtefactError
from hf_condense.files import check_room

NEXT = "ask whoever made the store; it was changed, or another program wrote it"


def column_widths(settings: Mapping[str, Any], policy: ViewPolicy, keyed: bool, encoding) -> dict[str, int]:
    """Numbers a row of each column that a store with these settings may have."""
    classes = settings["classes"]
    codes = classes if "top" not in encoding.columns else settings["top_k"] + 1
    labels = {"logits": classes, "codes": codes, "low": 1, "step": 1, "top": settings.get("top_k") or 0}
    found = {"epoch": 1, "index": 1} | {name: labels[name] for name in encoding.columns}
    if keyed:
        return found | {"drawn": 1}
    operations = policy.rand_augment[0] if policy.rand_augment else 0
    return found | {
        "boxes": 4,
        "flips": 1,
        "offsets": 2,
        "rolls": 2,
        "strips": 2 * policy.shuffle,
        "ops": operations,
        "signs": operations,
        "partner": 1,
        "lam": 1,
        "mix_box": 4,
    }


def check_views(policy: ViewPolicy, side: int, place: str) -> None:
    """Raises ArtefactError for views that are far larger than the images they are of, `side` pixels: a batch would not fit."""
    most = 4 * side
    for name in ("size", "pad", "roll", "roll_back", "shuffle"):
        if getattr(policy, name) > most:
            raise ArtefactError(f"policy.{name}, {place}", getattr(policy, name), f"up to {most} pixels", NEXT)


def check_file(file: pq.ParquetFile, path: Path, rows: Sequence[int] | None, widths: Mapping[str, int]) -> None:
    """Raises ArtefactError unless a file has the expected groups and rows, and a plausible size when decompressed.

    Args:
        rows: of each group; None for one group of up to 256.
    """
    meta = file.metadata
    found = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
    if (len(found) != 1 or found[0] > 256) if rows is None else found != list(rows):
        allowed = f"row groups of {'up to 256' if rows is None else list(rows)[:5]} rows"
        raise ArtefactError(str(path), f"row groups of {found[:5]} rows", allowed, NEXT)
    names = file.schema_arrow.names
    unknown = [name for name in names if name not in widths]
    if unknown:
        raise ArtefactError(f"{path}: columns", ", ".join(unknown), ", ".join(widths), NEXT)
    for group in range(len(found)):
        for place in range(meta.num_columns):
            column = meta.row_group(group).column(place)
            name = column.path_in_schema.split(".")[0]
            if column.num_values != found[group] * widths[name]:
                allowed = f"{found[group] * widths[name]}, {widths[name]} a row"
                raise ArtefactError(f"{path}: {name}", f"{column.num_values} values", allowed, NEXT)
    check_room([path], 8 * sum(found) * sum(widths[name] for name in names), path, NEXT)


def check_columns(
    columns: Mapping[str, Tensor],
    widths: Mapping[str, int],
    settings: Mapping[str, Any],
    policy: ViewPolicy,
    place: str,
) -> None:
    """Raises ArtefactError where a column of an epoch has another width, or a value that is not valid."""
    side = settings["side"]
    reach = {
        "index": (0, settings["images"] - 1),
        "partner": (0, settings["batch_size"] - 1),
        "lam": (0, 1),
        "boxes": (0, side),
        "offsets": (0, 2 * policy.pad),
        "rolls": (-policy.roll_back, policy.roll),
        "strips": (0, policy.shuffle - 1),
        "ops": (0, len(OPS) - 1),
        "signs": (-1, 1),
        "mix_box": (0, policy.size),
        "top": (0, settings["classes"] - 1),
    }
    for name, values in columns.items():
        if math.prod(values.shape[1:]) != widths[name]:
            raise ArtefactError(f"{place}: {name}", list(values.shape), f"{widths[name]} numbers a row", NEXT)
        if values.is_floating_point() and not values.isfinite().all():
            step = "ask whoever made the store: no student can train with them"
            raise ArtefactError(f"{place}: {name}", "infinite, or not a number", "finite numbers", step)
        if name in reach and (values.min() < reach[name][0] or values.max() > reach[name][1]):
            found = f"{values.min().item()} to {values.max().item()}"
            raise ArtefactError(f"{place}: {name}", found, "{} to {}".format(*reach[name]), NEXT)
    if "boxes" in columns:
        try:
            check_boxes(columns["boxes"], side, side)
        except ValueError as error:
            raise ArtefactError(f"{place}: boxes", str(error), f"crops inside {side} x {side} pixels", NEXT) from None


def check_partners(partner: Tensor | None, count: int, place: str) -> None:
    """Raises ArtefactError where images of a batch are mixed with some that it does not have."""
    if partner is not None and int(partner.max()) >= count:
        raise ArtefactError(f"{place}: partner", int(partner.max()), f"up to {count - 1}", NEXT)
