"""Soft labels train the loss that was asked for: in transformers' Trainer, with timm's loss, and in a plain loop."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.evaluation.losses import gift, kl, mse_gt
from hf_condense.evaluation.trainer_loss import soft_label_loss
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset


@pytest.fixture
def data(artefact, tmp_path):
    """12 images of three classes; its soft labels favour another class than the image's own in some rows."""
    write_artefact(tmp_path / "set", artefact())
    found = DistilledDataset.load(tmp_path / "set")
    assert (found.soft_labels.argmax(1) != found.labels).any()
    return found


def network(classes: int = 3) -> ViTForImageClassification:
    """Without batch norms and dropout, so that an image's logits do not depend on its batch."""
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=classes, initializer_range=0.5,
    )  # fmt: skip
    with keyed(Key(0, "vit")):
        return ViTForImageClassification(config)


def trained(model, folder, batch=12, accumulation=1, steps=1, lr=0.0, **given) -> Trainer:
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        logging_steps=1, learning_rate=lr, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
        max_grad_norm=0.0, optim="sgd", lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(model, args, **given)
    trainer.train()
    return trainer


def first_loss(trainer: Trainer) -> float:
    return trainer.state.log_history[0]["loss"]


def logits_of(data) -> torch.Tensor:
    with torch.no_grad():
        return network()(data.images.float() / 255).logits.double()


def cross_entropy(data) -> float:
    """Written out: minus the sum of p log q over classes, averaged over images."""
    z, p = logits_of(data).numpy(), data.soft_labels.double().numpy()
    log_q = z - np.log(np.exp(z).sum(1, keepdims=True))
    return float(-(p * log_q).sum(1).mean())


@pytest.mark.parametrize("batch, accumulation", [(12, 1), (6, 2), (5, 3)])
def test_first_loss_is_cross_entropy_to_the_soft_labels(data, tmp_path, batch, accumulation):
    trainer = trained(network(), tmp_path, batch, accumulation, **data.for_trainer())
    assert first_loss(trainer) == pytest.approx(cross_entropy(data), rel=2e-3)


def test_accumulated_batches_move_weights_as_one_batch(data, tmp_path):
    moved = []
    for batch, accumulation in ((12, 1), (4, 3)):
        model = network()
        trained(model, tmp_path, batch, accumulation, lr=0.1, **data.for_trainer("kl", temperature=2.0))
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    before = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert (moved[0] - before).norm() > 1e-3
    assert (moved[0] - moved[1]).norm() < 1e-4 * (moved[0] - before).norm()


def test_losses_of_the_protocols(data, tmp_path):
    z, soft = logits_of(data), data.soft_labels.double().log()
    soft = soft - soft.mean(1, keepdim=True)
    expected = {
        "kl": (kl(z, soft, 4.0), {"temperature": 4.0}),
        "mse_gt": (mse_gt(z, soft, data.labels, 0.1), {"gamma": 0.1}),
        "gift": (gift(z, soft, data.labels, 0.5, 0.2), {"gamma": 0.5, "label_smoothing": 0.2}),
    }
    for loss, (value, values) in expected.items():
        trainer = trained(network(), tmp_path, **data.for_trainer(loss, **values))
        assert first_loss(trainer) == pytest.approx(value.item(), rel=5e-3), loss
    values = data.training.protocol  # of the set: "small", squared distance and a little cross-entropy
    data.training.protocol = type(values)("taught", "", loss="mse_gt", gamma=0.1)
    assert first_loss(trained(network(), tmp_path, **data.for_trainer("recorded"))) == pytest.approx(
        expected["mse_gt"][0].item(), rel=5e-3
    )


def test_without_the_loss_trainer_fails_instead_of_training_another(data, tmp_path):
    wrong = trained(network(), tmp_path, train_dataset=data.torch_dataset(soft=True))
    assert abs(first_loss(wrong) - cross_entropy(data)) > 0.1, "transformers chooses binary cross-entropy by itself"
    with pytest.raises(ValueError, match="same"):
        trained(network(), tmp_path, train_dataset=data.for_trainer()["train_dataset"])


def test_a_test_set_of_class_numbers_is_scored_by_the_same_trainer(data, tmp_path):
    trainer = trained(network(), tmp_path, **data.for_trainer(), eval_dataset=data.torch_dataset())
    expected = F.cross_entropy(logits_of(data), data.labels).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_it_learns(data, tmp_path):
    trainer = trained(network(), tmp_path, steps=60, lr=0.3, **data.for_trainer())
    entropy = -(data.soft_labels.float() * data.soft_labels.float().log()).sum(1).mean().item()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] - entropy < 0.6 * (losses[0] - entropy), "the divergence from the soft labels falls"


def test_timms_loss_and_a_plain_loop_see_the_same(data):
    """As timm's train.py does: SoftTargetCrossEntropy over a loader."""
    loader = torch.utils.data.DataLoader(data.torch_dataset(soft=True), batch_size=12)
    batch = next(iter(loader))
    assert torch.allclose(batch["labels"].sum(1), torch.ones(12), atol=2e-3)
    output = network()(batch["pixel_values"]).logits
    for loss in (SoftTargetCrossEntropy(), nn.CrossEntropyLoss(), soft_label_loss()):
        assert loss(output, batch["labels"]).item() == pytest.approx(cross_entropy(data), rel=2e-3)


def test_logits_as_soft_labels_become_probabilities(artefact, tmp_path):
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).mul(4).half()
    kind = {"kind": "logits", "temperature": None, "ensemble": "logits"}
    write_artefact(tmp_path / "set", artefact(soft_labels=logits, soft_label_kind=kind))
    data = DistilledDataset.load(tmp_path / "set")
    given = torch.stack([item["labels"] for item in data.torch_dataset(soft=True)])
    assert torch.allclose(given, logits.float().softmax(1))


def test_what_a_loss_cannot_take_is_refused(data, artefact, tmp_path):
    with pytest.raises(ConfigError, match="soft_ce, kl, mse_gt, gift"):
        data.for_trainer("bce")
    with pytest.raises(ConfigError, match="the class number last, which mse_gt needs.*for_trainer"):
        soft_label_loss("mse_gt", gamma=0.1)(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    with pytest.raises(ConfigError, match=r"labels=\(2, 5\)"):
        soft_label_loss()(torch.zeros(2, 3), torch.zeros(2, 5))
    wide = torch.cat([torch.full((2, 1000), 1e-3), torch.full((2, 1), 999.0)], 1)
    assert math.isfinite(soft_label_loss("mse_gt", gamma=0.1)(torch.zeros(2, 1000), wide))
    with pytest.raises(ConfigError, match="shorter numbers do not hold the class"):
        soft_label_loss("mse_gt", gamma=0.1)(torch.zeros(2, 1000), wide.bfloat16())
    write_artefact(tmp_path / "bare", artefact(soft_labels=None, soft_label_kind=None))
    with pytest.raises(ArtefactError, match="no soft labels"):
        DistilledDataset.load(tmp_path / "bare").for_trainer()
