"""BPS: real images balanced over the patterns of their class, half of them centres and half uncertain ones (CVPR 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from hf_condense.config import check, check_choices, setting
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.methods.base import Context, Method, UsedNetwork
from hf_condense.models.linear_probe import load_backbone
from hf_condense.models.training import predict
from hf_condense.plan import Shard, Start
from hf_condense.selection.centres import kmeans
from hf_condense.selection.features import FEATURE_BATCH, features_of
from hf_condense.selection.patterns import graph_patterns, picks
from hf_condense.selection.real import need_images

DATASETS = ("cifar10", "cifar100", "tiny-imagenet", "imagenet-1k")  # of the paper


@dataclass(frozen=True)
class BPSSettings:
    """Settings of the selection. The encoder that its authors train for it is not trained here: a network at hand is used."""

    patterns: Literal["graph", "kmeans"] = setting(
        "graph", "patterns of a class: communities of its graph of nearest neighbours, or sqrt(ipc) k-means clusters"
    )
    margin: Literal["window", "entropy", "none"] = setting(
        "window",
        "uncertain half of a pattern's images: those in a window, the most uncertain ones, or centres instead",
    )
    neighbours: int = setting(29, "graph: nearest images that an image may be joined with, besides itself")
    similarity: float = setting(0.5, "graph: least cosine of two images that are joined")
    uncertain: float = setting(0.1, "window: share of a pattern's most uncertain images, in which the window is laid")
    backbone: str | None = setting(
        None, "network with published weights whose features are used; defaults to the first observer"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.neighbours >= 1, "neighbours", self.neighbours, "1 or more")
        check(-1 <= self.similarity <= 1, "similarity", self.similarity, "a cosine")
        check(0 < self.uncertain <= 1, "uncertain", self.uncertain, "a share, above 0")


class BPS(Method):
    """A shard a class. The first observer says how uncertain an image is, by the entropy of its prediction.

    Fewer images are not the first of more: patterns share the number that is asked for.
    """

    name = "bps"
    Settings = BPSSettings

    @property
    def real_images_each(self) -> int:
        return 1

    def images_looked_at(self, real: int, ipc: int) -> float:
        return real

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        s, train, label = self.settings, context.train, shard.labels[0]
        rows, count = train.rows_of(label), len(shard.labels)
        need_images(train, count, 1, label)
        model = load_backbone("backbone", s.backbone, train.plain_spec) if s.backbone else context.observers[0].model
        features = features_of(model, train, rows, context.image_size, context.device)
        patterns = self._patterns(features, count, context.key / shard.id)
        entropy = np.zeros(len(rows)) if s.margin == "none" else uncertainty(context, rows)
        chosen = rows[picks(features, patterns, count, s.margin, entropy, s.uncertain)]
        return Start(centre(train.images(chosen), context.image_size).contiguous(), chosen)

    def networks(self, context: Context) -> list[UsedNetwork]:
        backbone = self.settings.backbone
        return (
            [UsedNetwork(load_backbone("backbone", backbone, context.train.plain_spec), "backbone")]
            if backbone
            else []
        )

    def protocol(self, dataset: str) -> str:
        return f"{self.name}-{dataset}" if dataset in DATASETS else "small"

    def _patterns(self, features: torch.Tensor, count: int, key: Key) -> np.ndarray:
        s = self.settings
        if s.patterns == "graph":
            return graph_patterns(features, s.neighbours, s.similarity)
        clusters = min(len(features), int(np.ceil(np.sqrt(count))))
        found = kmeans((features - features.mean(0))[None], clusters, key).assignment[0]
        return np.unique(found.cpu().numpy(), return_inverse=True)[1]


def uncertainty(context: Context, rows: np.ndarray) -> np.ndarray:
    """Entropy in nats, float64 [n], of the first observer's prediction for these real images, un-augmented."""
    found, model = [], context.observers[0].model
    for begin in range(0, len(rows), FEATURE_BATCH):
        images = context.train.images(rows[begin : begin + FEATURE_BATCH])
        logits = predict(model, images, context.device, size=context.image_size)
        found.append(torch.special.entr(logits.double().softmax(1)).sum(1))
    return torch.cat(found).numpy()
