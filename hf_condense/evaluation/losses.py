"""Losses of students: pure functions of logits, and the choice between them by protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.errors import ConfigError
from hf_condense.models.training import Batch

if TYPE_CHECKING:
    from hf_condense.evaluation.protocol import Protocol

Loss = Callable[[Tensor, Batch], Tensor]


def kl(logits: Tensor, soft: Tensor, temperature: float, squared: bool = False) -> Tensor:
    """KL(teacher || student) of softened distributions, summed over classes, averaged over images (SRe2L, Eq. 8).

    Args:
        logits: the student's [b, K].
        soft: the teacher's logits [b, K], before temperature.
        temperature: divides both.
        squared: times temperature squared, which keeps gradients as large as at temperature 1 (SRe2L's
            Tiny-ImageNet script does, its ImageNet-1k script does not).
    """
    student = F.log_softmax(logits / temperature, 1)
    teacher = F.log_softmax(soft.float() / temperature, 1)
    value = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return value * temperature**2 if squared else value


def mse_gt(logits: Tensor, soft: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean squared distance to the teacher's logits over all b x K elements, plus gamma times the cross-entropy to
    the class of each image's own content, whatever was mixed in (G-VBSM, arXiv:2311.17950; EDC, arXiv:2404.13733)."""
    return F.mse_loss(logits, soft.float()) + gamma * F.cross_entropy(logits, labels)


def soft_ce(logits: Tensor, soft: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy to the teacher's softened distribution; `soft` are logits [b, K]."""
    return F.cross_entropy(logits / temperature, (soft.float() / temperature).softmax(1))


def gift(logits: Tensor, soft: Tensor, labels: Tensor, gamma: float, smoothing: float) -> Tensor:
    """One minus the cosine between the student's logits and refined labels, averaged over images (GIFT, arXiv:2405.14736).

    Its gradient does not depend on the size of the teacher's logits, which is why one rate fits many optimisers.

    Args:
        logits: the student's [b, K].
        soft: the teacher's logits [b, K], before temperature.
        labels: class of each image's own content, int64 [b], whatever was mixed in.
        gamma: length of the smoothed hard label that is added to the soft one of length 1.
        smoothing: of the hard label: the share that all other classes get together.
    """
    wrong = smoothing / (logits.shape[1] - 1)
    hard = torch.full_like(logits, wrong).scatter(1, labels[:, None], 1 - smoothing)
    refined = F.normalize(soft.to(logits.dtype), dim=1) + gamma * F.normalize(hard, dim=1)
    return 1 - F.cosine_similarity(logits, refined, dim=1).mean()


def mixed_ce(logits: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy to hard labels; of a mixed image, to both its classes, each weighted by its share.

    Args:
        smoothing: share of each label that goes to all K classes alike.

    Raises:
        ConfigError: the batch is a slice of a mixed one, so its partners' classes are not in it.
    """
    own = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    if batch.lam == 1:
        return own
    if batch.partner is None:
        raise ConfigError(
            "batch_size", len(batch.labels), "the stored batch size", "replay whole batches to train on hard labels"
        )
    other = F.cross_entropy(logits, batch.labels[batch.partner], label_smoothing=smoothing)
    return batch.lam * own + (1 - batch.lam) * other


def protocol_loss(protocol: Protocol, regime: str) -> Loss:
    """(logits, batch) -> loss. With hard labels always `mixed_ce`, whatever the protocol does with soft ones.

    Where a protocol has epochs of hard labels (`hard_share`), their batches are those without soft ones.
    """
    if regime == "hard":
        return mixed_ce
    p = protocol
    soft: Loss = {
        "kl": lambda logits, batch: kl(logits, batch.soft, p.temperature, p.temperature_squared),
        "mse_gt": lambda logits, batch: mse_gt(logits, batch.soft, batch.labels, p.gamma),
        "gift": lambda logits, batch: gift(logits, batch.soft, batch.labels, p.gamma, p.label_smoothing),
        "soft_ce": lambda logits, batch: soft_ce(logits, batch.soft, p.temperature),
        "ce": mixed_ce,
    }[p.loss]
    if not p.hard_share:
        return soft
    return lambda logits, batch: (
        mixed_ce(logits, batch, p.label_smoothing) if batch.soft is None else soft(logits, batch)
    )
