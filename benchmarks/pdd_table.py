"""PDD over MTT, DM and EDC at a total IPC of 10, as 5 x 2 and 2 x 5 images a class, beside its base and random images.

    python -m benchmarks.pdd_table digits
    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.pdd_table fashion_mnist

A set a seed, and a student a set. StudentTrainer of sets without stages have E epochs, or 1.5 E; those of staged sets E/2 in each
stage (as released, where E is 1000) or as many as show them as many images as E epochs without stages. E is short here, and
so are batches. MTT and DM are scored on unclamped images with class numbers, EDC on 8 bits under the labels of its pool.
Seconds are of a processor, on one thread. Those of a set count experts and chains, but not the pool of EDC; those of a
student are of a clock, on a machine that other work shared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import load_dataset

from benchmarks.record import write
from hf_condense import CondensationTrainer
from hf_condense.engine import Engine
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import ImageSet, score
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.files import fingerprint
from hf_condense.memory import keep_freed_memory
from hf_condense.plan import Synthetic
from hf_condense.selection.real import random_real

ROOT = Path("runs/pdd_table")
IPC, STAGES = 10, (1, 5, 2)  # one stage is the base


@dataclass(frozen=True)
class Study:
    """What a dataset is studied with: E, batch of students, seeds, and the settings of runs and of each base."""

    epochs: int
    batch: int
    seeds: int
    shared: dict
    bases: dict[str, dict]


MTT = {
    "student_steps": 8, "span": 2, "first_epochs": 4, "lr": 3.0, "student_lr": 0.05, "lr_lr": 1e-4, "expert_lr": 0.05,
    "expert_batch": 64, "families": "", "chains": None,
}  # fmt: skip
STUDIES = {
    "digits": Study(
        100, 20, 4, {"base_model": "convnet_d1", "students": "convnet_d1", "chains": 6, "image_size": 8},
        {
            "mtt": {**MTT, "iterations": 80, "experts": 4, "base_model": "convnet_d2_w16", "students": "convnet_d2_w16"},
            "dm": {"iterations": 60, "real_batch": 32},
            "edc": {"iterations": 75, "base_model": "convnet_d1,convnet_d2", "chains": 2, "observers": None},
        },
    ),
    "fashion_mnist": Study(
        60, 20, 3,
        {
            "base_model": "convnet_w32", "students": "convnet_w32", "chains": 4, "image_size": 14, "channels": "1",
            "max_per_class": 500, "max_test": 2000,
        },
        {
            "mtt": {**MTT, "iterations": 60, "experts": 3, "first_epochs": 3, "expert_batch": 128},
            "dm": {"iterations": 250, "real_batch": 32},
            "edc": {"iterations": 75, "squeeze_epochs": 4, "chains": 2, "observers": None, "shard_size": 100},
        },
    ),
}  # fmt: skip
PROTOCOLS = {"mtt": "mtt", "dm": "dsa", "edc": "small"}
REGIME = {"mtt": "hard", "dm": "hard", "edc": "online"}


def run_of(dataset: str, study: Study, base: str, stages: int) -> CondensationTrainer:
    settings = {**study.shared, **study.bases[base], "chain_epochs": study.epochs // 2, "protocol": PROTOCOLS[base]}
    if base == "edc":
        settings["teachers"] = None
    name = f"{base}-{stages}-{fingerprint([settings, study.epochs, study.batch])}"  # sets of other settings are never taken for these
    given = dataset if dataset == "digits" else load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], dataset))
    return CondensationTrainer(
        "pdd", given, base_method=base, stages=stages, ipc=IPC, threads=1, precision="fp32",
        regimes=REGIME[base], output_dir=str(ROOT / dataset / name), **settings,
    )  # fmt: skip


def sets_of(run: CondensationTrainer, study: Study, base: str) -> tuple[list[Synthetic], list[float]]:
    """A set a seed and the seconds of each. What is cached belongs to this row alone, so that nothing is for free."""
    os.environ["HF_CONDENSE_CACHE"] = str(ROOT / "pools")
    protocol = get_protocol(PROTOCOLS[base], epochs=study.epochs, batch=study.batch)
    train = run.train
    students = StudentTrainer(protocol, IPC, train.num_classes, train.mean, train.std, run.device, run.flip)
    context = replace(run.prepare(), students=students)
    os.environ["HF_CONDENSE_CACHE"] = str(run.folder / "cache")
    made, seconds = [], []
    for seed in range(study.seeds):
        folder = run.folder / f"seed{seed}"
        record, began = folder / "seconds.txt", time.process_time()
        found = Engine(run.accelerator, folder, 10**9).run(run.method, replace(context, key=run.key / "set" / seed))
        if not record.exists():
            record.write_text(f"{time.process_time() - began:.1f}")
        made.append(found)
        seconds.append(float(record.read_text()))
    return made, seconds


def as_set(made: Synthetic) -> ImageSet:
    rates = tuple(made.learned["lr"]) if "lr" in made.learned else None
    images = made.images if made.pixels is None else made.pixels
    return ImageSet(images, made.labels, stages=made.stages, rates=rates)


def scored(run: CondensationTrainer, study: Study, base: str, rows: dict[str, list[ImageSet]], **changes) -> dict:
    """Row -> top-1 of each seed and seconds of a student, under the base's protocol with some values changed."""
    test, protocol = run.splits.test, get_protocol(PROTOCOLS[base], batch=study.batch, **changes)
    table = score(
        rows, protocol=protocol, students=run.config.evaluation.students, regimes=[REGIME[base]], seeds=study.seeds,
        ipc=IPC, teacher=run.teacher(), test_images=test.decoded(), test_labels=torch.from_numpy(test.labels),
        test_digest=test.fingerprint, num_classes=run.train.num_classes, image_size=run.train.image_size,
        flip=run.flip, mean=run.train.mean, std=run.train.std, key=run.key / "students", device=run.device,
        scores_folder=run.folder / "scores" / protocol.name.replace(" ", "_"),
    )  # fmt: skip
    found: dict[str, dict] = {}
    for cell in sorted(table.cells, key=lambda cell: cell["seed"]):
        told = found.setdefault(cell["row"], {"top1": [], "student_seconds": []})
        told["top1"].append(cell["top1"])
        told["student_seconds"].append(cell["seconds"])
    return found


