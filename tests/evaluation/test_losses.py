import math
import operator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hf_condense.errors import ConfigError
from hf_condense.evaluation.losses import gift, kl, mixed_ce, mse_gt, protocol_loss, soft_ce
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.labels.views import slices
from hf_condense.models.training import Batch


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return Batch(
        torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 1]), torch.tensor([1, 2, 3, 0]), 0.7, torch.randn(4, 3)
    )


@pytest.fixture
def logits():
    torch.manual_seed(1)
    return torch.randn(4, 3, dtype=torch.float64)


def test_kl_is_the_batch_mean_of_the_sum_over_classes(logits, batch):
    p, q = (batch.soft.double() / 4).softmax(1), (logits / 4).softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean()
    assert kl(logits, batch.soft, 4.0).item() == pytest.approx(expected.item(), rel=1e-4)
    assert kl(logits, batch.soft, 4.0, squared=True).item() == pytest.approx(16 * expected.item(), rel=1e-4)
    assert kl(batch.soft, batch.soft, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_kl_gradients_keep_their_size_with_the_squared_factor(logits, batch):
    def size(temperature, squared):
        x = logits.clone().requires_grad_()
        kl(x, batch.soft, temperature, squared).backward()
        return x.grad.norm().item()

    assert size(50.0, True) == pytest.approx(size(100.0, True), rel=0.02)
    assert size(50.0, False) == pytest.approx(4 * size(100.0, False), rel=0.02)


def test_mse_gt_averages_over_all_elements_and_takes_un_mixed_classes(logits, batch):
    squares = sum((logits[i, c] - batch.soft[i, c]) ** 2 for i in range(4) for c in range(3)) / 12
    expected = squares + 0.025 * F.cross_entropy(logits, batch.labels)
    assert mse_gt(logits, batch.soft, batch.labels, 0.025).item() == pytest.approx(expected.item(), rel=1e-5)


def test_soft_ce_is_kl_plus_the_entropy_of_the_teacher(logits, batch):
    p = (batch.soft / 2).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    assert soft_ce(logits.float(), batch.soft, 2.0).item() == pytest.approx(
        (kl(logits.float(), batch.soft, 2.0) + entropy).item(), rel=1e-5
    )


def test_mixed_images_have_two_hard_labels_weighted_by_area(logits, batch):
    partner = batch.labels[batch.partner]
    expected = 0.7 * F.cross_entropy(logits, batch.labels) + 0.3 * F.cross_entropy(logits, partner)
    assert mixed_ce(logits, batch).item() == pytest.approx(expected.item())
    assert mixed_ce(logits, batch).item() != pytest.approx(F.cross_entropy(logits, batch.labels).item())


def test_hard_labels_of_a_slice_are_refused_rather_than_wrong(logits, batch):
    part = next(slices(batch, 2))
    with pytest.raises(ConfigError, match="whole batches"):
        mixed_ce(logits[:2], part)


def test_a_protocol_chooses_its_loss(logits, batch):
    logits = logits.float()
    edc, sre2l, tiny = (get_protocol(n) for n in ("edc-cifar10", "sre2l-in1k", "sre2l-tiny"))
    assert torch.equal(protocol_loss(edc, "online")(logits, batch), mse_gt(logits, batch.soft, batch.labels, 0.025))
    assert torch.equal(protocol_loss(sre2l, "stored")(logits, batch), kl(logits, batch.soft, 20.0))
    assert torch.equal(protocol_loss(tiny, "online")(logits, batch), 400 * kl(logits, batch.soft, 20.0))
    for protocol in (edc, sre2l, tiny):
        assert torch.equal(protocol_loss(protocol, "hard")(logits, batch), mixed_ce(logits, batch))


def test_gift_is_one_minus_the_cosine_to_the_refined_label(logits, batch):
    soft, expected = batch.soft.double(), 0.0
    for student, teacher, own in zip(logits.tolist(), soft.tolist(), batch.labels.tolist()):
        hard = [0.9 if c == own else 0.05 for c in range(3)]
        long, wide = math.hypot(*teacher), math.hypot(*hard)
        refined = [t / long + 0.1 * h / wide for t, h in zip(teacher, hard)]
        expected += 1 - sum(map(operator.mul, student, refined)) / math.hypot(*student) / math.hypot(*refined)
    assert gift(logits, soft, batch.labels, 0.1, 0.1).item() == pytest.approx(expected / 4, rel=1e-12)


def test_gift_knows_no_scale_and_ranges_from_0_to_2(logits, batch):
    soft = batch.soft.double()
    value = gift(logits, soft, batch.labels, 0.1, 0.1)
    assert gift(7 * logits, 30 * soft, batch.labels, 0.1, 0.1).item() == pytest.approx(value.item(), rel=1e-12)
    assert gift(soft, soft, batch.labels, 0.0, 0.1).item() == pytest.approx(0, abs=1e-12)
    assert gift(-soft, soft, batch.labels, 0.0, 0.1).item() == pytest.approx(2, rel=1e-12)


def test_gift_with_much_weight_on_hard_labels_forgets_the_teacher(logits, batch):
    hard = F.one_hot(batch.labels, 3).double()
    expected = 1 - F.cosine_similarity(logits, hard, dim=1).mean()
    assert gift(logits, batch.soft, batch.labels, 1e9, 0.0).item() == pytest.approx(expected.item(), abs=1e-8)
    assert torch.autograd.gradcheck(
        lambda x: gift(x, batch.soft.double(), batch.labels, 0.1, 0.1), logits.clone().requires_grad_()
    )


def test_smoothed_hard_labels_of_mixed_images_are_one_smoothed_distribution(logits, batch):
    one_hot = F.one_hot(batch.labels, 3).double()
    target = 0.2 * (0.7 * one_hot + 0.3 * one_hot[batch.partner]) + 0.8 / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert mixed_ce(logits, batch, 0.8).item() == pytest.approx(expected.item(), rel=1e-12)
    assert mixed_ce(logits, batch, 0.0).item() == mixed_ce(logits, batch).item()


def test_batches_without_soft_labels_are_the_hard_epochs_of_a_protocol(logits, batch):
    logits, hard = logits.float(), replace(batch, soft=None)
    gifted, phased = get_protocol("small-gift"), get_protocol("small-hald")
    assert torch.equal(
        protocol_loss(gifted, "stored")(logits, batch), gift(logits, batch.soft, batch.labels, 0.1, 0.1)
    )
    loss = protocol_loss(phased, "stored")
    assert torch.equal(loss(logits, batch), mse_gt(logits, batch.soft, batch.labels, 0.025))
    assert torch.equal(loss(logits, hard), mixed_ce(logits, hard, 0.8))
    assert torch.equal(protocol_loss(phased, "hard")(logits, hard), mixed_ce(logits, hard))
