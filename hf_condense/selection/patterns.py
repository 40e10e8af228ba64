"""Patterns of a class: communities of like images, each with its share of the picks (Balanced Patterns Selection)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

Margin = Literal["window", "entropy", "none"]
NEIGHBOURS = 29  # and the image itself, which its code counts too
SIMILAR = 0.5  # least cosine of two images that are joined
BLOCK = 1024  # rows whose similarities to all others are held at once
EM_STEPS = 20
WINDOW_LEAST, MIXTURE_LEAST = 10, 5  # images to choose a window among, and to fit a mixture to


def graph_patterns(features: torch.Tensor, neighbours: int = NEIGHBOURS, similar: float = SIMILAR) -> np.ndarray:
    """Communities int64 [n] of the graph that joins rows of `features` [n, d] which are among each other's nearest.

    Edges weigh the cosine; a row without one is a community of its own. Numbers follow the first row of each.
    """
    unit = F.normalize(features.float())
    count = min(neighbours, len(unit) - 1)
    if count < 1:
        return np.arange(len(unit))
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for begin in range(0, len(unit), BLOCK):
        cosines = unit[begin : begin + BLOCK] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(begin, begin + len(cosines))] = -torch.inf
        found.append(cosines.topk(count, dim=1))
    weights, nearest = (torch.cat(parts).cpu().numpy() for parts in zip(*found))
    begins = np.arange(0, weights.size + 1, count)
    joined = csr_array((np.where(weights >= similar, weights, 0).ravel(), nearest.ravel(), begins))
    mutual = joined.minimum(joined.T).tocsr()
    mutual.eliminate_zeros()
    parts = (np.split(values, mutual.indptr[1:-1]) for values in (mutual.indices, mutual.data))
    return _numbered(communities([dict(zip(js.tolist(), ws.tolist())) for js, ws in zip(*parts)]))


def communities(links: list[dict[int, float]]) -> np.ndarray:
    """Louvain communities (arXiv:0803.0476) int64 [n] of a weighted graph: node -> {neighbour: weight}, symmetric.

    Nodes are visited from the largest weight down, so that the result does not depend on how they are numbered, but
    for ties. networkx draws the order by node number, which is why it is not used, and takes several times as long.
    """
    member = np.arange(len(links))
    while True:
        moved = _local_moves(links)
        numbers = _numbered(moved)
        if numbers.max(initial=-1) + 1 == len(links):
            return member
        member = numbers[member]
        merged: list[dict[int, float]] = [{} for _ in range(numbers.max() + 1)]
        for node, mine in enumerate(links):
            into = merged[numbers[node]]
            for other, weight in mine.items():
                into[numbers[other]] = into.get(numbers[other], 0.0) + weight
        links = merged


def _local_moves(links: list[dict[int, float]]) -> np.ndarray:
    """Moves single nodes to the neighbouring community of the largest gain in modularity until none gains."""
    degree = [sum(mine.values()) for mine in links]  # a merged node's link to itself counts both ends already
    others = [{j: w for j, w in mine.items() if j != node} for node, mine in enumerate(links)]
    total, home, weight = sum(degree), list(range(len(links))), list(degree)
    waiting = deque(sorted((n for n in home if others[n]), key=lambda node: (-degree[node], node)))
    queued = [bool(mine) for mine in others]
    while waiting:
        node = waiting.popleft()
        queued[node], own, share = False, home[node], degree[node] / total
        weight[own] -= degree[node]
        near = {own: 0.0}
        for other, w in others[node].items():
            c = home[other]
            near[c] = near.get(c, 0.0) + w
        best, most = own, near[own] - weight[own] * share + 1e-12 * total
        for c, w in near.items():
            gain = w - weight[c] * share
            if gain > most:
                best, most = c, gain
        weight[best] += degree[node]
        if best != own:
            home[node] = best
            for other in others[node]:
                if home[other] != best and not queued[other]:
                    queued[other] = True
                    waiting.append(other)
    return np.array(home, dtype=np.int64)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """The same groups, numbered in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse]


def budgets(sizes: np.ndarray, count: int) -> np.ndarray:
    """Picks of each pattern, int64 [q] with sum `count`: shares by size, largest remainders first, then earlier ones.

    Args:
        sizes: images of each pattern; `count` is at most their sum, so none gets more than it has.
    """
    scaled, total = np.asarray(sizes, dtype=np.int64) * count, int(np.sum(sizes))
    found = scaled // total
    largest = np.argsort(-(scaled - found * total), kind="stable")
    found[largest[: count - found.sum()]] += 1
    return found


