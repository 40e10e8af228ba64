"""Centres of a class: farthest-first points, and the samples nearest to k-means centroids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device

# Dimensions in which k-means runs first. Of 2,048, a fifth of the time of Lloyd's steps run to rest, for 1 % more
# inertia; Lloyd's steps up to this inertia take less time than this code (benchmarks/dream_sampler.py).
PROJECTED = 64
PROJECTED_STEPS = 15
FULL_STEPS = 3
# A centroid moves if its gain is this many times the loss of removing it. On natural data few centroids then move, so
# the random start is kept; for two centroids in one tight group the ratio is far larger.
WORTH_MOVING = 100.0


def farthest_first(features: torch.Tensor, count: int) -> torch.Tensor:
    """K-center, greedy: indices int64 [count] of distinct rows of `features` [n, d]; fewer are the first of more.

    The first is the row nearest to the mean, each next one the row farthest from all picks (Sener & Savarese,
    arXiv:1708.00489; its radius is at most twice the smallest possible). Ties go to the row that comes first.
    """
    features = features.double()
    picks = features.new_empty(count, dtype=torch.int64)
    picks[0] = (features - features.mean(0)).square().sum(1).argmin()
    nearest = torch.full((len(features),), torch.inf, dtype=features.dtype, device=features.device)
    for k in range(1, count):
        nearest = nearest.minimum((features - features[picks[k - 1]]).square().sum(1))
        nearest[picks[k - 1]] = -1  # equal rows are at distance 0 and may still be picked, this one may not
        picks[k] = nearest.argmax()
    return picks


def medoids(features: torch.Tensor, count: int, key: Key, *, per_cluster: int = 1) -> torch.Tensor:
    """Indices int64 [count] of distinct rows of `features` [n, d] that stand for k-means clusters.

    `count // per_cluster` clusters give the `per_cluster` rows nearest to their centroid each, in the order of their
    clusters (DREAM, arXiv:2302.14416, and DREAM+, arXiv:2310.15052). A row selected by two clusters goes to the
    nearer one; the other takes its next nearest row. Permuting the rows permutes the picks.

    Used instead of scikit-learn's KMeans: it runs on the device of the features, and moves redundant centroids.

    Args:
        count: at most n, and a multiple of `per_cluster`.
    """
    features = features - features.mean(0)
    return nearest_members(features, kmeans(features[None], count // per_cluster, key), per_cluster)


@dataclass(frozen=True)
class Clusters:
    """Result of `kmeans` for c sets of n rows.

    Args:
        centroids: [c, k, d].
        assignment: int64 [c, n], the nearest centroid of each row.
        sizes: int64 [c, k], rows that are assigned to each centroid.
    """

    centroids: torch.Tensor
    assignment: torch.Tensor
    sizes: torch.Tensor


def nearest_members(features: torch.Tensor, clusters: Clusters, per_cluster: int = 1) -> torch.Tensor:
    """The picks of `medoids` for the clusters of `features` [n, d], which should have their mean near the origin."""
    return _nearest_distinct(_squared(clusters.centroids, features[None])[0], per_cluster).flatten()


def kmeans(features: torch.Tensor, count: int, key: Key) -> Clusters:
    """`count` clusters of each of c sets of rows, `features` [c, n, d], all sets at once.

    Lloyd's steps from randomly drawn rows, in a random projection to 64 dimensions and then three in all dimensions.
    Nothing is read back from the device. The start is drawn by rank along the first projected axis, so that it does
    not depend on the order of the rows.
    """
    x = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    x = x - x.mean(1, keepdim=True)  # distances by products lose digits where all rows are far from the origin
    normal = (key / "axes").numpy().standard_normal((x.shape[2], PROJECTED)) / math.sqrt(PROJECTED)
    projected = x @ to_device(torch.from_numpy(normal).to(x.dtype), x.device)
    drawn = to_device(torch.from_numpy((key / "start").permutation(x.shape[1])[:count]), x.device)
    start = projected[..., 0].argsort(1)[:, drawn]
    small = projected if x.shape[2] > PROJECTED else x
    centroids = _rows(small, start)
    for _ in range(PROJECTED_STEPS):
        centroids = _relocated(small, centroids)
    members = _members(small, centroids)[0]
    centroids = _rows(x, start)  # of empty clusters
    for _ in range(FULL_STEPS):
        centroids = _means(x, centroids, members)
        members = _members(x, centroids)[0]
    return Clusters(centroids + features.mean(1, keepdim=True).to(x), members.argmax(2), members.sum(1).long())


def _relocated(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Centroids [c, k, d] after one of Lloyd's steps, in which centroids of little gain move to places of larger gain.

    The loss of a centroid is the squared distance that its rows would add without it; zero for an empty cluster.
    The gain of a place is the squared distance that a cluster would save if its farthest row were a centroid too.
    """
    members, distances = _members(x, centroids)
    first, second = distances.unbind(-1)
    worth = (members.mT @ (second - first)[..., None])[..., 0]
    # of two centroids in one group each seems redundant, but only one is: the one with the larger loss stays
    neighbour = _squared(centroids, centroids).diagonal_scatter(worth + torch.inf, dim1=1, dim2=2).argmin(2)
    order = worth.argsort(stable=True).argsort()
    worth = worth.masked_fill(order > order.gather(1, neighbour), torch.inf)
    far = (members * first[..., None]).argmax(1)
    away = (x - _rows(x, far.gather(1, members.argmax(2)))).square().sum(-1)
    gain = (members.mT @ (first - away).clamp(min=0)[..., None])[..., 0]
    mover, host = worth.argsort(stable=True), gain.argsort(stable=True, descending=True)
    moves = (gain.gather(1, host) > WORTH_MOVING * worth.gather(1, mover)) & (mover != host)
    means = _means(x, centroids, members)
    places = torch.where(moves[..., None], _rows(x, far.gather(1, host)), _rows(means, mover))
    return means.scatter(1, mover[..., None].expand_as(places), places)


