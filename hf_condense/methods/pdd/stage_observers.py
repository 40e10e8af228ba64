"""PDD over a frozen pool, an extension of this library: chains select the real images and serve as observers."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hf_condense.config import SqueezeSettings
from hf_condense.data.cache import one_at_a_time
from hf_condense.files import fingerprint, load_tensors, remove_leftovers, save_tensors
from hf_condense.methods.base import Context, StatisticsRequest
from hf_condense.methods.pdd.chains import ChainedNetworks, keep
from hf_condense.methods.pdd.settings import PDDSettings
from hf_condense.methods.pdd.stage import StageContext
from hf_condense.methods.pdd.stage_source import LEAST, kept_rows, narrowed
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.real_training import train_on, training_policy
from hf_condense.models.recalibration import recalibrate
from hf_condense.models.statistics import STATISTICS_VERSION, RealStatistics
from hf_condense.models.statistics_files import write_statistics
from hf_condense.models.training import FitRecipe, predict
from hf_condense.plan import Shard
from hf_condense.processes import Processes
from hf_condense.progress import Progress

log = logging.getLogger(__name__)
OBSERVERS_VERSION = 1  # raised when the same chains no longer give the same observers
BATCH = 64  # of the tuning on real images


def observing(
    settings: PDDSettings,
    statistics: Callable[[Context], StatisticsRequest | None],
    shard: Shard,
    context: StageContext,
    chains: ChainedNetworks,
    processes: Processes,
) -> StageContext:
    """`context` with the images and observers of decoupled synthesis in a later stage.

    Real images that chains miss are kept, others at random and less often: they are what first images are drawn from
    and what class statistics are of. Observers are those of the pool and the chains, tuned on these images for a
    little while, with batch norms measured again; statistics are of all of them.

    Args:
        statistics: gives what the base method needs of the real data.
        processes: they share the work and return the same.
    """
    s = settings
    missed = _missed(context, chains, processes)
    log.info("chains of stage %d get %.1f %% of the real images right", context.stage, 100 - 100 * missed.mean())
    probability = (1 + s.missed_weight * missed) / (1 + s.missed_weight)
    drawn = (context.key / "missed").uniform(len(missed))
    rows = kept_rows(np.maximum(drawn - probability, 0), context.train.labels, LEAST)
    if len(rows) < len(missed):
        context = narrowed(context, rows)
    request = statistics(context)
    if shard.kind == "start" or request is None:
        return context
    tuned = _Tuned(s.tune_epochs, s.tune_lr, request, context, chains)
    context = replace(context, observers=ModelPool([*context.observers, *tuned.members(processes)]))
    return replace(context, statistics=_statistics(context, request, chains, tuned, processes))


def _missed(context: Context, chains: ChainedNetworks, processes: Processes) -> np.ndarray:
    """Share of the chains that misclassify each un-augmented real image: float64 [n] in [0, 1]."""
    train, folder = context.train, chains.folder / fingerprint([chains.fingerprint, context.train.fingerprint])

    def look(number: int, place: Path) -> None:
        network = chains.numbered(number, chains.key)
        parts = [
            predict(network, images, context.device, size=train.image_size).argmax(1) != labels
            for _, images, labels in train.batches(1024)
        ]
        save_tensors(place, {"missed": torch.cat(parts)})

    places = _each(folder, "missed", chains.count, processes, look)
    return torch.stack([load_tensors(place)[0]["missed"] for place in places]).double().mean(0).numpy()


class _Tuned:
    """Chains after a little training on the stage's real images, kept in a folder of their own."""

    def __init__(
        self, epochs: int, lr: float, request: StatisticsRequest, context: Context, chains: ChainedNetworks
    ) -> None:
        self.epochs, self.lr, self.policy = epochs, lr, request.policy
        self.context, self.chains = context, chains
        parts = [OBSERVERS_VERSION, chains.fingerprint, context.train.fingerprint, epochs, lr, request.policy]
        self.folder = chains.folder / fingerprint([*parts, context.flip])

    def members(self, processes: Processes) -> list[PoolMember]:
        """One a chain, frozen on the device."""
        places = _each(self.folder, "tuned", self.chains.count, processes, self._tune)
        return [self._member(number, place) for number, place in enumerate(places)]

    def _tune(self, number: int, place: Path) -> None:
        context, key, state = self.context, self.chains.key / number / "tune", place.with_suffix(".fit")
        train, network = context.train, self.chains.numbered(number, self.chains.key)
        views = training_policy(SqueezeSettings(), context.image_size, train.stored_size, context.flip)
        if self.epochs:
            recipe = FitRecipe(self.epochs, self.lr, schedule="cosine")
            with Progress(f"tune chain {number}", self.epochs, show=False) as bar:
                train_on(network, recipe, BATCH, train, views, key, context.device, bar, state)
        recalibrate(network, train, self.policy, key / "recalibration", context.device)
        keep(network, place)
        shutil.rmtree(state, ignore_errors=True)

    def _member(self, number: int, place: Path) -> PoolMember:
        # a separate network, because all observers are in use at once
        model = copy.deepcopy(self.chains.numbered(number, self.chains.key))
        model.load_state_dict(load_tensors(place)[0])
        return PoolMember(
            f"chain {number}",
            model.to(self.context.device).freeze(),
            float("nan"),
            model.sha256(),
            model.source,
            epochs=self.epochs,
            parameters=model.parameter_count,
            image_size=self.context.image_size,
            kind="chain",
        )


def _statistics(
    context: Context, request: StatisticsRequest, chains: ChainedNetworks, tuned: _Tuned, processes: Processes
) -> list[RealStatistics]:
    """Statistics of the stage's real images in all observers, in one pass."""
    digests = [member.sha256 for member in context.observers]
    folder = tuned.folder / fingerprint([STATISTICS_VERSION, digests, request])
    places = [folder / f"{number:02d}.safetensors" for number in range(len(digests))]
    missing = not all(place.exists() for place in places)
    processes.wait()  # no process writes before all have seen which files exist
    if missing:
        models = context.observers.models
        write_statistics(
            places,
            models,
            context.train,
            request.policy,
            request.patch,
            chains.key / "statistics",
            context.device,
            mode=request.mode,
            kinds=request.kinds,
            processes=processes,
        )
        processes.wait()
    return [RealStatistics.load(place) for place in places]


def _each(folder: Path, name: str, count: int, processes: Processes, make: Callable[[int, Path], None]) -> list[Path]:
    """One file a chain, in their order; missing ones are made, each by one of the processes."""
    places = [folder / f"{name}-{number:05d}.safetensors" for number in range(count)]
    for number in processes.share(range(count)):
        if not places[number].exists():
            with one_at_a_time(places[number]):
                if not places[number].exists():
                    remove_leftovers(folder, places[number].name)
                    make(number, places[number])
    processes.wait()
    return places
