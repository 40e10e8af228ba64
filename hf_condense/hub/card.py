"""The dataset card: facts gathered from the provenance, rendered with a template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from hf_condense.data.licenses import license_keys
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.methods.measured import warning
from hf_condense.text import block, listed, markdown

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
PLACE = "path/to/this/folder"  # in the examples, until the repository has a name
CONFIGS = (("default", "data"), ("soft_labels", "soft_labels"), ("tensors", "tensors"))


@dataclass(frozen=True)
class CardFacts:
    """The facts that the card shows.

    Args:
        header: the YAML block, as data.
        repo_id: `org/name` once it is known, else None.
        content, record: of condensation.json.
        bytes: size of the files of each config, in bytes.
        regime: label regime of the code example: the richest one that needs no teacher.
    """

    header: dict[str, Any]
    repo_id: str | None
    content: dict[str, Any]
    record: dict[str, Any]
    bytes: dict[str, int]
    regime: str


def card_facts(content: dict[str, Any], record: dict[str, Any], repo_id: str | None = None) -> CardFacts:
    """Facts of an artefact from its condensation.json (a push calls this again with the repository's id)."""
    files = record["files"]
    sizes = {name: _bytes_under(files, folder) for name, folder in CONFIGS if _bytes_under(files, folder)}
    regimes = content["labels"]["regimes"]
    regime = "stored" if "stored" in regimes else "hard"
    return CardFacts(header(content, record), repo_id, content, record, sizes, regime)


def header(content: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The YAML block: the Hub's metadata keys, then a `distillation` block."""
    method, source, images = content["method"], content["source"], content["images"]
    models, sent = content.get("models", []), record.get("published_models", {})
    block: dict[str, Any] = {
        "pretty_name": title(content),
        **license_keys(source.get("license")),
        "task_categories": ["image-classification"],
        "size_categories": [next((name for limit, name in SIZES if images["count"] < limit), "n>1M")],
        "tags": ["dataset-distillation", "dataset-condensation", "hf-condense", method["name"]],
    }
    hub_id = hub_dataset(source["id"])
    if hub_id:
        block["source_datasets"] = [hub_id]
        if block["license"] == "other":
            block["license_link"] = f"https://huggingface.co/datasets/{hub_id}"
    if record.get("columns"):
        block["dataset_info"] = [dataset_info(content, record)]
    block["configs"] = configs(record["files"], content["content_hash"])
    block["distillation"] = {
        "method": method["name"],
        "images_per_class": images["per_class"][0] if len(set(images["per_class"])) == 1 else images["per_class"],
        "source": source["id"],
        "source_revision": source.get("revision"),
        "source_split": source.get("train_split"),
        "teachers": [
            sent.get(m["name"], {}).get("id") or m.get("id") or m["name"] for m in models if "teacher" in m["roles"]
        ],
        "label_regimes": content["labels"]["regimes"],
        "content_hash": content["content_hash"],
    }
    return block


def dataset_info(content: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The `dataset_info` of the default config, as `datasets` writes it: what columns hold, rows and bytes.

    With it the Hub and `load_dataset` know the classes without a file being opened.
    """
    names = dict(enumerate(content["class_names"]))
    kinds = {
        "image": {"dtype": "image"},
        "label": {"dtype": {"class_label": {"names": {str(number): name for number, name in names.items()}}}},
        "soft_label": {"list": "float16", "length": len(names)},
        "pdd_stage": {"dtype": "int32"},
    }
    size = _bytes_under(record["files"], "data")
    return {
        "config_name": "default",
        "features": [{"name": name, **kinds[name]} for name in record["columns"]],
        "splits": [{"name": "train", "num_bytes": size, "num_examples": content["images"]["count"]}],
        "download_size": size,
        "dataset_size": size,
    }


def title(content: dict[str, Any]) -> str:
    """The title of the set, in one line."""
    source, images = content["source"]["id"].removeprefix("local:"), content["images"]
    count = per_class(images)
    name = source.rsplit("/", 1)[-1]
    return f"{name} in {count} image{'s' * (count != '1')} per class, {content['method']['title']}"


def per_class(images: dict[str, Any]) -> str:
    low, high = images["per_class"]
    return str(low) if low == high else f"{low} to {high}"


def caps(content: dict[str, Any]) -> dict[str, str]:
    """Describes which "train" and "test" images a shortened run left out; empty strings if it used all of them."""
    data, scores = content["config"].get("data", {}), content.get("scores") or {}
    train, test = data.get("max_per_class"), data.get("max_test")
    used = next((f"{line['images']:,} images" for line in scores.get("table", []) if line["row"] == "full"), "a part")
    return {
        "train": f"{used} (at most {train} a class) of " if train is not None else "",
        "test": f" ({test:,} of them at most)" if isinstance(test, int) else "",
    }


def hub_dataset(source_id: str) -> str | None:
    """The id when it names a dataset on the Hub; None for folders, embedded sets and datasets given as objects."""
    known = KNOWN.get(canonical_name(source_id))
    if known:
        return None if known.embedded else known.hub_id
    return source_id if re.fullmatch(r"[\w.-]+/[\w.-]+", source_id) else None


def configs(files: dict[str, dict], content_hash: str) -> list[dict[str, Any]]:
    """The `configs` block for the files that are there, the default config first and marked.

    The description distinguishes sets: the cache key of `datasets` for a local folder is its name and this block, so
    without it `load_dataset("b/dataset")` would return the cached data of `load_dataset("a/dataset")`.
    """
    block = []
    for name, folder in CONFIGS:
        inside = [f.removeprefix(f"{folder}/") for f in files if f.startswith(f"{folder}/") and f.endswith(".parquet")]
        if inside:
            pattern = "**/*.parquet" if any("/" in f for f in inside) else "*.parquet"
            files_of = [{"split": "train", "path": f"{folder}/{pattern}"}]
            block.append({"config_name": name, "data_files": files_of, "description": content_hash})
    block[0]["default"] = True
    return block


def render_card(facts: CardFacts) -> str:
    """README.md of the dataset repository."""
    import jinja2

    # no autoescape, which is for HTML: foreign text is escaped by `markdown` and `block`
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"size": readable_bytes, "seconds": readable_seconds, "block": block, "listed": listed}
    template = environment.from_string(
        (resources.files("hf_condense.hub") / "card.md.jinja").read_text(encoding="utf-8")
    )
    content, record = markdown(facts.content), markdown(facts.record)
    text = template.render(
        f=facts,
        title=markdown(title(facts.content)),
        method=content["method"],
        source=content["source"],
        images=content["images"],
        models=content["models"],
        labels=content["labels"],
        soft=content.get("soft_label"),
        training=content["training"],
        record=record,
        source_link=hub_dataset(facts.content["source"]["id"]),
        per_class=per_class(content["images"]),
        place=markdown(facts.repo_id or PLACE),
        caps=markdown(caps(facts.content)),
        paper=web_address(facts.content["method"]["paper"]),
        measured=warning(facts.content["method"]["name"]),
        citation=facts.content["method"].get("citation", ""),
        scores_table=facts.record.get("scores_table", ""),
    )
    head = yaml.safe_dump(facts.header, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{text.strip()}\n"


def web_address(text: str) -> str | None:
    """The text if it is exactly one web address."""
    return text if re.fullmatch(r"https?://[\w./%~:@?=&#+-]+", text) else None


def readable_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def readable_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes_under(files: dict[str, dict], folder: str) -> int:
    return sum(facts["bytes"] for name, facts in files.items() if name.startswith(f"{folder}/"))
