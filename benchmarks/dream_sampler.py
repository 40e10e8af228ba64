"""What DREAM's real batches and first images are worth, each by itself, and what its k-means costs.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.dream_sampler kmeans|accuracy

`kmeans` clusters a class of Fashion-MNIST in the features of an untrained network into 128: our way (in 64 projected
dimensions, then three steps in all) beside Lloyd's steps in all dimensions, once stopped where they are as good as ours,
and once until they rest, as DREAM's script has them (a dense matrix of who belongs where, at most 100 steps).

`accuracy` condenses 1,000 images a class to one each, 28 px, width 32, one training image in each: {random, centres} first
images x {random, centres} real batches of the same size, and the first images themselves. Students follow "dsa".
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch
from datasets import load_dataset

from benchmarks.fashion_matching import NETWORK, condensed, context, scored
from benchmarks.record import interleaved, write
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.memory import keep_freed_memory
from hf_condense.models.fresh import FreshNetworks
from hf_condense.selection.centres import kmeans
from hf_condense.selection.features import features_of
from hf_condense.selection.sampler import representatives

CPU = torch.device("cpu")
GATE = 0.66  # dream.md, section 11: either sampler, from medoids
AIM = 5  # times faster than Lloyd's steps in all dimensions


def left(features: torch.Tensor, centroids: torch.Tensor) -> float:
    """Mean squared distance to the nearest centroid, as a share of the variance."""
    squared = torch.cdist(features, centroids).square().min(1).values.mean()
    return float(squared / features.var(0, correction=0).sum())


def lloyd(features: torch.Tensor, count: int, steps: int, key: Key) -> torch.Tensor:
    """Centroids after plain Lloyd's steps from random rows; an empty cluster keeps its centroid."""
    centroids = features[torch.from_numpy(key.permutation(len(features))[:count])].clone()
    norms = features.square().sum(1)
    for _ in range(steps):
        nearest = (norms[:, None] - 2 * (features @ centroids.T) + centroids.square().sum(1)).argmin(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, features)
        sizes = nearest.bincount(minlength=count)[:, None]
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
    return centroids


def resting(features: torch.Tensor, count: int, key: Key) -> torch.Tensor:
    """Centroids after Lloyd's steps until they hardly move; an empty cluster's falls to the origin."""
    centroids = features[torch.from_numpy(key.permutation(len(features))[:count])].clone()
    norms = features.square().sum(1)
    for _ in range(100):
        nearest = (norms[:, None] - 2 * (features @ centroids.T) + centroids.square().sum(1)).argmin(1)
        members = (nearest == torch.arange(count)[:, None]).float()
        moved = members @ features / members.sum(1, keepdim=True).clamp(min=1)
        shift, centroids = (moved - centroids).square().sum(), moved
        if shift <= 1e-4:
            break
    return centroids


def clustering(splits: Splits, args) -> dict:
    train, count, key = splits.train, args.clusters, Key(0, "clusters")
    fresh = FreshNetworks(
        args.network, num_classes=10, image_size=28, channels=1, mean=train.mean, std=train.std, device=CPU
    )
    began = time.perf_counter()
    features = features_of(fresh(key).requires_grad_(False), train, train.rows_of(0), 28, CPU)
    embedding = time.perf_counter() - began
    features = features - features.mean(0)
    ours = left(features, kmeans(features[None], count, key).centroids[0])
    reach = next((s for s in range(1, 101) if left(features, lloyd(features, count, s, key)) <= ours), 100)
    seconds = interleaved(
        {
            "ours": lambda: kmeans(features[None], count, key),
            "ours, with picks": lambda: representatives(features, count, key),
            f"lloyd, {reach} steps": lambda: lloyd(features, count, reach, key),
            "lloyd until it rests": lambda: resting(features, count, key),
        },
        args.repeats,
        CPU,
    )
    medoids = features[representatives(features, count, key)[0]]
    random = [left(features, features[torch.from_numpy((key / i).permutation(len(features))[:count])]) for i in (0, 1)]
    lengths = {
        "ours": ours, f"lloyd, {reach} steps": left(features, lloyd(features, count, reach, key)),
        "lloyd until it rests": left(features, resting(features, count, key)),
        "medoids": left(features, medoids), "random rows": sum(random) / 2,
    }  # fmt: skip
    faster = {
        name: seconds[name]["processor"] / seconds["ours"]["processor"] for name in seconds if name.startswith("lloyd")
    }
    for name, value in lengths.items():
        cost = seconds.get(name, {}).get("processor")
        print(f"{name}: inertia {value:.3f} of the variance" + (f", {cost:.3f} s" if cost else ""), flush=True)
    print(f"picks: {seconds['ours, with picks']['processor']:.3f} s; embedding {embedding:.2f} s", flush=True)
    for name, times in faster.items():
        print(f"ours is {times:.1f} times as fast as {name} (aim {AIM})", flush=True)
    shape = {"rows": len(features), "dimensions": features.shape[1], "clusters": count, "network": args.network}
    return {
        **shape, "inertia": lengths, "seconds": seconds, "embedding_seconds": embedding, "lloyd_steps": reach,
        "faster": faster, "aim": AIM,
    }  # fmt: skip


