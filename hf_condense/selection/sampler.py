"""Which real images of a class are matched in a step: random ones, or one for each k-means cluster of the class (DREAM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import check, check_choices, setting
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource
from hf_condense.data.upload import to_device
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel
from hf_condense.selection.centres import kmeans, nearest_members
from hf_condense.selection.features import seen_raw

if TYPE_CHECKING:
    from hf_condense.selection.paired import PairedViews

EMBED_BATCH = 512


class Sampler(Protocol):
    """Rows of real images by class and step. Rows depend on the step and in part on the network's weights."""

    def begin(self, step: int, turn: int, network: ImageModel, classes: Sequence[int]) -> None:
        """Called before the rows of a step are requested.

        Args:
            step: number of the step in the whole synthesis.
            turn: number of the step in its outer iteration.
            network: as it is in this step, frozen.
            classes: the classes that will be requested.
        """

    def rows(self, c: int) -> np.ndarray | Tensor:
        """Rows of the source, int64, of class `c` in this step, on the host or on the device; none twice."""

    def weights(self, c: int) -> Tensor | None:
        """Share of each of these rows, float32, or None for equal weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed run needs beside the step."""

    def load_state_dict(self, state: dict[str, Tensor], network: ImageModel, classes: Sequence[int]) -> None:
        """Restores a state of `state_dict`. `network` is used for this and is left with other weights."""


