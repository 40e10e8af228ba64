"""Publishes a student trained on a distilled dataset as a model repository, with its accuracy on real images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, HfApi, RepoFile, eval_result_entries_to_yaml
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from hf_condense.config import check
from hf_condense.errors import ConfigError
from hf_condense.hub.card import hub_dataset, title
from hf_condense.hub.commits import Commit
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.visibility import Target
from hf_condense.models.card import ModelCardFacts, render
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.wrapping import as_image_model

LIMIT = 64_000  # bytes of an eval.yaml
_TASK = re.compile(r"[\w.-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class BoardEntry:
    """The place of a student on a leaderboard.

    Args:
        id: the board's dataset repository; `revision` its commit.
        task: `<source>-ipc<k>-<regime>`, as its eval.yaml has it.
        result: id of the result, None if the student belongs to none.
    """

    id: str
    task: str
    revision: str | None = None
    result: str | None = None


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
    board: BoardEntry | None = None,
) -> Commit:
    """Publishes a trained student in one commit: safetensors, configuration, card and evaluation results.

    The card names the distilled dataset under `datasets:`. `.eval_results/` holds an entry for the leaderboard `board`,
    and one for the source dataset (the accuracy on its test images) where that dataset has an `eval.yaml`: without one
    the Hub shows it nowhere. As for the dataset itself, a source with restricted terms makes the student private and
    gated.

    Args:
        model: trained on `data`: of `data.train` or `load_model`, or a network of timm or transformers.
        data: the distilled dataset that it was trained on.
        dataset: Hub id of that set; `dataset_revision` its commit.
        top1: share of the source's test images that it gets right (0 to 1).
        regime: label regime of its training: hard, stored or online.
        epochs, protocol: of its training; the recorded ones by default.
        mean, std: by which the inputs of a network of timm or transformers were normalised; by default it saw unit pixels,
            as `torch_dataset` gives them.
        board: the leaderboard and task that this student is of.

    Raises:
        ConfigError: an accuracy outside 0 to 1, or a model for other classes.
        ModelError: a model of another library, or one that others could not build.
        HubError: the Hub refuses, or cannot be reached.
    """
    content = data.content
    student = _publishable(model, data, mean, std)
    check(0 <= top1 <= 1, "top1", top1, "a share from 0 to 1")
    training = content["training"]
    protocol, epochs = protocol or training["protocol"], training.get("epochs") if epochs is None else epochs
    check(epochs is not None, "epochs", epochs, "epochs of the training, which this set does not record")
    facts = _facts(student, data, dataset, top1, epochs, repo_id)
    taught = {
        "set": title(content),
        "revision": dataset_revision,
        "regime": regime,
        "protocol": protocol,
        "on": content["source"],
    }
    target = Target.of_source(content["source"], private, public, dry_run)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(student, Path(folder), facts.image_size)
        files: dict[str, Path | bytes] = {p.name: p for p in sorted(Path(folder).iterdir())}
        files["README.md"] = render(facts, "student_model", taught=taught).encode()
        files |= _results(content, dataset, top1, taught, board, target.api)
        return target.send(repo_id, "model", files, f"{student.name} trained on {dataset}")


def _publishable(
    model: ImageModel | nn.Module, data: DistilledDataset, mean: Sequence[float], std: Sequence[float]
) -> ImageModel:
    """The student as a network that others can build, for the classes of the set."""
    if not isinstance(model, ImageModel):
        channels = data.content["images"]["channels"]
        model = as_image_model(model, class_names=data.class_names, channels=channels, mean=mean, std=std)
    if model.build is None:
        allowed = "one that load_model made, so that others can build it"
        raise ConfigError("model", model.name, allowed, "load it with load_model")
    check(model.num_classes == len(data.class_names), "model", model.name, f"one for {len(data.class_names)} classes")
    check(
        model.class_names in (None, tuple(data.class_names)),
        "model",
        f"{model.name} for other class names",
        f"one for {', '.join(data.class_names[:5])} ...",
        "load it with class_names=data.class_names",
    )
    return model


def _facts(
    student: ImageModel, data: DistilledDataset, dataset: str, top1: float, epochs: int, repo_id: str
) -> ModelCardFacts:
    """What its card says."""
    build: dict[str, Any] = student.build or {}  # never empty here: `_publishable` has refused a student without
    return ModelCardFacts(
        name=student.name,
        library=build["library"],
        architecture=build["architecture"],
        dataset=dataset,
        class_names=tuple(data.class_names),
        image_size=data.content["images"]["height"],
        channels=student.channels,
        parameters=student.parameter_count,
        top1=top1,
        epochs=epochs,
        source=student.source,
        sha256=student.sha256(),
        license=data.content["source"].get("license"),
        kind="student",
        repo_id=repo_id,
    )


def _results(
    content: dict[str, Any],
    dataset: str,
    top1: float,
    taught: dict[str, Any],
    board: BoardEntry | None,
    api: HfApi | None,
) -> dict[str, bytes]:
    """Path -> file of the evaluation results, in the Hub's form, each in a file of its own."""
    source, at = content["source"], f" at {taught['revision']}" if taught["revision"] else ""
    notes = (
        f"top-1 in % on split {source['test_split']}; trained from scratch on {dataset}{at}, {taught['regime']} labels, "
        f"protocol {taught['protocol']}"
    )
    entries: list[tuple[str, str, str | None, str]] = []
    if board is not None:
        of = f"; result {board.result}" if board.result else ""
        entries.append((board.id, board.task, board.revision, f"{notes}{of}"))
    benchmark = hub_dataset(source["id"])
    task = _task(api, benchmark, source.get("revision")) if benchmark and api is not None else None
    if benchmark and task is not None:
        entries.append((benchmark, task, source.get("revision"), notes))
    files = {}
    for id, name, revision, text in entries:
        entry = EvalResultEntry(
            dataset_id=id,
            task_id=name,
            value=round(100 * top1, 2),
            dataset_revision=revision,
            source_url=f"https://huggingface.co/datasets/{dataset}",
            source_name="hf-condense",
            notes=text,
        )
        place = re.sub(r"[^\w.-]+", "-", id)
        files[f".eval_results/{place}.yaml"] = yaml.safe_dump(
            eval_result_entries_to_yaml([entry]), sort_keys=False
        ).encode()
    return files


def _task(api: HfApi, dataset: str, revision: str | None) -> str | None:
    """Id of the first task in a dataset's eval.yaml; None where it has none that can be read."""
    try:
        found = api.get_paths_info(dataset, "eval.yaml", repo_type="dataset", revision=revision)
        if not found or not isinstance(found[0], RepoFile) or found[0].size > LIMIT:
            return None
        path = api.hf_hub_download(dataset, "eval.yaml", repo_type="dataset", revision=revision)
        text = Path(path).read_text(encoding="utf-8")
        if "&" in text and "*" in text:  # aliases can make a small file a huge one
            return None
        task = yaml.safe_load(text)["tasks"][0]["id"]
    except (HfHubHTTPError, yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        return None
    return task if isinstance(task, str) and _TASK.fullmatch(task) else None
