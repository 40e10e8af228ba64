"""Condensed sets, random draws and noise, as the rows of a study need them. All that touches the insides of a run is here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset

from hf_condense import CondensationTrainer
from hf_condense.config import SqueezeSettings, WeakPoolSettings, setting_fields
from hf_condense.engine import Engine
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.files import fingerprint, read_json, write_json
from hf_condense.memory import peak_bytes, reset_peak
from hf_condense.methods import method_class, sections_of
from hf_condense.plan import Synthetic
from hf_condense.run.resolve import load_preset
from hf_condense.selection.noise import gaussian_images
from hf_condense.selection.real import random_real

POOL = {*SqueezeSettings.__dataclass_fields__, *WeakPoolSettings.__dataclass_fields__} - {"observers", "teachers"}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        method: of the library, or "random" (a draw for each set), "noise", "full" (all real images), "class_means" (of those).
        settings: of its runs, beside those of the study.
        part: what students see: "images", "pixels" (before 8 bits and [0, 1], where they leave those) or "initial".
        recipe: changes to the students' recipe, beside those of the study.
        labels: settings of the label store made for the row.
        regimes, sets: instead of those of the study.
        beside: the row that differences are taken to; defaults to the study's first row.
    """

    method: str
    settings: dict = field(default_factory=dict)
    part: str = "images"
    recipe: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    regimes: tuple[str, ...] | None = None
    sets: int | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Study:
    """What is compared, on what, and how.

    Args:
        data: "digits", or the name of a folder in HF_CONDENSE_DATA.
        shared: settings of all runs.
        labeller: settings of the pool whose teachers label for all rows, beside those.
        sets: condensed sets (or draws) a row; `each`: students a set.
        held_out: use the training images alone, and score on a fifth of them.
        presets: take a method's own settings from its preset for this dataset.
        unseen: a network that judges finished images, and took no part in making them.
    """

    data: str
    rows: dict[str, Row]
    shared: dict
    ipc: int = 10
    protocol: str = "small"
    recipe: dict = field(default_factory=dict)
    students: tuple[str, ...] = ("convnet_w32",)
    regimes: tuple[str, ...] = ("hard",)
    labeller: dict = field(default_factory=dict)
    sets: int = 3
    each: int = 1
    held_out: bool = False
    presets: bool = False
    unseen: str | None = None


def trained_on_cifar10(*depths: int) -> str:
    """The ResNets of these depths in `models/`, which stands beside the folder of datasets, as a list of base models."""
    models = Path(os.environ["HF_CONDENSE_DATA"]).resolve().parent / "models"
    return ",".join(str(models / f"cifar10_resnet{depth}") for depth in depths)


def known_settings(method: str, values: dict) -> dict:
    """Those of `values` that a run of `method` has."""
    known = setting_fields(sections_of(method, values.get("base_method")))
    return {name: value for name, value in values.items() if name in known}


def trainer(study: Study, folder: Path, method: str, settings: dict, forced: dict) -> CondensationTrainer:
    """A run. Runs with equal pools share one, which is trained by the first and costs nothing after it."""
    data: Any = study.data
    if data != "digits":
        data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], data))
        data = data["train"] if study.held_out else data
    own = {}
    if study.presets and method != "random":  # a `datasets` object has no name by which its preset could be found
        own = load_preset(method, study.data, study.ipc, "paper").values
        own = {k: v for k, v in own.items() if k in method_class(method).Settings.__dataclass_fields__}
    values = {
        "ipc": study.ipc, "protocol": study.protocol, "students": study.students, "regimes": study.regimes, "store": "full",
        "threads": 1, "precision": "fp32", **own, **study.shared, **settings, **forced,
    }  # fmt: skip
    values = known_settings(method, values)
    facts = [study.data, study.held_out]
    pool = fingerprint([*facts, {k: v for k, v in values.items() if k in POOL}])
    os.environ["HF_CONDENSE_CACHE"] = str(folder / "pools" / pool)
    name = f"{method}-{fingerprint([*facts, values, study.recipe])}"
    return CondensationTrainer(method, data, output_dir=str(folder / name), **values)


