"""PDD over IDC: networks of the last stage from a pool of chains, or a new chain for every network as in its script.

    python -m benchmarks.chain_replay

Counted: SGD steps of networks at stage 5 with the settings of CIFAR-10 (2,000 networks, 200 epochs on each earlier union,
batch 64, f = 2, 100 image steps of 32 steps on real images with each network). Measured: accuracy on digits, where both ways
have the same settings and seeds, and the processor's seconds of a set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.record import write
from hf_condense import CondensationTrainer, create_method
from hf_condense.engine import Engine
from hf_condense.evaluation.budget import epochs_budget, replay_budget, union_sizes
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import ImageSet, score
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.memory import keep_freed_memory

ROOT = Path("runs/chain_replay")
CLASSES, NETWORKS, EPOCHS, BATCH, OWN, POOL, STAGE = 10, 2000, 200, 64, 3200, 50, 5


def counted(each: int) -> dict[str, float]:
    """SGD steps at stage 5 where a stage makes `each` images a class."""
    images = CLASSES * each * 4
    replay = replay_budget(images, STAGE, EPOCHS, BATCH).steps
    newest = epochs_budget(union_sizes(images, STAGE - 1)[-1:], EPOCHS, BATCH).steps
    pooled, replayed = NETWORKS * OWN, NETWORKS * (OWN + replay)
    return {
        "replay_steps_a_network": replay, "own_steps_a_network": OWN, "replayed": replayed, "pooled": pooled,
        "pool_cost_of_all_stages": POOL * replay, "pool_cost_of_this_stage": POOL * newest,
        "ratio": replayed / pooled, "ratio_with_all_pool_cost": replayed / (pooled + POOL * replay),
    }  # fmt: skip


def measured(seeds: int, chains: int) -> dict:
    settings = {
        "stages": 3, "iterations": 12, "inner_steps": 5, "real_batch": 32, "network_images": 64, "chain_epochs": 20,
    }  # fmt: skip
    run = CondensationTrainer(
        "pdd", "digits", base_method="idc", ipc=6, threads=1, precision="fp32", regimes="hard",
        output_dir=str(ROOT / "run"), **settings,
    )  # fmt: skip
    train, test = run.train, run.splits.test
    protocol = get_protocol("small")
    students = StudentTrainer(protocol, 6, 10, train.mean, train.std, run.device, False)
    rows, seconds = {}, {}
    for name, count in (("pool", chains), ("replay", 0)):
        method = create_method("pdd", **{**vars(run.config.method), "chains": count})
        made, spent = [], []
        for seed in range(seeds):
            folder = ROOT / f"{name}-{seed}"
            os.environ["HF_CONDENSE_CACHE"] = str(folder / "cache")
            context = replace(run.prepare(), key=run.key / "set" / seed, students=students)
            began = time.process_time()
            found = Engine(run.accelerator, folder, 10**9).run(method, context)
            record = folder / "seconds.txt"
            if not record.exists():
                record.write_text(f"{time.process_time() - began:.1f}")
            made.append(ImageSet(found.images, found.labels, stages=found.stages))
            spent.append(float(record.read_text()))
        rows[name], seconds[name] = made, spent
        print(f"{name}: {statistics.mean(spent):.0f} s a set", flush=True)
    table = score(
        rows, protocol=protocol, students=["convnet_d1"], regimes=["hard"], seeds=seeds, ipc=6,
        test_images=test.decoded(), test_labels=torch.from_numpy(test.labels), test_digest=test.fingerprint,
        num_classes=10, image_size=train.image_size, flip=False, mean=train.mean, std=train.std,
        key=run.key / "students", device=run.device, scores_folder=ROOT / "scores",
    )  # fmt: skip
    top1 = {
        name: [c["top1"] for c in sorted(table.cells, key=lambda c: c["seed"]) if c["row"] == name] for name in rows
    }
    differences = [a - b for a, b in zip(top1["pool"], top1["replay"])]
    return {
        "settings": settings, "chains": chains, "top1": top1, "seconds": seconds,
        "difference": {"mean": statistics.mean(differences), "std": statistics.stdev(differences)},
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--chains", type=int, default=6)
    given = parser.parse_args()
    keep_freed_memory()
    counts = {f"n={each}": counted(each) for each in (10, 2)}
    for name, found in counts.items():
        print(name, {k: round(v, 2) for k, v in found.items()}, flush=True)
    result = {"counted": counts, "measured": measured(given.seeds, given.chains)}
    for name, values in result["measured"]["top1"].items():
        print(f"{name}: {100 * statistics.mean(values):.1f} ± {100 * statistics.pstdev(values):.1f}")
    write("chain_replay", "python -m benchmarks.chain_replay", torch.device("cpu"), result)
