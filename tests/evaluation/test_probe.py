"""Linear probes: features once against step by step, reproducible heads, class means, centroids, and their rows in tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError, ModelError
from hf_condense.evaluation import probe as probing
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.probe import Probed, centroid_rows, class_means, nearest_mean, shows_whole_images
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.evaluation.students import StudentScorer
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import FeatureHead, head_of, load_student, new_head, short_name

CPU = torch.device("cpu")
SPEC = ImageSpec(num_classes=3, image_size=8, channels=1, mean=(0.5,), std=(0.25,))


@pytest.fixture
def backbone(model):
    return model(3, "convnet_d1").freeze()


@pytest.fixture
def probed(backbone, data):
    x, y = data(60, 2)
    return Probed("probe:net", backbone, 8, CPU, 3, x, y)


def test_which_protocols_show_whole_images():
    assert shows_whole_images(get_protocol("probe-fast")) and not shows_whole_images(get_protocol("probe"))
    for change in (
        {"pad": 1},
        {"flip": 0.5},
        {"crop": (0.5, 1.0)},
        {"mix": "mixup"},
        {"shuffle": 2},
        {"siamese": ("flip",)},
    ):
        assert not shows_whole_images(get_protocol("probe-fast", **change)), change


@pytest.mark.parametrize("regime", ["hard", "stored", "online"])
@pytest.mark.parametrize(
    "changes", [{}, {"batch": 4, "loss": "mse_gt", "gamma": 0.1, "ema": 0.9, "schedule": "constant"}]
)
def test_features_once_give_what_every_step_gives(probed, data, model, regime, changes):
    x, y = data(11, 1)
    protocol, teacher = get_protocol("probe-fast", steps=30, **changes), Ensemble([model(7)])
    soft = teacher.soft_labels(x, CPU)
    labelled = {"soft": soft if regime == "stored" else None, "teacher": teacher if regime == "online" else None}
    found, backbones = TrainingSet(x, y, regime, **labelled), {"net": probed.backbone}
    fast = probed.train(found, protocol, Key(1))
    scorer = StudentScorer(protocol, SPEC, probed.test_images, probed.test_labels, CPU, backbones=backbones)
    slow = scorer.train("probe:net", found, Key(1))
    assert (fast.top1, fast.steps) == (slow.top1, slow.steps)
    assert np.array_equal(fast.predictions, slow.predictions) and len({*fast.predictions.tolist()}) > 1
    assert regime != "hard" or fast.top1 > 0.5


def test_a_head_learns_what_can_be_told_apart_and_seeds_give_equal_heads(probed, data, monkeypatch):
    x, y = data(3, 1)
    monkeypatch.setattr(probing, "features", lambda backbone, images, size, device: torch.eye(3)[y])
    monkeypatch.setattr(probing, "new_head", lambda backbone, key: narrow(key))
    probed = Probed("probe:net", probed.backbone, 8, CPU, 3, x, y)

    def narrow(key):
        return new_head(ImageModel(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), num_classes=3, channels=1), key)

    protocol = get_protocol("probe-fast", steps=60)
    assert probed.train(TrainingSet(x, y), protocol, Key(1)).top1 == 1


def test_only_the_head_is_trained_and_its_draw_follows_from_the_key(backbone):
    first, again, other = (new_head(backbone, Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(head_of(first).weight, head_of(again).weight)
    assert not torch.equal(head_of(first).weight, head_of(other).weight)
    assert abs(head_of(first).weight.std() - 0.01) < 2e-3 and not head_of(first).bias.any()
    learned = {name for name, p in first.named_parameters() if p.requires_grad}
    assert len(learned) == 2 and all(name.startswith("backbone.") for name in learned)
    assert not any(module.training for module in first.train().modules()), "norms and dropout stay as they are"
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(FeatureHead(first)(embed(first, images)), first(images))
    assert torch.equal(embed(first, images), embed(backbone, images))


def test_a_larger_set_trained_as_if_smaller_takes_as_many_steps(probed, data):
    x, y = data(45, 4)
    protocol = get_protocol("probe-fast", steps=20)
    assert probed.train(TrainingSet(x, y, train_as_if_images=3), protocol, Key(1)).steps == 20
    batches = get_protocol("probe-fast", steps=None, epochs=4, batch=10)
    assert probed.train(TrainingSet(x, y, train_as_if_images=25), batches, Key(1)).steps == 12


def test_class_means_and_centroids():
    known = torch.tensor([[0.0, 0], [1, 0], [2, 0], [10, 0], [10, 2], [10, 9]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    means = class_means(known, labels, 2)
    torch.testing.assert_close(means, torch.tensor([[1.0, 0], [10, 11 / 3]]))
    assert nearest_mean(torch.tensor([[5.0, 0], [6.5, 0]]), means).argmax(1).tolist() == [0, 1]
    assert centroid_rows(known, labels.numpy(), 2, 1, Key(0)).tolist() == [1, 4]


def test_probes_stand_in_every_table(backbone, data, tmp_path):
    (x, y), (tx, ty) = data(30, 1), data(60, 2)

    def table(folder: str, name: str = "net"):
        rows = {
            "full": ImageSet(x, y),
            "class means": ImageSet(x, y, as_class_means=True),
            "random": ImageSet(x[:6], y[:6]),
        }
        return score(
            rows, protocol=get_protocol("probe-fast", steps=15), students=[f"probe:{name}", "convnet_w32"],
            regimes=["hard"], seeds=2, ipc=2, spec=SPEC, device=CPU, scores_folder=tmp_path / folder, key=Key(1),
            test_images=tx, test_labels=ty, backbones={name: backbone},
        )  # fmt: skip

    found = table("a")
    assert found.groups() == [
        ("full", "probe:net", "hard"), ("full", "convnet_w32", "hard"), ("class means", "probe:net", "hard"),
        ("random", "probe:net", "hard"), ("random", "convnet_w32", "hard"),
    ]  # fmt: skip
    width = embed(backbone, torch.zeros(1, 1, 8, 8)).shape[1]
    means = [c for c in found.cells if c["row"] == "class means"]
    assert {c["image_bytes"] for c in means} == {4 * 3 * width} and len({c["top1"] for c in means}) == 1
    assert "probe:net" in found.text()
    with torch.no_grad():
        next(backbone.parameters()).mul_(-1)
    assert len(list((tmp_path / "a" / "cells").iterdir())) == 10
    probing._features.cache_clear()
    table("a")
    assert len(list((tmp_path / "a" / "cells").iterdir())) == 16, "probes of other weights are other students"


def test_names_of_folders_are_short_in_tables(tmp_path, monkeypatch):
    assert (
        short_name(f"probe:{tmp_path}/nets/one") == short_name(f"probe:local-dir:{tmp_path}/nets/one") == "probe:one"
    )
    assert short_name("probe:hf-hub:org/net") == "probe:hf-hub:org/net" and short_name("org/net") == "org/net"


def test_what_cannot_be_probed_is_refused(tmp_path):
    with pytest.raises(ModelError, match="students='convnet_d1'.*published weights: none"):
        load_student("students", "probe:convnet_d1", SPEC, key=Key(0))
    two = ImageModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), num_classes=3, channels=1, name="two")
    two.backbone.pretrained_cfg = {"classifier": ("1", "1")}
    with pytest.raises(ModelError, match="two.*one last layer"):
        new_head(two, Key(0))
    with pytest.raises(ConfigError, match="students.*without the folders"):
        score(
            {"random": ImageSet(torch.zeros(3, 1, 8, 8), torch.arange(3))}, protocol=get_protocol("probe-fast"),
            students=["probe:/a/net", "probe:/b/net"], regimes=["hard"], seeds=1, ipc=1, spec=SPEC, device=CPU,
            scores_folder=tmp_path, key=Key(1), test_images=torch.zeros(3, 1, 8, 8), test_labels=torch.arange(3),
        )  # fmt: skip
