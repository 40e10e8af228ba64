"""DM, DC and DSA on Fashion-MNIST at 28 px with a ConvNet of width 32, beside random real images of the same run.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.fashion_matching dm|dc|dsa|coresets

Real batches of 64, IPC 1 and 10, three condensed sets or draws, each of which trains three students. DC and the
coresets are scored by the protocol "dc" (300 epochs, no augmentation), DM and DSA by "dsa" (1,000 epochs under the
augmentation of the synthesis). Sets are published in 8 bits, and scored in 8 bits and unclamped.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import load_dataset

from benchmarks.record import write
from hf_condense import create_method
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.engine import Engine, Synthetic
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import train_student
from hf_condense.memory import keep_freed_memory
from hf_condense.methods.base import Context
from hf_condense.models.fresh import FreshNetworks
from hf_condense.selection.real import random_real

ROOT = Path("runs/fashion_matching")
NETWORK = "convnet_w32"
STEPS = {("dm", 1): 400, ("dm", 10): 300, ("dc", 1): 150, ("dc", 10): 15, ("dsa", 1): 150, ("dsa", 10): 15}
LEAST = {("dm", 1): 0.67, ("dm", 10): 0.78, ("dc", 1): 0.64, ("dsa", 1): 0.62}  # gates, from the official components
CORESETS = ("herding", "k_center", "k_medoids", "forgetting")


def context(splits: Splits, ipc: int, seed: int) -> Context:
    train, device = splits.train, torch.device("cpu")
    fresh = FreshNetworks(
        NETWORK,
        num_classes=train.num_classes,
        image_size=28,
        channels=1,
        mean=train.mean,
        std=train.std,
        device=device,
    )
    return Context(train, 28, ipc, Key(seed), device, "fp32", True, fresh=fresh)


def condensed(method: str, given: Context, seed: int, **settings) -> Synthetic:
    name = "-".join([method, f"ipc{given.ipc}", *(f"{k}={v}" for k, v in settings.items()), f"seed{seed}"])
    return Engine(Accelerator(cpu=True), ROOT / name, 50).run(create_method(method, **settings), given)


def top1(splits: Splits, images, labels, protocol, seed: int) -> float:
    """Of one student; equal seeds have equal first weights and order of images, whatever the set."""
    test = splits.test
    return train_student(
        NETWORK, images, labels, "hard", protocol=protocol, test_images=test.decoded(),
        test_labels=torch.from_numpy(test.labels), num_classes=10, key=Key(0, "student", seed),
        device=torch.device("cpu"), image_size=28, mean=splits.train.mean, std=splits.train.std,
    ).top1  # fmt: skip


def scored(splits: Splits, sets: list, protocol, students: int) -> dict:
    """Mean over all students, spread from set to set and from student to student of a set."""
    found = [[top1(splits, images, labels, protocol, s) for s in range(students)] for images, labels in sets]
    means, everyone = [statistics.mean(row) for row in found], [v for row in found for v in row]
    return {
        "mean": statistics.mean(everyone), "std_all": statistics.pstdev(everyone),
        "std_sets": statistics.stdev(means) if len(means) > 1 else None,
        "std_students": statistics.mean(statistics.pstdev(row) for row in found), "top1": found,
    }  # fmt: skip


def matching(method: str, splits: Splits, args) -> dict:
    protocol, found = protocol_of(method, args), {}
    for ipc in args.ipc:
        steps = args.iterations or STEPS[method, ipc]
        settings = {"iterations": steps, "real_batch": args.real_batch}
        began, made, known = time.perf_counter(), [], any(ROOT.glob(f"{method}-ipc{ipc}-*"))
        for seed in range(args.sets):
            made.append(condensed(method, context(splits, ipc, seed), seed, **settings))
        # sets that an earlier run has made, or begun, say nothing of the time
        seconds = None if known else round((time.perf_counter() - began) / args.sets, 1)
        labels = made[0].labels
        draws = [
            random_real(splits.train, tuple(labels.tolist()), 28, Key(seed, "random"))[0] for seed in range(args.sets)
        ]
        rows = {
            "random": [(images, labels) for images in draws],
            method: [(m.images, m.labels) for m in made],
            f"{method}, unclamped": [(m.pixels, m.labels) for m in made],
        }
        found[f"ipc{ipc}"] = told = {
            name: scored(splits, sets, protocol, args.students) for name, sets in rows.items()
        }
        told["iterations"], told["seconds_per_set"] = steps, seconds
        told["aim"] = LEAST.get((method, ipc))
        for name in rows:
            print(f"{method} ipc {ipc} {name}: {told[name]['mean']:.3f} +- {told[name]['std_all']:.3f}", flush=True)
        print(f"  {steps} iterations, {seconds} s a set; aim {told['aim']}", flush=True)
    return found


def coresets(splits: Splits, args) -> dict:
    """Selections by the embedding of a network trained on the real images, and random ones."""
    from hf_condense.config import SqueezeSettings
    from hf_condense.models.pool import squeeze

    protocol, found = protocol_of("dc", args), {}
    settings = SqueezeSettings(base_model=(NETWORK,), squeeze_epochs=args.iterations or 5, squeeze_lr=0.05)
    pool = squeeze(
        settings, splits.train, splits.test, image_size=28, key=Key(0, "squeeze"), device=torch.device("cpu"),
        cache_folder=ROOT / "cache",
    )  # fmt: skip
    for ipc in args.ipc:
        given = replace(context(splits, ipc, 0), observers=pool)
        rows = {"random": [condensed("random", replace(given, key=Key(s)), s) for s in range(args.sets)]}
        for selection in CORESETS:
            rows[selection] = [condensed("coreset", given, 0, selection=selection)]
        found[f"ipc{ipc}"] = {
            name: scored(splits, [(m.images, m.labels) for m in made], protocol, args.students)
            for name, made in rows.items()
        }
        for name, told in found[f"ipc{ipc}"].items():
            print(f"coresets ipc {ipc} {name}: {told['mean']:.3f} +- {told['std_all']:.3f}", flush=True)
    return found


def protocol_of(method: str, args):
    name = "dc" if method == "dc" else "dsa"
    return get_protocol(name, **({"epochs": args.epochs} if args.epochs else {}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("dm", "dc", "dsa", "coresets"))
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--real_batch", type=int, default=64)
    parser.add_argument(
        "--iterations", type=int, help="instead of those of the table; epochs of the coresets' network"
    )
    parser.add_argument("--epochs", type=int, help="of a student, instead of the protocol's")
    parser.add_argument("--max_test", type=int, help="score on fewer test images, to try the script")
    parser.add_argument("--max_per_class", type=int, help="take fewer training images, to try the script")
    parser.add_argument("--name", help="of the result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist"))
    splits = open_source(
        DataSettings("fashion_mnist", max_test=args.max_test, max_per_class=args.max_per_class), Key(0, "data"), data
    )
    started = time.perf_counter()
    result = coresets(splits, args) if args.part == "coresets" else matching(args.part, splits, args)
    result |= {"seconds": round(time.perf_counter() - started), "arguments": vars(args)}
    name = args.name or f"fashion_matching_{args.part}"
    write(name, " ".join(["python -m benchmarks.fashion_matching", *sys.argv[1:]]), torch.device("cpu"), result)