def _means(x: torch.Tensor, centroids: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of each cluster [c, k, d]; the old centroid where it has none."""
    sizes = members.sum(1)[..., None]
    return torch.where(sizes > 0, members.mT @ x / sizes.clamp(min=1), centroids)


def _squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distances [c, n, m] between the rows of `a` [c, n, d] and `b` [c, m, d]."""
    lengths = [torch.einsum("cnd,cnd->cn", x, x) for x in (a, b)]  # without a copy of x, unlike its square
    return (lengths[0][..., None] - 2 * (a @ b.mT) + lengths[1][:, None]).clamp(min=0)


def _members(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Membership [c, n, k] of zeros and ones, and squared distances [c, n, 2] to the nearest and second centroid."""
    squared = _squared(x, centroids)
    distances, nearest = squared.topk(min(2, squared.shape[2]), largest=False)
    # products with membership and not scattered sums: on a GPU those add up in another order each time
    members = torch.zeros_like(squared).scatter_(2, nearest[..., :1], 1.0)
    return members, distances[..., [0, -1]]


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows `index` [c, m] of each set of `x` [c, n, d]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _nearest_distinct(distances: torch.Tensor, each: int) -> torch.Tensor:
    """Rows int64 [k, each] nearest to each centroid, none twice, from distances [k, n]; the closest pair goes first."""
    if distances.device.type != "cpu":
        return _nearest_distinct_unread(distances.clone(), each)
    distances = distances.clone()
    picks, filled = torch.empty(len(distances), each, dtype=torch.int64), [0] * len(distances)
    best, where = distances.min(1)
    for _ in range(picks.numel()):
        cluster = int(best.argmin())
        row = int(where[cluster])
        picks[cluster, filled[cluster]] = row
        filled[cluster] += 1
        distances[:, row] = torch.inf
        if filled[cluster] == each:
            distances[cluster] = torch.inf
        stale = where == row
        best[stale], where[stale] = distances[stale].min(1)
    return picks


def _nearest_distinct_unread(distances: torch.Tensor, each: int) -> torch.Tensor:
    """`_nearest_distinct` without reading anything back: each pick looks at all distances again. Changes `distances`."""
    k, n = distances.shape
    picks, filled = distances.new_zeros(k, each, dtype=torch.int64), distances.new_zeros(k, dtype=torch.int64)
    closed = distances.new_zeros(each + 1)  # what is added to the distances of a cluster that has this number of picks
    closed[each] = torch.inf
    for _ in range(k * each):
        place = distances.flatten().argmin()[None]
        cluster, row = place // n, place % n
        picks.index_put_((cluster, filled[cluster]), row)
        filled.index_add_(0, cluster, torch.ones_like(cluster))
        distances.index_fill_(1, row, torch.inf)
        distances.index_add_(0, cluster, closed[filled[cluster]][:, None].expand(1, n))
    return picks
