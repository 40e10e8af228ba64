"""Networks evaluated as one stack give what each gives by itself: logits, moments and gradients in the images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models.loading import load_model
from hf_condense.models.stacked import Stacked
from hf_condense.models.statistics import collect_statistics, running_statistics
from hf_condense.models.taps import Taps
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.objectives.stacked_statistics import StackedStatistics

torch.set_num_threads(1)
MATCHING = MatchingSettings(alpha=1.0, stat_momentum=0.0, flatness_weight=0.0, match_weight=1.0)


def network(name: str, seed: int) -> nn.Module:
    """With running statistics that differ from layer to layer and from network to network."""
    model = load_model(name, ImageSpec(num_classes=5, image_size=16, mean=(0.4,), std=(0.2,)), key=Key(seed))
    stream = Key(seed, "norms").numpy()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.from_numpy(stream.normal(0, 0.3, layer.num_features)))
            layer.running_var.copy_(torch.from_numpy(stream.uniform(0.5, 2, layer.num_features)))
    return model.freeze().double()  # rounding of single precision would move activations across the kink of a ReLU


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return images, torch.arange(6) % 5


@pytest.mark.parametrize("name", ["cifar_wrn16_2", "test_byobnet"])
@pytest.mark.parametrize("members", [[0, 1, 2], [2, 0]])
def test_a_stack_equals_its_networks_one_by_one(name, members):
    models = [network(name, seed) for seed in range(3)]
    stack = Stacked(models)
    images, _ = batch()
    together, alone = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
    logits, first, second = stack(together, members)
    weights = torch.linspace(-1, 1, first.numel()).view_as(first)
    (logits.sin().sum() + (weights * (second - first**2)).sum()).backward()
    for place, number in enumerate(members):
        with Taps(models[number], 1, ("norm",)) as taps:
            one = models[number](alone)
            moments = taps.collect()
        (one.sin().sum() + (weights[place] * (moments[1] - moments[0] ** 2)).sum()).backward()
        torch.testing.assert_close(logits[place], one, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip((first[place], second[place]), moments):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-9, atol=1e-12)
    assert not any(layer._forward_pre_hooks for layer in models[0].modules())
    assert all(p.grad is None for model in models for p in model.parameters())


@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_the_objective_does_not_change(per_step):
    models = [network("cifar_wrn16_2", seed) for seed in range(3)]
    images, labels = batch()
    policy = ViewPolicy(16, crop=(0.3, 1.0), roll=2, per="batch")
    found = []
    for kind in (FeatureStatistics, StackedStatistics):
        statistics = [running_statistics(model, images, 5) for model in models]
        objective = kind(models, statistics, MATCHING, policy, turns="shuffled", per_step=per_step)
        objective.start(None, images, labels, Key(0, "shard"))
        losses, gradients = [], []
        for step in range(3):
            leaf = images.clone().requires_grad_(True)
            total = 0.0
            for term in objective.terms(leaf, labels, step, Key(0, "shard", "step", step)):
                term.loss.backward()
                total += float(term.loss.detach())
            objective.after(leaf, step, Key(0))
            losses.append(total)
            gradients.append(leaf.grad)
        found.append((losses, torch.stack(gradients)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-9, atol=1e-12)


def test_what_does_not_stack_is_said():
    with pytest.raises(ModelError, match="member 1.*equal shapes.*--stacked"):
        Stacked([network("cifar_wrn16_2", 0), network("test_byobnet", 1)])
    models = [network("convnet_w32", seed) for seed in range(2)]

    class Source:
        image_size, num_classes, labels = 16, 5, batch()[1].numpy()

        def images(self, rows):
            return (255 * batch()[0][rows]).to(torch.uint8)

    statistics = collect_statistics(models, Source(), None, 4, Key(0), torch.device("cpu"))
    objective = StackedStatistics(models, statistics, replace(MATCHING, patch=4))
    with pytest.raises(ModelError, match="BatchNorms"):
        objective.start(None, *batch(), Key(0))
