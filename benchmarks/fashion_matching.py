"""The matching family and coresets on Fashion-MNIST at 28 px, beside random real images of the same run.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.fashion_matching dm|dc|dsa|idc|dream|coresets

A ConvNet of width 32 (`--network convnet_w128` is the published one), real batches of 64, IPC 1 and 10, three condensed
sets or draws, each of which trains three students. DC and the coresets are scored by the protocol "dc" (300 epochs, no
augmentation), DM and DSA by "dsa" (1,000 epochs under the augmentation of the synthesis), IDC and DREAM by "idc" (1,000
epochs with CutMix on four training images in each stored one). Sets are published in 8 bits, and scored in 8 bits and,
where their pixels leave [0, 1], unclamped. `--held_out` sees training images only and scores on a fifth of them: settings
are chosen so.
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
from hf_condense.data.formation import decode_set
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.engine import Engine
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import train_student
from hf_condense.memory import keep_freed_memory
from hf_condense.methods.base import Context
from hf_condense.models.fresh import FreshNetworks
from hf_condense.plan import Synthetic
from hf_condense.selection.real import random_real

ROOT = Path("runs/fashion_matching")
NETWORK = "convnet_w32"
# outer iterations; one of IDC and DREAM has 20 steps here and 100 in the papers
STEPS = {
    ("dm", 1): 400, ("dm", 10): 300, ("dc", 1): 150, ("dc", 10): 15, ("dsa", 1): 150, ("dsa", 10): 15,
    ("idc", 1): 10, ("idc", 10): 8, ("dream", 1): 10, ("dream", 10): 8,
}  # fmt: skip
TILED = {"inner_steps": 20, "network_images": 256, "distance": "l1", "formation_factor": 2}
OWN = {"idc": TILED, "dream": {**TILED, "cluster_candidates": 1000}}
LEAST = {("dm", 1): 0.67, ("dm", 10): 0.78, ("dc", 1): 0.64, ("dsa", 1): 0.62}  # gates, from the official components
CORESETS = {
    **{selection: {"selection": selection} for selection in ("herding", "k_center", "k_medoids", "forgetting")},
    "forgetting, never learned last": {"selection": "forgetting", "never_learned": "last"},
}


def context(splits: Splits, ipc: int, seed: int, network: str = NETWORK) -> Context:
    train, device = splits.train, torch.device("cpu")
    fresh = FreshNetworks(
        network,
        num_classes=train.num_classes,
        image_size=28,
        channels=1,
        mean=train.mean,
        std=train.std,
        device=device,
    )
    return Context(train, 28, ipc, Key(seed), device, "fp32", True, fresh=fresh)


def condensed(method: str, given: Context, seed: int, **settings) -> Synthetic:
    facts = [f"{k}={v}" for k, v in settings.items()]
    if given.fresh.name != NETWORK:
        facts.append(given.fresh.name)
    facts.append(f"of{len(given.train)}")  # a part of the images is another run
    folder = ROOT / "-".join([method, f"ipc{given.ipc}", *facts, f"seed{seed}"])
    return Engine(Accelerator(cpu=True), folder, 10).run(create_method(method, **settings), given)


def top1(splits: Splits, images, labels, protocol, seed: int, network: str = NETWORK) -> float:
    """Of one student; equal seeds have equal first weights and order of images, whatever the set."""
    test = splits.test
    return train_student(
        network, images, labels, "hard", protocol=protocol, test_images=test.decoded(),
        test_labels=torch.from_numpy(test.labels), num_classes=10, key=Key(0, "student", seed),
        device=torch.device("cpu"), image_size=28, mean=splits.train.mean, std=splits.train.std,
    ).top1  # fmt: skip


def scored(splits: Splits, sets: list, protocol, students: int, network: str = NETWORK) -> dict:
    """Mean over all students, spread from set to set and from student to student of a set."""
    found = [[top1(splits, images, labels, protocol, s, network) for s in range(students)] for images, labels in sets]
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
        settings = {"iterations": steps, "real_batch": args.real_batch, **OWN.get(method, {})}
        if args.lr:
            settings["lr"] = args.lr
        factor = settings.get("formation_factor", 1)
        began, made, known = time.process_time(), [], any(ROOT.glob(f"{method}-ipc{ipc}-*"))
        for seed in range(args.sets):
            made.append(condensed(method, context(splits, ipc, seed, args.network), seed, **settings))
        # of the processor, on one thread; sets that an earlier run has made, or begun, say nothing of the time
        seconds = None if known else round((time.process_time() - began) / args.sets, 1)
        labels = made[0].labels
        draws = [
            random_real(splits.train, tuple(labels.tolist()), 28, Key(seed, "random"))[0] for seed in range(args.sets)
        ]
        aim = LEAST.get((method, ipc))
        print(f"{method} ipc {ipc}: {steps} iterations, {seconds} processor seconds a set; aim {aim}", flush=True)
        rows = {method: [decode_set(m.images, m.labels, factor) for m in made]}
        if made[0].pixels is not None:
            rows[f"{method}, unclamped"] = [(m.pixels, m.labels) for m in made]
        rows["random"] = [(images, labels) for images in draws]
        if factor > 1:
            rows["first images"] = [decode_set(m.initial, m.labels, factor) for m in made]
        found[f"ipc{ipc}"] = told = {"iterations": steps, "seconds_per_set": seconds, "settings": settings, "aim": aim}
        for name, sets in rows.items():
            told[name] = scored(splits, sets, protocol, args.students, args.network)
            print(f"{method} ipc {ipc} {name}: {told[name]['mean']:.3f} +- {told[name]['std_all']:.3f}", flush=True)
    return found


def coresets(splits: Splits, args) -> dict:
    """Selections by the embedding of a network trained on the real images, and random ones."""
    from hf_condense.config import SqueezeSettings
    from hf_condense.models.pool import squeeze

    protocol, found = protocol_of("dc", args), {}
    settings = SqueezeSettings(base_model=(args.network,), squeeze_epochs=args.iterations or 5, squeeze_lr=0.05)
    pool = squeeze(
        settings, splits.train, splits.test, image_size=28, key=Key(0, "squeeze"), device=torch.device("cpu"),
        cache_folder=ROOT / "cache",
    )  # fmt: skip
    for ipc in args.ipc:
        given = replace(context(splits, ipc, 0, args.network), observers=pool)
        rows = {"random": [condensed("random", replace(given, key=Key(s)), s) for s in range(args.sets)]}
        for name, chosen in CORESETS.items():
            rows[name] = [condensed("coreset", given, 0, **chosen)]
        found[f"ipc{ipc}"] = {
            name: scored(splits, [(m.images, m.labels) for m in made], protocol, args.students, args.network)
            for name, made in rows.items()
        }
        for name, told in found[f"ipc{ipc}"].items():
            print(f"coresets ipc {ipc} {name}: {told['mean']:.3f} +- {told['std_all']:.3f}", flush=True)
    return found


def protocol_of(method: str, args):
    name = {"dc": "dc", "idc": "idc", "dream": "idc"}.get(method, "dsa")
    return get_protocol(name, **({"epochs": args.epochs} if args.epochs else {}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("dm", "dc", "dsa", "idc", "dream", "coresets"))
    parser.add_argument("--network", default=NETWORK, help="of synthesis and students")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--real_batch", type=int, default=64)
    parser.add_argument(
        "--iterations", type=int, help="instead of those of the table; epochs of the coresets' network"
    )
    parser.add_argument("--lr", type=float, help="of the images, instead of the method's; scaled as the method says")
    parser.add_argument("--held_out", action="store_true", help="score on a fifth of the training images")
    parser.add_argument("--epochs", type=int, help="of a student, instead of the protocol's")
    parser.add_argument("--max_test", type=int, help="score on fewer test images, to try the script")
    parser.add_argument("--max_per_class", type=int, help="take fewer training images, to try the script")
    parser.add_argument("--name", help="of the result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist"))
    splits = open_source(
        DataSettings("fashion_mnist", max_test=args.max_test, max_per_class=args.max_per_class), Key(0, "data"),
        data["train"] if args.held_out else data,
    )  # fmt: skip
    started = time.perf_counter()
    result = coresets(splits, args) if args.part == "coresets" else matching(args.part, splits, args)
    result |= {"seconds": round(time.perf_counter() - started), "arguments": vars(args)}
    name = args.name or f"fashion_matching_{args.part}"
    write(name, " ".join(["python -m benchmarks.fashion_matching", *sys.argv[1:]]), torch.device("cpu"), result)
