"""Inspects a distilled dataset: its source, whether its hashes hold, and the bytes that a student needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hf_condense.data.faults import image_faults
from hf_condense.hub.artefact import DATA, SOFT_LABELS, TENSORS
from hf_condense.hub.card import readable_bytes, title
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.place import locate
from hf_condense.hub.record import check_files
from hf_condense.hub.teachers import needs_teacher
from hf_condense.text import printable

FLOAT_BYTES = 4


def inspect_folder(folder_or_id: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Reads a distilled dataset and checks it; failed checks are reported instead of raised.

    Returns:
        Plain data: holds (whether all of it is as it was published), title, commit (of the Hub repository, else None),
        method, source, images, models, regimes, content_hash (recorded, found, holds), files (name -> holds | changed |
        missing), image_faults (sentences), bytes of each column and config, needed (bytes a student needs by regime).

    Raises:
        ArtefactError: it cannot be read at all, or lists files outside its folder.
    """
    folder = locate(folder_or_id, revision)
    data = DistilledDataset.read(folder)
    content = data.content
    recorded, found = content["content_hash"], data.content_hash
    sizes = column_bytes(folder / DATA)
    for name in (SOFT_LABELS, TENSORS):
        parts = [f for f in (folder / name).rglob("*") if f.is_file()]
        if parts:
            sizes[name] = sum(f.stat().st_size for f in parts)
    files = check_files(folder, data.record["files"])
    same_classes = data.class_names == content["class_names"]
    return {
        "holds": recorded == found and same_classes and set(files.values()) <= {"holds"},
        "place": str(folder_or_id),
        "commit": folder.name if folder.parent.name == "snapshots" else None,  # as the Hub's cache lays them out
        "title": title(content),
        "method": content["method"],
        "source": content["source"],
        "images": content["images"],
        "image_faults": image_faults(data.images),
        "models": content.get("models", []),
        "published_models": data.record.get("published_models", {}),
        "regimes": content["labels"]["regimes"],
        "soft_label": content.get("soft_label"),
        "training": content.get("training", {}),
        "content_hash": {"recorded": recorded, "found": found, "holds": recorded == found},
        "pixels_hash": data.pixels_hash,
        "uncovered": list(data.uncovered),
        "class_names_hold": same_classes,
        "files": files,
        "bytes": sizes,
        "needed": needed_bytes(content, sizes),
        "record": {k: v for k, v in data.record.items() if k not in ("files", "scores_table")},
        "scores_table": data.record.get("scores_table", ""),
    }


def column_bytes(folder: Path) -> dict[str, int]:
    """Compressed bytes of each column of the default config."""
    sizes: dict[str, int] = {}
    for file in sorted(folder.glob("*.parquet")):
        metadata = pq.ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            for i in range(metadata.num_columns):
                column = metadata.row_group(group).column(i)
                name = column.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def needed_bytes(content: dict[str, Any], sizes: dict[str, int]) -> dict[str, int]:
    """Label regime -> bytes a student needs at training time: images, labels, and the teachers' weights where it needs them."""
    shared, views = sizes["image"] + sizes["label"], {"stored": sizes.get(SOFT_LABELS, sizes.get("soft_label", 0))}
    weights = FLOAT_BYTES * sum(m.get("parameters", 0) for m in content.get("models", []) if "teacher" in m["roles"])
    teacher = dict.fromkeys(needs_teacher(content), weights)
    return {r: shared + views.get(r, 0) + teacher.get(r, 0) for r in content["labels"]["regimes"]}


def report(facts: dict[str, Any]) -> str:
    """The facts of `inspect_folder` for a person to read."""
    source, images, hash_ = facts["source"], facts["images"], facts["content_hash"]
    wrong = {name: state for name, state in facts["files"].items() if state != "holds"}
    lines = [
        facts["title"],
        *[f"  place    {facts['place']} at {facts['commit']}"] * bool(facts["commit"]),
        f"  {images['count']} images, {images['classes']} classes, {images['channels']} x {images['height']} x {images['width']}",
        *[f"  WARNING  {fault}" for fault in facts["image_faults"]],
        f"  method   {facts['method']['title']} {facts['method']['paper']}".rstrip(),
        f"  source   {source['id']}"
        + (f" @ {source['revision']}" if source.get("revision") else "")
        + f", split {source.get('train_split')}, fingerprint {source.get('fingerprint')}, license {source.get('license') or 'unknown'}",
    ]
    for model in facts["models"]:
        place = (model.get("id") or model["name"]) + (f" @ {model['revision']}" if model.get("revision") else "")
        lines.append(f"  model    {place} ({', '.join(model['roles'])}), weights {model['sha256'][:16]}")
        sent = facts["published_models"].get(model["name"])
        lines += [f"           published as {sent['id']} @ {sent['revision']}"] if sent else []
    lines.append(f"  content  {'holds' if hash_['holds'] else 'DOES NOT HOLD'}: {hash_['found']}")
    if not hash_["holds"]:
        lines.append(f"           recorded: {hash_['recorded']}")
    if facts["uncovered"]:
        lines.append(f"           of format 1: it says nothing about {', '.join(facts['uncovered'])}")
    if not facts["class_names_hold"]:
        lines.append("  classes  DO NOT HOLD: names or their order differ from what was published")
    lines.append(f"  files    {len(facts['files']) - len(wrong)} of {len(facts['files'])} hold")
    lines += [f"           {state}: {name}" for name, state in wrong.items()]
    for regime, count in facts["needed"].items():
        lines.append(f"  needs    {readable_bytes(count):>10}  {regime} labels")
    return "\n".join(map(printable, lines))  # a title or name with line breaks must not add lines