def accuracy(splits: Splits, args) -> dict:
    protocol = get_protocol("dsa", **({"epochs": args.epochs} if args.epochs else {}))
    shared = {
        "iterations": args.iterations, "inner_steps": 20, "real_batch": args.real_batch, "network_images": 256, "lr": args.lr,
        "distance": "l1", "formation_factor": 1,
    }  # fmt: skip
    rows, found = {}, {}
    for init in ("real", "centres"):
        for sampler in ("random", "centres"):
            began, made = time.perf_counter(), []
            for seed in range(args.sets):
                given = context(splits, 1, seed)
                made.append(condensed("idc", given, seed, init=init, sampler=sampler, **shared))
            name = f"from {init}, {sampler} batches"
            rows[name] = [(m.images, m.labels) for m in made]
            found[name] = {"seconds_per_set": round((time.perf_counter() - began) / args.sets, 1)}
        rows[f"{init} as they are"] = [(m.initial, m.labels) for m in made]
    for name, sets in rows.items():
        told = found.setdefault(name, {})
        told |= scored(splits, sets, protocol, args.students)
        cost = told.get("seconds_per_set")
        print(
            f"{name}: {told['mean']:.3f} +- {told['std_all']:.3f}" + (f", {cost} s a set" if cost else ""), flush=True
        )

    def gain(with_it: str, without: str) -> float:
        return found[with_it]["mean"] - found[without]["mean"]

    found["effect of the start, as it is"] = gain("centres as they are", "real as they are")
    found["effect of the start, condensed"] = gain("from centres, random batches", "from real, random batches")
    found["effect of the sampler, from centres"] = gain(
        "from centres, centres batches", "from centres, random batches"
    )
    found["effect of the sampler, from real"] = gain("from real, centres batches", "from real, random batches")
    for name in (n for n in found if n.startswith("effect")):
        print(f"{name}: {100 * found[name]:+.1f} points", flush=True)
    best = min(found[f"from centres, {s} batches"]["mean"] for s in ("random", "centres"))
    print(f"gate {GATE}: {'met' if best >= GATE else 'missed'} with {best:.3f}", flush=True)
    return {**found, "network": NETWORK, "gate": GATE}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("kmeans", "accuracy"))
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10, help="outer iterations of 20 steps")
    parser.add_argument("--real_batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-2, help="before it is scaled; 1e-4 is the published one")
    parser.add_argument("--epochs", type=int, help="of a student, instead of the protocol's")
    parser.add_argument("--max_test", type=int, help="score on fewer test images, to try the script")
    parser.add_argument("--max_per_class", type=int, help="training images; 1,000 for accuracy, all for kmeans")
    parser.add_argument("--clusters", type=int, default=128)
    parser.add_argument("--network", default="convnet_w128", help="in whose features kmeans is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", help="of the result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist"))
    few = args.max_per_class or (1000 if args.part == "accuracy" else None)
    splits = open_source(
        DataSettings("fashion_mnist", max_test=args.max_test, max_per_class=few), Key(0, "data"), data
    )
    result = accuracy(splits, args) if args.part == "accuracy" else clustering(splits, args)
    name = args.name or f"dream_sampler_{args.part}"
    command = " ".join(["python -m benchmarks.dream_sampler", *sys.argv[1:]])
    write(name, command, CPU, result | {"arguments": vars(args)})