def squeezed(run: CondensationTrainer) -> dict:
    """Top-1 of each network of the pool, and the seconds that making it has taken."""
    record, began = run.folder / "pool-seconds.json", time.perf_counter()
    top1 = {Path(member.name).name: member.top1 for member in run.squeeze()}
    if not record.exists():
        write_json(record, round(time.perf_counter() - began, 1))
    return {"top1": top1, "seconds": read_json(record)}


def condensed(run: CondensationTrainer, study: Study, count: int) -> tuple[list[Synthetic], list[dict]]:
    """Sets, and processor seconds and peak memory of each; experts and chains are counted to the first that uses them."""
    context = run.prepare()
    if context.student_trainer is not None:
        protocol = get_protocol(study.protocol, **study.recipe)
        context = replace(context, student_trainer=replace(context.student_trainer, protocol=protocol))
    os.environ["HF_CONDENSE_CACHE"] = str(run.folder / "cache")
    made, costs = [], []
    for seed in range(count):
        folder = run.folder / f"set{seed}"
        reset_peak(run.device)
        began = time.process_time()
        made.append(Engine(run.accelerator, folder, 200).run(run.method, replace(context, key=run.key / "set" / seed)))
        if not (folder / "cost.json").exists():
            spent = {"seconds": round(time.process_time() - began, 1), "peak_bytes": peak_bytes(run.device)}
            write_json(folder / "cost.json", spent)
        costs.append(read_json(folder / "cost.json"))
    return made, costs


def as_set(made: Synthetic, part: str, factor: int) -> ImageSet:
    """What students are given of a condensed set."""
    images = made.pixels if part == "pixels" and made.pixels is not None else made.images
    rates = made.learned.get("lr")
    return ImageSet(
        made.initial if part == "initial" else images, made.labels, formation_factor=factor, stages=made.stages,
        rates=rates and tuple(rates), soft=made.soft_labels,
    )  # fmt: skip


def real_sets(base: CondensationTrainer, kind: str, ipc: int, count: int) -> list[ImageSet]:
    """Random real images, noise, or all real images, as a set or as their class means."""
    train = base.train
    labels = tuple(c for c in range(train.num_classes) for _ in range(ipc))
    if kind in ("full", "class_means"):
        means = kind == "class_means"
        labels = torch.from_numpy(train.labels)
        return [ImageSet(train.decoded(), labels, digest=train.fingerprint, as_class_means=means)]
    if kind == "random":
        draws = [random_real(train, labels, train.image_size, base.key / "random" / i)[0] for i in range(count)]
    else:
        unit = [gaussian_images(train, len(labels), train.image_size, base.key / "noise" / i) for i in range(count)]
        draws = [(images.clamp(0, 1) * 255).round().to(torch.uint8) for images in unit]
    return [ImageSet(images, torch.tensor(labels)) for images in draws]


@torch.no_grad()
def looks(made: list[Synthetic], judge=None) -> dict[str, float]:
    """What optimisation did to images, as means over sets: how far they moved, how rough they are, how different a class is.

    `judge` is a network; its top-1 on the finished images is `unseen_top1`.
    """
    found = []
    for one in made:
        now, first = one.images.float() / 255, one.initial.float() / 255
        found.append({
            "moved": float((now - first).square().mean().sqrt()),
            "roughness": float((now[..., 1:] - now[..., :-1]).square().mean().sqrt()),
            "clipped": float(((one.images == 0) | (one.images == 255)).float().mean()),
        })  # fmt: skip
        if one.labels.bincount().min() > 1:
            spread = torch.stack([now[one.labels == c].flatten(1).var(0).mean() for c in one.labels.unique()]).mean()
            found[-1]["class_spread"] = float(spread.sqrt())
        if judge is not None:
            found[-1]["unseen_top1"] = float((judge(now).argmax(1) == one.labels).float().mean())
    return {name: sum(row[name] for row in found) / len(found) for name in found[0]}
