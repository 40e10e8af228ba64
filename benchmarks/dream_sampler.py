"""What DREAM's k-means costs: our way beside Lloyd's steps.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.dream_sampler

A class of Fashion-MNIST is clustered into 128 in the features of an untrained network: in 64 projected dimensions, then three
steps in all (ours), beside Lloyd's steps in all dimensions, once stopped where they are as good as ours, and once until they
rest, as DREAM's script has them (a dense matrix of memberships, at most 100 steps).
"""

from __future__ import annotations

import os
import time

import torch
from datasets import load_dataset

from benchmarks import record
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.models.fresh import FreshNetworks
from hf_condense.selection.centres import kmeans
from hf_condense.selection.features import features_of
from hf_condense.selection.sampler import representatives

CPU = torch.device("cpu")
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
    seconds = record.interleaved(
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
    shape = {"rows": len(features), "dimensions": features.shape[1], "clusters": count, "network": args.network}
    return {
        **shape, "inertia": lengths, "seconds": seconds, "embedding_seconds": embedding, "lloyd_steps": reach,
        "faster": faster, "aim": AIM,
    }  # fmt: skip


def parser():
    found = record.parser(__doc__)
    found.add_argument("--max_per_class", type=int, help="take fewer images, to try the script")
    found.add_argument("--clusters", type=int, default=128)
    found.add_argument("--network", default="convnet_w128", help="in whose features images are clustered")
    return found


if __name__ == "__main__":
    options = record.options(parser())
    data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist"))
    few = DataSettings("fashion_mnist", max_per_class=options.max_per_class)
    record.write("dream_sampler_kmeans", options, clustering(open_source(few, Key(0, "data"), data), options))