def picks(
    features: torch.Tensor, patterns: np.ndarray, count: int, margin: Margin, entropy: np.ndarray, share: float = 0.1
) -> np.ndarray:
    """Rows int64 [count] of `features` [n, d], none twice: of each pattern half centres and half margin.

    Centres are the rows of largest cosine to the mean of the pattern. The margin are uncertain ones: those of largest
    entropy, or with "window" those of a window that leaves out the most uncertain, as they are likely to be noise.
    More picks do not contain fewer.

    Args:
        patterns: int64 [n], the pattern of each row.
        margin: "none" takes centres alone.
        entropy: [n], of a network's prediction.
        share: of the most uncertain images of a pattern, among which the window is laid.
    """
    unit, found = F.normalize(features.double()), []
    sizes = np.bincount(patterns)
    for pattern, quota in enumerate(budgets(sizes, count)):
        rows = np.flatnonzero(patterns == pattern)
        mine = unit[torch.from_numpy(rows)]
        cosine = (mine @ F.normalize(mine.mean(0), dim=0)).cpu().numpy()
        central = rows[np.argsort(-cosine, kind="stable")]
        centres = quota if margin == "none" or quota == len(rows) else (quota + 1) // 2
        rest = np.sort(central[centres:])
        uncertain = in_margin(entropy[rest], share if margin == "window" else None)[: quota - centres]
        found += [central[:centres], rest[uncertain]]
    return np.concatenate(found)


def in_margin(entropy: np.ndarray, share: float | None) -> np.ndarray:
    """Places int64 [n] of `entropy` [n] in the order in which margin images are taken.

    Args:
        share: of the images, the most uncertain ones, among which a window is laid: from the lower mean of a mixture of
            two Gaussians to where both are equally likely. Taken upwards, then those below it downwards, then the
            rest. None: the most uncertain first.
    """
    falling = np.argsort(-entropy, kind="stable")
    if share is None or len(entropy) < WINDOW_LEAST:
        return falling
    top = falling[: int(max(share * len(entropy), min(10, len(entropy))))]
    if len(top) < MIXTURE_LEAST:
        return falling
    low, high = window(entropy[top])
    inside = top[(entropy[top] >= low) & (entropy[top] <= high)]
    below = top[entropy[top] < low]
    first = np.concatenate([inside[np.argsort(entropy[inside], kind="stable")], below])
    return np.concatenate([first, falling[~np.isin(falling, first)]])


def window(values: np.ndarray) -> tuple[float, float]:
    """Lower mean, and crossing of the weighted densities between the means, of two Gaussians fitted to `values` [n].

    Twenty EM steps in float64 from the quartiles: no random start. The crossing is infinite where there is none.
    """
    x = np.asarray(values, dtype=np.float64)
    least = 1e-6 * max(1.0, float(np.abs(x).max()))  # of a deviation: equal values have none
    mean, spread, weight = np.quantile(x, (0.25, 0.75)), np.full(2, max(x.std(), least)), np.full(2, 0.5)
    for _ in range(EM_STEPS):
        logs = _log_densities(x[:, None], mean, spread, weight)
        shares = np.exp(logs - np.logaddexp(*logs.T)[:, None])
        mass = shares.sum(0).clip(1e-12)
        mean = (shares * x[:, None]).sum(0) / mass
        spread = np.sqrt((shares * (x[:, None] - mean) ** 2).sum(0) / mass).clip(least)
        weight = mass / mass.sum()
    order = mean.argsort()
    return float(mean[order[0]]), crossing(mean[order], spread[order], weight[order])


def crossing(mean: np.ndarray, spread: np.ndarray, weight: np.ndarray) -> float:
    """Where the densities of two weighted Gaussians are equal, between their means; infinite where they are not."""

    def ahead(x: float) -> float:
        return float(-np.subtract(*_log_densities(np.float64(x), mean, spread, weight)))

    low, high = map(float, mean)
    if not ahead(low) < 0 < ahead(high):
        return float("inf")
    for _ in range(200):  # halving needs no division by a difference of variances
        middle = (low + high) / 2
        low, high = (low, middle) if ahead(middle) > 0 else (middle, high)
    return low


def _log_densities(x: np.ndarray, mean: Iterable, spread: Iterable, weight: Iterable) -> np.ndarray:
    """Up to a constant."""
    return np.log(weight) - np.log(spread) - 0.5 * ((x - mean) / spread) ** 2
