"""Recalibration: statistics by hand, what is left alone, and that it mends a pruned network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hf_condense.config import DataSettings, SqueezeSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.models.image_model import ImageModel
from hf_condense.models.pool import PoolTraining
from hf_condense.models.pruning import prune
from hf_condense.models.recalibration import BATCH, recalibrate
from hf_condense.models.statistics import running_statistics
from hf_condense.models.taps import Taps
from hf_condense.models.training import evaluate_top1

CPU = torch.device("cpu")
KEY = Key(0, "recalibration")
PLAIN = ViewPolicy(size=8, flip=0.0)


class Pixels:
    """Made-up images."""

    image_size = 8

    def __init__(self, count, seed=0):
        self.all = torch.from_numpy(Key(seed).numpy().integers(0, 256, (count, 1, 8, 8), np.uint8))

    def __len__(self):
        return len(self.all)

    def images(self, rows):
        return self.all[torch.as_tensor(rows)]


def small(dtype=torch.float64):
    layers = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    torch.manual_seed(0)
    for p in layers.parameters():
        nn.init.normal_(p, std=0.5)
    return ImageModel(layers, num_classes=10, channels=1, in_chans=1).to(dtype)


@pytest.mark.parametrize("policy", [None, PLAIN])
def test_two_batches_by_hand(policy):
    model, source = small(torch.float32), Pixels(2 * BATCH)
    assert recalibrate(model, source, policy, KEY, CPU) == 2
    order = (KEY / "rows").permutation(len(source))
    means, variances = [], []
    for rows in (order[:BATCH], order[BATCH:]):
        z = model.backbone[0]((source.images(rows).float() / 255 - model.mean) / model.std).double()
        means.append(z.mean((0, 2, 3)))
        variances.append(z.var((0, 2, 3)))
    norm = model.backbone[1]
    torch.testing.assert_close(norm.running_mean.double(), sum(means) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), sum(variances) / 2, rtol=1e-5, atol=0)


def test_only_the_statistics_change_and_no_other_layer_trains():
    model = small(torch.float32)
    model.backbone[1].momentum = 0.3
    seen = []
    model.backbone[3].register_forward_hook(lambda m, *_: seen.append(m.training))
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, Pixels(40), PLAIN, KEY, CPU)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"backbone.{i}.{name}" for i in (1, 5) for name in statistics}
    assert seen == [False] and not any(m.training for m in model.modules())
    assert (model.backbone[1].momentum, model.backbone[5].momentum) == (0.3, 0.1)
    assert recalibrate(ImageModel(nn.Conv2d(1, 2, 3), num_classes=2, channels=1), Pixels(4), None, KEY, CPU) == 0


def test_equal_keys_give_equal_statistics():
    policy = ViewPolicy(size=8, crop=(0.3, 1.0), flip=0.5, per="batch", mix="cutmix")
    made = []
    for key in (KEY, KEY, KEY / 1):
        model = small(torch.float32)
        torch.rand(3)  # the global stream does not count
        recalibrate(model, Pixels(200), policy, key, CPU, images=150)
        made.append(model.sha256())
    assert made[0] == made[1] != made[2]


def tap(model, images) -> float:
    """Distance between what the BatchNorms remember and what they see."""
    with torch.no_grad(), Taps(model, patch=1, kinds=("norm",)) as taps:
        model(images)
        first, second = (m.double() for m in taps.collect())
        mean, var = taps.running_statistics()
    found = [
        ((a - b)[s.start : s.stop]).norm()
        for a, b in ((first, mean), (second - first**2, var))
        for s in taps.layout.segments
    ]
    return float(sum(found))


def test_the_batch_of_the_statistics_is_matched_and_another_is_not():
    digits = open_source(DataSettings(dataset="digits"), Key(0)).train
    model, rows = small(torch.float32), (KEY / "rows").permutation(len(digits))
    recalibrate(model, digits, None, KEY, CPU, images=100)  # one batch
    one, other = (digits.images(r).float() / 255 for r in (rows[:100], rows[100:200]))
    assert tap(model, one) <= 0.01 * tap(model, other)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert running_statistics(model, one, 10) is not None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    digits = open_source(DataSettings(dataset="digits", max_per_class=60, max_test=200), Key(0))
    settings = SqueezeSettings(base_model=("cifar_wrn16_2",), squeeze_epochs=5, squeeze_batch=32)
    training = PoolTraining(
        settings,
        digits.train,
        digits.test,
        8,
        Key(0),
        CPU,
        tmp_path_factory.mktemp("cache"),
        flip=False,
        progress=False,
    )
    return digits, training.member("cifar_wrn16_2")


def test_it_mends_a_pruned_network_and_harms_no_trained_one(trained):
    digits, member = trained
    policy = ViewPolicy(size=8, pad=1, flip=0.0)

    def top1(model) -> float:
        return evaluate_top1(model, digits.test.decoded(), torch.from_numpy(digits.test.labels), CPU)

    def gains(model, sign=1) -> float:
        model, before = copy.deepcopy(model), top1(model)
        recalibrate(model, digits.train, policy, KEY, CPU)
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean *= sign
        return top1(model) - before

    pruned = prune(member.model, 0.3, Key(1), image_size=8)
    assert gains(pruned) >= 0.03 and gains(member.model) >= -0.005
    assert gains(pruned, -1) < 0.03 and gains(member.model, -1) < -0.005, "means with the opposite sign mend nothing"
