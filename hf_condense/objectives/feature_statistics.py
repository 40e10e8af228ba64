"""The objective of the decoupled family: class, layer statistics and a flat neighbourhood, in frozen observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.augmentation import ViewPolicy, draw_views, view_maker
from hf_condense.data.formation import decode
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.errors import ArtefactError
from hf_condense.models.embedding import entering
from hf_condense.models.frozen import forward, freeze
from hf_condense.models.graphs import Graphed
from hf_condense.models.statistics import RealStatistics
from hf_condense.models.taps import Taps
from hf_condense.objectives.base import Objective, Term
from hf_condense.objectives.diversity import Diversity
from hf_condense.objectives.matching import Matching
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.objectives.turns import whose_turn


class FeatureStatistics(Objective):
    """Loss = CE + r * matching + lambda * flatness + further parts, of the observers of the step.

    With BatchNorm statistics only it is SRe2L's (arXiv:2306.13092) and, over a weak pool, Teddy's (arXiv:2410.07579);
    with convolutions and running averages G-VBSM's (arXiv:2311.17950); with all of it EDC's (arXiv:2404.13733, Eq. 5-7).

    Args:
        observers: networks that take unit pixels [n, C, H, W] and give logits; they are frozen here.
        statistics: of the real data, one for each observer; they define the layers that are read.
        settings: weights and variants.
        policy: augmentation, drawn once a step; None for none; a function of the step for a curriculum.
        precision: "fp32" or "bf16" of the observers; statistics and losses are float32 always.
        turns: observers "in_order", or in a "shuffled" cycle in which each has its turn once.
        per_step: observers a step; the loss is the mean over them, each back-propagated by itself.
        diversity: a further part, on the features of images before an observer's last layer.
        factor: training images per side of a stored one (`data.formation`); all else is of the training images.
        extra: further parts of the loss, on the input of observers: (views [n, C, H, W], labels) -> name -> scalar.

    Raises:
        ArtefactError: on `start`, when statistics and observer do not belong together.
    """

    ce_weight = 1.0  # of cross-entropy

    def __init__(
        self,
        observers: Sequence[nn.Module],
        statistics: Sequence[RealStatistics],
        settings: MatchingSettings,
        policy: ViewPolicy | Callable[[int], ViewPolicy] | None = None,
        precision: str = "fp32",
        turns: Literal["in_order", "shuffled"] = "in_order",
        per_step: int = 1,
        diversity: Diversity | None = None,
        extra: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
        factor: int = 1,
    ) -> None:
        if len(observers) != len(statistics):
            raise ValueError(f"{len(observers)} observers but {len(statistics)} statistics")
        check(
            per_step <= len(observers), "models_per_step", per_step, f"at most {len(observers)}, the size of the pool"
        )
        self.settings, self.policy, self.precision = settings, policy, precision
        self.turns, self.per_step, self.diversity, self.extra = turns, per_step, diversity, extra
        self.factor = factor
        self.reads_features = diversity is not None
        self.observers = [freeze(model, precision) for model in observers]
        self.statistics = list(statistics)
        self.taps: list[Taps] = []
        self.matching: list[Matching] = []
        self.counter = 0  # steps done; determines the observers of a step
        self.flat_images: Tensor | None = None
        self._waiting: dict[str, Tensor] = {}
        self._graphed: dict[tuple, Graphed] = {}

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        """Sets targets for the labels, resets running statistics (unless they persist) and the averaged images."""
        self._key = key
        images, labels = decode(images, self.factor), labels.repeat(self.factor**2)
        if not self.matching:
            policy = self._policy(0)
            size = policy.size if policy else images.shape[-1]
            patch = self.settings.patch_side(size)
            self.taps = [Taps(model, patch, s.kinds) for model, s in zip(self.observers, self.statistics)]
            self.matching = [Matching(s, self.settings, images.device) for s in self.statistics]
            self._check_layouts(images, size)
            self.load_state_dict(self._waiting)
        if not self.settings.stat_ema_persist:
            self.counter = 0
        self.flat_images = images.detach().clone() if self.settings.flatness_weight else None
        self._order, self._sizes, sizes = None, None, None
        if self.settings.class_matching == "per_class":  # rows by class, so that each class is one group of rows
            self._order = to_device(labels.argsort(stable=True), images.device)
            sizes = labels.unique(return_counts=True)[1].tolist()
            self._sizes = tuple(sizes)
        for taps, matching in zip(self.taps, self.matching):
            taps.group(sizes)
            matching.start(labels, images.dtype)
        if self.diversity:
            self.diversity.start(labels, images)
            self.class_rows = self.diversity.groups(
                labels if self._order is None else labels.sort().values, images.device
            )

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for each observer of the step. `images`: unit pixels [n, C, H, W]; `labels`: int64 [n], of `start`."""
        images, labels = decode(images, self.factor), labels.repeat(self.factor**2)
        look = self.look(images, step, key)

        def seen(batch: Tensor) -> Tensor:
            batch = look(batch)
            return batch if self._order is None else batch[self._order]

        labels = labels if self._order is None else labels[self._order]
        for turn, k in enumerate(self.whose_turn()):
            loss, logs = self._loss(k, seen, images, labels, key, with_extra=not turn)
            yield Term(self.weighted(loss, turn), "feature_statistics", logs)

    def look(self, images: Tensor, step: int, key: Key) -> Callable[[Tensor], Tensor]:
        """Draws the views of a step, as a function of images that are shaped like these; `key` is that of the step."""
        policy = self._policy(step)
        if not policy:
            return lambda batch: batch
        views = draw_views(policy, key / "view", len(images), *images.shape[-2:])
        return view_maker(images, views, policy)

    def whose_turn(self) -> list[int]:
        """The observers of this step."""
        shuffled = self._key if self.turns == "shuffled" else None
        return whose_turn(self.counter, len(self.observers), self.per_step, shuffled)

    def logits(self, model: nn.Module, shown: Tensor) -> Tensor:
        """Of the views that an observer is shown; `seen` are their features then, where anything reads them."""
        if not self.reads_features:
            return forward(model, shown, self.precision)
        with entering(model) as entered:
            logits = forward(model, shown, self.precision)
        self.seen = entered.features().to(shown.dtype)
        return logits

    def weighted(self, loss: Tensor, turn: int) -> Tensor:
        """The part of the step's loss that this observer's is, `turn` being its place in `whose_turn`."""
        return loss / self.per_step

    def _loss(
        self, k: int, seen: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, key: Key, with_extra: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        matching, shown = self.matching[k], seen(images)
        logits, *moments = self._observe(k, shown)
        ce = F.cross_entropy(logits, labels)
        loss, logs = ce if self.ce_weight == 1 else self.ce_weight * ce, {"ce": ce.detach()}
        if moments:
            matched = matching.loss(*moments, self._keep(matching, key))
            loss, logs["matching"] = loss + self.settings.match_weight * matched, matched.detach()
        if self.diversity:
            apart = self.diversity(k, self.seen, self.class_rows)
            loss, logs["diversity"] = loss + apart, apart.detach()
        if self.flat_images is not None:
            with torch.no_grad():
                anchor = self._observe(k, seen(self.flat_images), read=False)[0]
            flatness = flatness_term(logits, anchor, self.settings)
            loss, logs["flatness"] = loss + self.settings.flatness_weight * flatness, flatness.detach()
        if self.extra and with_extra:  # it does not depend on the observer: once a step, not divided among observers
            for name, part in self.extra(shown, labels).items():
                loss, logs[name] = loss + self.per_step * part, part.detach()
        return loss, logs

    @torch.no_grad()
    def after(self, images: Tensor, step: int, key: Key) -> None:
        """Moves the averaged images (EDC, Eq. 7) towards the images of this step, and advances the observers."""
        if self.flat_images is not None:
            self.flat_images.lerp_(decode(images.detach(), self.factor), 1 - self.settings.flatness_decay)
        self.counter += 1

    def state_dict(self) -> dict[str, Tensor]:
        state = {"counter": torch.tensor(self.counter)}
        if self.flat_images is not None:
            state["flat_images"] = self.flat_images
        for k, matching in enumerate(self.matching):
            state[f"average.{k}"], state[f"visited.{k}"] = matching.average, matching.visited
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """May be called before the first `start` (a resumed chain of shards), which then restores the state."""
        if not self.matching:
            self._waiting = dict(state)
        if not state:
            return
        self.counter = int(state["counter"])
        if "flat_images" in state and self.flat_images is not None:
            self.flat_images.copy_(state["flat_images"])
        for k, matching in enumerate(self.matching):
            matching.average = state[f"average.{k}"].to(matching.device, copy=True)
            matching.visited = state[f"visited.{k}"].to(matching.device, copy=True)

    def _policy(self, step: int) -> ViewPolicy | None:
        return self.policy(step) if callable(self.policy) else self.policy

    def _observe(self, k: int, shown: Tensor, read: bool = True) -> Sequence[Tensor]:
        """Logits of observer `k`, and with `read`, where statistics are matched, the moments of its layers."""
        model, taps = self.observers[k], self.taps[k]

        def look(views: Tensor) -> Sequence[Tensor]:
            if not read:
                return (forward(model, views, self.precision),)
            if not self.settings.match_weight:
                return (self.logits(model, views),)
            with taps:
                return (self.logits(model, views), *taps.collect())

        if self.recorder is None or self.reads_features:  # which are noted beside what it returns
            return look(shown)
        place = id(model), read, self._sizes
        if place not in self._graphed:
            self._graphed[place] = Graphed(look, self.recorder)
        return self._graphed[place](shown)

    def _keep(self, matching: Matching, key: Key) -> Tensor | None:
        if not self.settings.drop_rate:
            return None
        return matching.keep(torch.from_numpy((key / "drop").uniform(len(matching.layers))))

    @torch.no_grad()
    def _check_layouts(self, images: Tensor, size: int) -> None:
        one = F.interpolate(images[:1], (size, size))
        for number, (model, taps, matching) in enumerate(zip(self.observers, self.taps, self.matching)):
            with taps:
                forward(model, one, self.precision)
                taps.collect()
            if taps.layout != matching.layout:
                raise ArtefactError(
                    "statistics",
                    f"observer {number} with {taps.layout.size} entries at {tuple(one.shape[1:])}",
                    f"statistics of this network at this size, of {matching.layout.size} entries",
                    "collect the statistics again with this image size and patch",
                )


def flatness_term(logits: Tensor, anchor: Tensor, settings: MatchingSettings) -> Tensor:
    """KL between predictions on the images and on their moving average (EDC, Eq. 7); no gradient to the latter."""
    now, before = (F.log_softmax(x / settings.flatness_temperature, dim=1) for x in (logits, anchor.detach()))
    if settings.flatness_official:  # the other direction, averaged over classes too
        return F.kl_div(now, before, reduction="batchmean", log_target=True) / logits.shape[1]
    return F.kl_div(before, now, reduction="batchmean", log_target=True)
