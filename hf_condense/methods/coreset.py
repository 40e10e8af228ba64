"""Coresets: real images selected by their position in a network's feature space, or by their difficulty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from hf_condense.config import check, check_choices, setting
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.methods.base import Context, Method, UsedNetwork
from hf_condense.methods.matching_family import CLASSIC
from hf_condense.methods.registry import MethodInfo
from hf_condense.methods.watched import CADWindows, watched
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import load_backbone
from hf_condense.plan import Shard, Start
from hf_condense.selection.centres import farthest_first, medoids
from hf_condense.selection.features import features_of
from hf_condense.selection.herding import herding
from hf_condense.selection.real import need_images
from hf_condense.selection.scores import cad, forgetting, ranked
from hf_condense.selection.tiles import combine

TILES = "pca_tiles"


@dataclass(frozen=True)
class CoresetSettings(CADWindows):
    """Settings of the selection and its network."""

    selection: Literal[
        "random",
        "herding",
        "k_center",
        "k_medoids",
        "forgetting",
        "forgetting_easy",
        "el2n_easy",
        "el2n_hard",
        "cad_high",
        "cad_low",
        "pca_tiles",
        "backbone_centres",
    ] = setting("herding", "how images of a class are chosen")
    normalise_features: bool = setting(False, "herding: features on the unit sphere, as in iCaRL")
    tile_factor: int = setting(2, "pca_tiles: whole images per side of a tiled one")
    backbone: str | None = setting(
        None, "backbone_centres: network with published weights, in whose features k-means centroids are looked for"
    )
    never_learned: Literal["first", "last"] = setting(
        "first", "forgetting: images that were never right come before all others, as its authors count, or after them"
    )
    el2n_epochs: int = setting(10, "el2n, pca_tiles: epochs, from the first, over which the score is averaged")

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.tile_factor >= 1, "tile_factor", self.tile_factor, "1 or more")
        check(self.el2n_epochs >= 1, "el2n_epochs", self.el2n_epochs, "1 or more")
        super().__post_init__()
        if self.selection.startswith("forgetting"):
            check(self.dynamics_epochs >= 2, "dynamics_epochs", self.dynamics_epochs, "2 or more")
        if self.selection.startswith("cad"):
            self.check_windows()
        named = self.backbone is not None or self.selection != "backbone_centres"
        check(named, "backbone", None, "the name of a network with published weights", "say it with --backbone")


class Coreset(Method):
    """A shard a class, chosen within the class.

    Fewer images are the first of more for every selection but `k_medoids` and `backbone_centres`, whose clusters
    depend on the number. Herding, K-center and medoids measure distances in the features of the first observer; the
    others need no observer.
    """

    name = "coreset"
    Settings = CoresetSettings

    @classmethod
    def preset_families(cls, settings: CoresetSettings, ipc: int) -> dict[str, int]:
        own = {f"{cls.name}-{TILES}": ipc} if settings.selection == TILES else {}
        return {**own, cls.name: ipc}

    @property
    def info(self) -> MethodInfo:
        own, selection = super().info, self.settings.selection
        return replace(own, title=f"{own.title}: {selection}", pool=selection in ("herding", "k_center", "k_medoids"))

    def images_before(self, real: int) -> float:
        by_position = ("random", "herding", "k_center", "k_medoids", "backbone_centres")
        return 0.0 if self.settings.selection in by_position else self.settings.dynamics_epochs * real

    def images_looked_at(self, real: int, ipc: int) -> float:
        return real if self.info.pool else 0.0

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        settings, train, label = self.settings, context.train, shard.labels[0]
        rows, size, each = train.rows_of(label), context.image_size, self.real_images_each
        count = len(shard.labels) * each
        need_images(train, len(shard.labels), each, label)
        picks = rows[SELECTIONS[settings.selection](self, rows, count, context, context.key / shard.id)]
        images = centre(train.images(picks), size).contiguous()
        if settings.selection == TILES:
            images = combine(images, settings.tile_factor, size)
        return Start(images, picks if each == 1 else picks.reshape(-1, each))

    def networks(self, context: Context) -> list[UsedNetwork]:
        if self.settings.selection != "backbone_centres":
            return []
        return [UsedNetwork(self._backbone(context), "backbone")]

    def protocol(self, dataset: str) -> str:
        if self.settings.selection == TILES:  # their students look at one tile
            return "pca-imagenet-1k" if dataset == "imagenet-1k" else "small-tiles"
        return "dc" if dataset in CLASSIC else "small"

    @property
    def real_images_each(self) -> int:
        return self.settings.tile_factor**2 if self.settings.selection == TILES else 1

    # each selection: (rows of the class, how many, context, key of the shard) -> places in rows

    def _random(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        # the draw of method `random`, image by image
        return (key / int(context.train.labels[rows[0]])).permutation(len(rows))[:count]

    def _herding(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return herding(self._features(rows, context), count, self.settings.normalise_features).numpy()

    def _k_center(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return farthest_first(self._features(rows, context), count).numpy()

    def _k_medoids(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return medoids(self._features(rows, context), count, key).numpy()

    def _forgetting(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        forgotten = forgetting(watched(self.settings, context).correct[:, rows])
        if self.settings.never_learned == "last":
            forgotten = forgotten.masked_fill(forgotten.isinf(), -1)
        return ranked(forgotten, count, key, largest=True)

    def _forgetting_easy(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return ranked(forgetting(watched(self.settings, context).correct[:, rows]), count, key, largest=False)

    def _el2n_easy(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return ranked(self._el2n(rows, context), count, key, largest=False)

    def _el2n_hard(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return ranked(self._el2n(rows, context), count, key, largest=True)

    def _cad_high(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return ranked(self._cad(rows, context), count, key, largest=True)

    def _cad_low(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        return ranked(self._cad(rows, context), count, key, largest=False)

    def _backbone_centres(self, rows: np.ndarray, count: int, context: Context, key: Key) -> np.ndarray:
        found = features_of(self._backbone(context), context.train, rows, context.image_size, context.device)
        return medoids(found, count, key).numpy()

    # inputs of the selections

    def _backbone(self, context: Context) -> ImageModel:
        return load_backbone("backbone", self.settings.backbone, context.train.plain_spec)

    def _features(self, rows: np.ndarray, context: Context) -> torch.Tensor:
        return features_of(context.observers[0].model, context.train, rows, context.image_size, context.device)

    def _el2n(self, rows: np.ndarray, context: Context) -> torch.Tensor:
        return watched(self.settings, context).el2n[: self.settings.el2n_epochs, rows].mean(0)

    def _cad(self, rows: np.ndarray, context: Context) -> torch.Tensor:
        s = self.settings
        return cad(watched(s, context).probability[:, rows], s.cad_window, s.cad_band)


SELECTIONS: dict[str, Callable[..., np.ndarray]] = {
    "random": Coreset._random,
    "herding": Coreset._herding,
    "k_center": Coreset._k_center,
    "k_medoids": Coreset._k_medoids,
    "forgetting": Coreset._forgetting,
    "forgetting_easy": Coreset._forgetting_easy,
    "el2n_easy": Coreset._el2n_easy,
    "el2n_hard": Coreset._el2n_hard,
    "cad_high": Coreset._cad_high,
    "cad_low": Coreset._cad_low,
    TILES: Coreset._el2n_easy,  # tiles use the easiest images
    "backbone_centres": Coreset._backbone_centres,
}