class RandomSampler:
    """Random images without repetition within a pass over the class (a rest too small for a batch is left out).

    Args:
        count: images a class and step; all of a class that has fewer.
    """

    def __init__(self, source: ImageSource, count: int, key: Key) -> None:
        self.source, self.count, self.key, self._step = source, count, key, 0
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # the order of the present pass over each class

    def begin(self, step: int, turn: int, network: ImageModel, classes: Sequence[int]) -> None:
        self._step = step

    def rows(self, c: int) -> np.ndarray:
        rows = self.source.rows_of(c)
        number, place = divmod(self._step, max(1, len(rows) // self.count))
        if self._orders.get(c, (None,))[0] != number:
            self._orders[c] = number, (self.key / c / number).permutation(len(rows))
        order = self._orders[c][1]
        return rows[order[place * self.count : (place + 1) * self.count]]

    def weights(self, c: int) -> None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor], network: ImageModel, classes: Sequence[int]) -> None:
        """The sampler has no state: rows follow from the step."""


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of methods that match real images of a class."""

    real_batch: int = setting(256, "real images of a class in each step")
    sampler: Literal["random", "centres"] = setting(
        "random", "real images of a step: random ones, or those nearest to k-means centroids of the class (DREAM)"
    )
    cluster_every: int = setting(10, "centres: steps after which a class is clustered again")
    cluster_candidates: int | None = setting(
        None, "centres: cluster this number of random images of a class, new ones each time; all by default"
    )
    cluster_pick: Literal["each", "tight"] = setting(
        "each", "centres: the nearest images of each centroid, or the nearest of all, whichever cluster they are in"
    )
    per_cluster: int = setting(1, "centres: images of each cluster")
    cluster_weights: Literal["none", "size"] = setting(
        "none", "centres: images count alike, or as the size of their cluster"
    )
    cluster_normalised: bool = setting(
        True, "centres, in batches and first images: networks see normalised images; the authors' script: raw ones"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("real_batch", "cluster_every", "per_cluster"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        candidates = self.cluster_candidates
        check(candidates is None or candidates >= 1, "cluster_candidates", candidates, "1 or more, or none")
        tight = self.cluster_pick == "tight" and self.per_cluster > 1
        check(not tight, "per_cluster", self.per_cluster, "1 where --cluster_pick is tight")
        whole = self.real_batch % self.per_cluster == 0
        check(whole, "per_cluster", self.per_cluster, f"a divisor of --real_batch, which is {self.real_batch}")


class CentresSampler:
    """One image near each k-means centroid of a class, in the features of the network as it is.

    The class is covered more evenly than by random images. Picks hold for some steps. Only the weights under which they
    were made are kept for a resumed run, because picks follow from them.

    Args:
        views: give the real images.
        settings: see there; of a class (or of its candidates) with fewer than `real_batch` images all are taken.
    """

    def __init__(self, views: PairedViews, key: Key, settings: SamplerSettings) -> None:
        self.views, self.key, self.settings = views, key, settings
        self._picks: dict[int, tuple[np.ndarray | Tensor, Tensor | None]] = {}
        self._seen: dict[str, Tensor] = {}

    def begin(self, step: int, turn: int, network: ImageModel, classes: Sequence[int]) -> None:
        if turn % self.settings.cluster_every == 0:
            self._cluster(step, network, classes)

    def rows(self, c: int) -> np.ndarray | Tensor:
        return self._picks[c][0]

    def weights(self, c: int) -> Tensor | None:
        return self._picks[c][1]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._seen)

    def load_state_dict(self, state: dict[str, Tensor], network: ImageModel, classes: Sequence[int]) -> None:
        if state:
            network.load_state_dict({name: value for name, value in state.items() if name != "step"})
            self._cluster(int(state["step"]), network, classes)

    def _cluster(self, step: int, network: ImageModel, classes: Sequence[int]) -> None:
        weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self._seen = {"step": torch.tensor(step), **weights}
        self._picks = {c: self.pick(c, network, self.key / step / c) for c in classes}

    def pick(self, c: int, network: ImageModel, key: Key) -> tuple[np.ndarray | Tensor, Tensor | None]:
        """Rows of the source and their weights, of class `c` in the features of `network`; on a GPU that holds the images
        they stay there."""
        s, rows = self.settings, self.views.source.rows_of(c)
        if s.cluster_candidates is not None:
            rows = rows[(key / "candidates").permutation(len(rows))[: max(s.real_batch, s.cluster_candidates)]]
        count = min(s.real_batch, len(rows)) // s.per_cluster * s.per_cluster
        if count in (0, len(rows)):  # too few to choose from
            return rows, None
        places, weights = representatives(self._features(network, rows), count, key, s.cluster_pick, s.per_cluster)
        weights = weights if s.cluster_weights == "size" else None
        if self.views.pixels is not None and places.device.type != "cpu":
            return to_device(torch.from_numpy(rows), places.device)[places], weights
        return rows[places.cpu().numpy()], weights

    @torch.no_grad()
    def _features(self, network: ImageModel, rows: np.ndarray) -> Tensor:
        found = []
        for begin in range(0, len(rows), EMBED_BATCH):
            images = self.views.at(rows[begin : begin + EMBED_BATCH])
            if not self.settings.cluster_normalised:
                images = seen_raw(network, images)
            found.append(embed(network, images))
        return torch.cat(found)


def real_images(
    views: PairedViews, c: int, count: int, key: Key, sampler: Sampler | None
) -> tuple[Tensor, Tensor | None]:
    """Real images of class `c` in a step, float unit pixels [n, C, S, S], and their weights if these differ.

    Args:
        count, key: of random images, drawn for this step alone, where there is no sampler.
        sampler: selects the images.
    """
    if sampler is None:
        return views.real(c, count, key), None
    return views.at(sampler.rows(c)), sampler.weights(c)


def representatives(
    features: Tensor, count: int, key: Key, pick: Literal["each", "tight"] = "each", per_cluster: int = 1
) -> tuple[Tensor, Tensor]:
    """Distinct rows int64 [count] of `features` [n, d] that represent its k-means clusters, and their weights [count].

    Args:
        pick: "each": the `per_cluster` rows nearest to each of `count // per_cluster` centroids, in the order of the
            clusters. "tight": the `count` rows nearest to their own of `count` centroids, nearest first.

    Returns:
        Weights are the sizes of the clusters that picks were made for, as shares that add up to 1.
    """
    features = features - features.mean(0)
    clusters = kmeans(features[None], count // per_cluster, key)
    if pick == "each":
        places = nearest_members(features, clusters, per_cluster)
        cluster = torch.arange(count, device=features.device) // per_cluster
    else:
        own = clusters.centroids[0][clusters.assignment[0]]
        places = (features - own).square().sum(1).argsort(stable=True)[:count]
        cluster = clusters.assignment[0][places]
    sizes = clusters.sizes[0][cluster].clamp(min=1).float()
    return places, sizes / sizes.sum()
