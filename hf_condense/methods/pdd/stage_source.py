"""The real images of a PDD stage: without easy ones, by how often they are forgotten (arXiv:1812.05159)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hf_condense.config import SqueezeSettings
from hf_condense.data.cache import cache_folder
from hf_condense.data.randomness import Key
from hf_condense.methods.pdd.settings import PDDSettings
from hf_condense.methods.pdd.stage import StageContext
from hf_condense.models.real_training import training_policy
from hf_condense.models.training import FitRecipe
from hf_condense.selection.dynamics import training_dynamics
from hf_condense.selection.scores import forgetting

LEAST = 64  # real images that every class keeps
LR, BATCH = 0.05, 128  # of the training in which forgetting is counted


def harder(settings: PDDSettings, context: StageContext, least: int, key: Key) -> StageContext:
    """`context` with the real images that its stage keeps (`--discard`): all methods' draws come from these.

    Args:
        least: images that every class keeps, those nearest to what is asked for where fewer are.
        key: names the training in which forgetting is counted, the same for all stages.
    """
    low = settings.discard_interval * (context.stage - 1)
    last = settings.discard == "drop_easy" or context.stage == settings.stages
    high = math.inf if last else low + settings.discard_interval
    if settings.discard == "none" or (low, high) == (0, math.inf):
        return context
    counts = forgetting_counts(context, settings.discard_epochs, key)
    outside = np.maximum(low - counts, 0) + np.where(counts >= high, counts - high + 1, 0)
    return narrowed(context, kept_rows(outside, context.train.labels, max(LEAST, least)))


def forgetting_counts(context: StageContext, epochs: int, key: Key) -> np.ndarray:
    """How often each real image is forgotten in `epochs` of training, int64 [n]; epochs + 1 where it is never learned."""
    train, name = context.train, context.fresh.name
    policy = training_policy(SqueezeSettings(), context.image_size, train.stored_size, context.flip)
    dynamics = training_dynamics(
        name,
        FitRecipe(epochs, LR),
        BATCH,
        train,
        policy,
        key=key / name,
        device=context.device,
        cache_folder=cache_folder(),
    )
    return forgetting(dynamics.correct).clamp(max=epochs + 1).numpy().astype(np.int64)


def kept_rows(outside: np.ndarray, labels: np.ndarray, least: int) -> np.ndarray:
    """Rows [m], ascending, of the selected images; classes with fewer than `least` are filled with the nearest others.

    Args:
        outside: distance of each image from the selection, [n]; 0 for selected ones.
        labels: class of each, int64 [n].
    """
    limits = np.zeros(labels.max() + 1)
    for c in np.unique(labels):
        ranked = np.sort(outside[labels == c])
        limits[c] = ranked[min(least, len(ranked)) - 1]
    return np.flatnonzero(outside <= limits[labels])


def unused(context: StageContext, used: np.ndarray, least: int) -> StageContext:
    """`context` without the real images of these rows, but for classes that then had fewer than `least`."""
    was_used = np.isin(context.real_rows if context.real_rows is not None else np.arange(len(context.train)), used)
    return narrowed(context, kept_rows(was_used, context.train.labels, least))


def narrowed(context: StageContext, rows: np.ndarray) -> StageContext:
    """`context` with only these rows of its real images."""
    known = rows if context.real_rows is None else context.real_rows[rows]
    return replace(context, train=context.train.subset(rows), real_rows=known)
