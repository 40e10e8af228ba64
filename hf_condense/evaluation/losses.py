"""What a student minimises: pure functions of its logits, and the choice a protocol makes between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from hf_condense.errors import ConfigError
from hf_condense.models.training import Batch

if TYPE_CHECKING:
    from hf_condense.evaluation.protocols import Protocol

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


def mixed_ce(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy to hard labels; of a mixed image, to both its classes, each weighted by its share.

    Raises:
        ConfigError: the batch is a slice of a mixed one, so its partners' classes are not in it.
    """
    own = F.cross_entropy(logits, batch.labels)
    if batch.lam == 1:
        return own
    if batch.partner is None:
        raise ConfigError(
            "batch_size", len(batch.labels), "the stored batch size", "replay whole batches to train on hard labels"
        )
    return batch.lam * own + (1 - batch.lam) * F.cross_entropy(logits, batch.labels[batch.partner])


def protocol_loss(protocol: Protocol, regime: str) -> Loss:
    """(logits, batch) -> loss. With hard labels always `mixed_ce`, whatever the protocol does with soft ones."""
    if regime == "hard" or protocol.loss == "ce":
        return mixed_ce
    if protocol.loss == "mse_gt":
        return lambda logits, batch: mse_gt(logits, batch.soft, batch.labels, protocol.gamma)
    if protocol.loss == "soft_ce":
        return lambda logits, batch: soft_ce(logits, batch.soft, protocol.temperature)
    return lambda logits, batch: kl(logits, batch.soft, protocol.temperature, protocol.temperature_squared)
