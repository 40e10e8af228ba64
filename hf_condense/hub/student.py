"""A student trained on a distilled dataset as a model repository: what taught it, and how well it does on real images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from torch import nn

from hf_condense.config import check
from hf_condense.hub.card import hub_dataset, title
from hf_condense.hub.commits import Commit
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.visibility import Target
from hf_condense.models.card import ModelCardFacts, render
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.wrapping import as_image_model

TASK = "image-classification"


def push_student(
    model: ImageModel | nn.Module,
    repo_id: str,
    data: DistilledDataset,
    dataset: str,
    *,
    top1: float,
    regime: str,
    epochs: int | None = None,
    protocol: str | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
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
        model: trained on `data`: of `data.train` or `load_model`, or a network of timm or transformers.
        data: what it was trained on.
        dataset: Hub id of that set; `dataset_revision` its commit.
        top1: share of the source's test images that it gets right (0 to 1).
        regime: label regime of its training: hard, stored or online.
        epochs, protocol: of its training; the recorded ones by default.
        mean, std: by which the inputs of a network of timm or transformers were normalised; by default it saw unit pixels,
            as `torch_dataset` gives them.

    Raises:
        ConfigError: an accuracy outside 0 to 1, or a model for other classes.
        ModelError: a model of another library, or one that others could not build.
        HubError: the Hub refuses, or cannot be reached.
    """
    content = data.content
    if not isinstance(model, ImageModel):
        channels = content["images"]["channels"]
        model = as_image_model(model, class_names=data.class_names, channels=channels, mean=mean, std=std)
    check(model.build is not None, "model", model.name, "one that load_model made, so that others can build it")
    check(0 <= top1 <= 1, "top1", top1, "a share from 0 to 1")
    check(model.num_classes == len(data.class_names), "model", model.name, f"one for {len(data.class_names)} classes")
    check(
        model.class_names in (None, tuple(data.class_names)), "model", f"{model.name} for other class names",
        f"one for {', '.join(data.class_names[:5])} ...", "load it with class_names=data.class_names",
    )  # fmt: skip
    source, training = content["source"], content["training"]
    protocol, epochs = protocol or training["protocol"], training.get("epochs") if epochs is None else epochs
    check(epochs is not None, "epochs", epochs, "epochs of the training, which this set does not record")
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
