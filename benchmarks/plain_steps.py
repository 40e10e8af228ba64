"""Steps of methods in the plain formulation: everything but the terms of the loss is the library's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain import PlainHook, plain_targets
from benchmarks.plain_matching import plain_distribution, plain_gradient
from hf_condense.data.augmentation import apply_views, draw_views
from hf_condense.objectives.base import Term
from hf_condense.objectives.distribution_matching import DistributionMatching
from hf_condense.objectives.feature_statistics import FeatureStatistics, flatness_term
from hf_condense.objectives.formation_matching import FormationMatching
from hf_condense.objectives.gradient_matching import GradientMatching
from hf_condense.objectives.joining import JoiningStatistics
from hf_condense.objectives.trajectory import TrajectoryMatching
from hf_condense.shard_optimiser import ShardOptimiser

Terms = Callable[..., Iterator[Term]]


def plainly(work: ShardOptimiser) -> ShardOptimiser | None:
    """`work` with plain terms; None for objectives that have no plain formulation here (IDC's, DELT's and LGM's)."""
    objective = work.objective
    if isinstance(objective, FeatureStatistics) and not isinstance(objective, JoiningStatistics):
        terms = statistics_terms(objective, work)
    elif isinstance(objective, DistributionMatching) and objective.sampler is None:
        terms = distribution_terms(objective)
    elif isinstance(objective, GradientMatching) and not isinstance(objective, FormationMatching):
        terms = gradient_terms(objective)
    elif isinstance(objective, TrajectoryMatching):
        objective.segments = replace(objective.segments, gradient="unroll")
        return work
    else:
        return None
    objective.terms = terms
    return work


def statistics_terms(objective: FeatureStatistics, work: ShardOptimiser) -> Terms:
    """A hook a layer, its norms added one by one; the views of each batch resampled for themselves."""
    settings, labels = objective.settings, work.labels.cpu()
    patch = settings.patch_side(work.z.shape[-1])
    anchors = [copy.deepcopy(model) for model in objective.observers]  # without hooks
    hooks = []
    for model, found in zip(objective.observers, objective.statistics) if settings.match_weight else ():
        modules, layout = dict(model.named_modules()), found.layout
        whole = found.global_moments()
        classes = found.class_targets(labels) if settings.alpha < 1 else whole  # which then have no weight
        aims = [[t.to(work.z) for t in aim] for aim in (whole, classes)]
        hooks.append(
            [
                PlainHook(
                    modules[name],
                    patch,
                    [plain_targets(layout, *aim, name) for aim in aims],
                    settings.alpha,
                    settings.stat_momentum,
                )
                for name in layout.layers
            ]
        )

    def terms(images: Tensor, labels: Tensor, step: int, key) -> Iterator[Term]:
        policy = objective._policy(step)

        def seen(batch: Tensor) -> Tensor:
            views = policy and draw_views(policy, key / "view", len(batch), *batch.shape[-2:])
            return apply_views(batch, views, policy) if policy else batch

        for turn, k in enumerate(objective.whose_turn()):
            shown = seen(images)
            logits = objective.logits(objective.observers[k], shown)
            loss = objective.ce_weight * F.cross_entropy(logits, labels)
            if hooks:
                first, *others = (hook.loss for hook in hooks[k])
                loss = loss + settings.match_weight * (settings.first_layer_weight * first + sum(others))
            if objective.flat_images is not None:
                anchor = anchors[k](seen(objective.flat_images))
                loss = loss + settings.flatness_weight * flatness_term(logits, anchor, settings)
            if objective.diversity:
                loss = loss + objective.diversity(k, objective.seen, objective.class_rows)
            if objective.extra and not turn:
                loss = loss + objective.per_step * sum(objective.extra(shown, labels).values())
            yield Term(objective.weighted(loss, turn), "plain")

    return terms


def distribution_terms(objective: DistributionMatching) -> Terms:
    """Two forward passes a class."""

    def terms(images: Tensor, labels: Tensor, step: int, key) -> Iterator[Term]:
        key = objective.key / "step" / step
        draw, views = objective.views.draw(key / "siamese"), objective.views
        network = objective._network(step)
        found = plain_distribution(network, views, images, labels, draw, objective.real_batch, key / "real")
        yield Term(found, "plain")

    return terms


def gradient_terms(objective: GradientMatching) -> Terms:
    """Gradients of all parameters, and one way back for all classes. The network is trained as the library does it."""

    def terms(images: Tensor, labels: Tensor, step: int, key) -> Iterator[Term]:
        number, turn = divmod(step, objective.loops.outer)
        if turn == 0:
            objective._network = objective._begun(number)
        else:
            objective._train(images.detach(), labels, step, key / "train")
        objective._fix_norms(key / "norms")
        draw, views = objective.views.draw(key / "siamese"), objective.views
        network = objective._network.requires_grad_(True)
        found = plain_gradient(network, views, images, labels, draw, objective.loops.real_batch, key / "real")
        yield Term(found, "plain")

    return terms