def study_base(dataset: str, study: Study, base: str) -> list[dict]:
    runs = {stages: run_of(dataset, study, base, stages) for stages in STAGES}
    made, seconds = {}, {}
    for stages, run in runs.items():
        made[stages], seconds[stages] = sets_of(run, study, base)
        print(f"{dataset} {base} {stages} stages: {statistics.mean(seconds[stages]):.0f} s a set", flush=True)
    first, epochs = runs[1], study.epochs
    labels = made[1][0].labels
    draws = [
        random_real(first.train, tuple(labels.tolist()), first.train.image_size, first.key / "random" / seed)[0]
        for seed in range(study.seeds)
    ]
    random, whole = [ImageSet(images, labels) for images in draws], [as_set(m) for m in made[1]]
    staged = {f"PDD {stages} x {IPC // stages}": [as_set(m) for m in made[stages]] for stages in STAGES if stages > 1}
    budgets = {
        f"{epochs} epochs": scored(first, study, base, {"random": random, "base": whole}, epochs=epochs),
        f"{epochs * 3 // 2} epochs": scored(first, study, base, {"base": whole}, epochs=epochs * 3 // 2),
        f"{epochs // 2} epochs a stage (released)": scored(
            first, study, base, staged, epochs=epochs, stage_epochs=epochs // 2
        ),
        f"images seen as in {epochs} epochs": scored(first, study, base, staged, epochs=epochs),
    }
    spent = {"random": [0.0], "base": seconds[1]}
    spent |= {f"PDD {stages} x {IPC // stages}": seconds[stages] for stages in STAGES if stages > 1}
    return [
        {
            "base": base, "row": row, "budget": budget, "mean": statistics.mean(told["top1"]),
            "std": statistics.pstdev(told["top1"]), "top1": told["top1"],
            "set_seconds": round(statistics.mean(spent[row]), 1),
            "student_seconds": round(statistics.mean(told["student_seconds"]), 1),
        }
        for budget, rows in budgets.items()
        for row, told in rows.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(STUDIES))
    parser.add_argument("--bases", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, help="instead of those of the study")
    given = parser.parse_args()
    study = STUDIES[given.dataset]
    study = replace(study, seeds=given.seeds or study.seeds)
    keep_freed_memory()
    started, rows = time.perf_counter(), []
    for base in given.bases or study.bases:
        rows += study_base(given.dataset, study, base)
        for row in (r for r in rows if r["base"] == base):
            told = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
            print(
                f"| {row['base']} | {row['row']} | {row['budget']} | {told} | {row['set_seconds']} | {row['student_seconds']} |"
            )
    about = {"E": study.epochs, "batch": study.batch, "seeds": study.seeds, "settings": study.shared | study.bases}
    result = {"rows": rows, "study": about, "seconds": round(time.perf_counter() - started)}
    name = f"pdd_table_{given.dataset}" + (f"_{'_'.join(given.bases)}" if given.bases else "")
    write(name, f"python -m benchmarks.pdd_table {given.dataset}", torch.device("cpu"), result)


if __name__ == "__main__":
    main()
