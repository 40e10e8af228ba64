"""A student trained on a distilled dataset as a model repository: what taught it, and how well it does on real images."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_condense.config import check
from hf_condense.hub.card import hub_dataset, title
from hf_condense.hub.commits import Commit
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.teachers import need_image_model
from hf_condense.hub.visibility import Target
from hf_condense.models.card import ModelCardFacts, render
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.image_model import ImageModel

TASK = "image-classification"


def push_student(
    model: ImageModel,
    repo_id: str,
    data: DistilledDataset,
    dataset: str,
    *,
    top1: float,
    regime: str,
    epochs: int,
    protocol: str | None = None,
    dataset_revision: str | None = None,
    private: bool | None = None,
    public: bool = False,
    dry_run: bool = False,
) -> Commit:
    """Publishes a trained student in one commit: safetensors, configuration, card and evaluation result.

    The card names the distilled dataset under `datasets:`; `.eval_results/` holds the accuracy on the source's test
    images, which the Hub shows with the source dataset (with the distilled one where the source is not on the Hub). As
    for the dataset itself, a source that is not for everybody makes it private and gated.

    Args:
        model: from `load_model`, trained on `data`.
        data: what it was trained on.
        dataset: Hub id of that set; `dataset_revision` its commit.
        top1: share of the source's test images that it gets right (0 to 1).
        regime: label regime of its training: hard, stored or online.
        epochs: of its training.
        protocol: name of the student recipe; the recorded one where not said.

    Raises:
        ConfigError: an accuracy outside 0 to 1, or a model for other classes.
        HubError: the Hub refuses, or cannot be reached.
    """
    content = data.content
    need_image_model("model", model)
    check(model.build is not None, "model", model.name, "one that load_model made, so that others can build it")
    check(0 <= top1 <= 1, "top1", top1, "a share from 0 to 1")
    check(model.num_classes == len(data.class_names), "model", model.name, f"one for {len(data.class_names)} classes")
    check(
        model.class_names in (None, tuple(data.class_names)), "model", f"{model.name} for other class names",
        f"one for {', '.join(data.class_names[:5])} ...", "load it with class_names=data.class_names",
    )  # fmt: skip
    source, protocol = content["source"], protocol or content["training"]["protocol"]
    facts = ModelCardFacts(
        name=model.name, library=model.build["library"], architecture=model.build["architecture"], dataset=dataset,
        class_names=tuple(data.class_names), image_size=content["images"]["height"],
        channels=model.channels, parameters=model.parameter_count, top1=top1, epochs=epochs, source=model.source,
        sha256=model.sha256(), license=source.get("license"), kind="student", repo_id=repo_id,
    )  # fmt: skip
    taught = {
        "set": title(content),
        "revision": dataset_revision,
        "regime": regime,
        "protocol": protocol,
        "on": source,
    }
    target = Target.of_source(source, private, public, dry_run)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(model, Path(folder), facts.image_size)
        files: dict[str, Path | bytes] = {p.name: p for p in sorted(Path(folder).iterdir())}
        files["README.md"] = render(facts, "student_model", taught=taught).encode()
        place, results = _results(content, dataset, top1, taught)
        files[place] = yaml.safe_dump(results, sort_keys=False).encode()
        return target.send(repo_id, "model", files, f"{model.name} trained on {dataset}")


def _results(content: dict[str, Any], dataset: str, top1: float, taught: dict[str, Any]) -> tuple[str, list[dict]]:
    """(path, content) of the evaluation result, in the Hub's form."""
    source = content["source"]
    benchmark = hub_dataset(source["id"])
    at = f" at {taught['revision']}" if taught["revision"] else ""
    entry = EvalResultEntry(
        dataset_id=benchmark or dataset, task_id=TASK, value=round(100 * top1, 2),
        dataset_revision=source.get("revision") if benchmark else taught["revision"],
        source_url=f"https://huggingface.co/datasets/{dataset}", source_name="hf-condense",
        notes=f"top-1 in % on split {source['test_split']}; trained from scratch on {dataset}{at}, {taught['regime']} "
        f"labels, protocol {taught['protocol']}",
    )  # fmt: skip
    name = re.sub(r"[^\w.-]+", "-", benchmark or dataset)
    return f".eval_results/{name}.yaml", eval_result_entries_to_yaml([entry])
