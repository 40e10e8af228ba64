"""The losses against soft labels for transformers' Trainer, which would choose one by the type of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.config import check
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.protocol import Protocol
from hf_condense.labels.replay import as_logits
from hf_condense.models.training import Batch

SoftLoss = Literal["soft_ce", "kl", "mse_gt", "gift"]


@dataclass(frozen=True)
class SoftLabelLoss:
    """The `compute_loss_func` of a Trainer, or the loss of a plain loop. `soft_label_loss` makes one.

    Args:
        protocol: whose `loss`, `temperature`, `temperature_squared`, `gamma` and `label_smoothing` are taken.
    """

    protocol: Protocol

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of a batch of b images and K classes.

        Args:
            outputs: logits [b, K], or an object that has them as `.logits`, as models of transformers give.
            labels: probabilities [b, K]; or [b, K + 1] with the class number of each image last; or class numbers
                int64 [b], against which the loss is cross-entropy (a test set, say).
            num_items_in_batch: how many numbers the labels of all batches of an optimiser step have, as Trainer counts
                them: the losses of these batches then add up to the mean over their images.

        Raises:
            ConfigError: labels of another shape, or without the class that this loss needs.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        if labels.is_floating_point():
            value = protocol_loss(self.protocol, "stored")(logits, self._batch(labels, logits.shape[1]))
        else:
            value = F.cross_entropy(logits, labels)
        if num_items_in_batch is None:
            return value
        return value * labels.numel() / torch.as_tensor(num_items_in_batch).flatten()[0]

    def _batch(self, labels: Tensor, classes: int) -> Batch:
        wide, p = labels.shape[-1], self.protocol
        shape, step = tuple(labels.shape), "take `for_trainer` of the dataset"
        check(
            len(shape) == 2 and wide in (classes, classes + 1),
            "labels",
            shape,
            f"[b, {classes}] or [b, {classes + 1}]",
            step,
        )
        exact = labels.dtype in (torch.float32, torch.float64) or classes <= 256
        check(
            exact, "labels", labels.dtype, "float32: shorter numbers do not hold the class", "do not cast the labels"
        )
        soft = as_logits(labels[:, :classes].float())
        # probabilities do not tell the mean of the logits that they are from; those of a trained network are near zero
        soft = soft - soft.mean(1, keepdim=True)
        needed = p.loss == "ce" or (p.loss in ("mse_gt", "gift") and p.gamma != 0)
        with_class = f"[b, {classes + 1}], the class number last, which {p.loss} needs"
        check(wide > classes or not needed, "labels", shape, with_class, step)
        own = labels[:, -1].long() if wide > classes else soft.argmax(1)
        return Batch(labels, own, soft=soft)


def soft_label_loss(
    loss: SoftLoss | Protocol = "soft_ce",
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> SoftLabelLoss:
    """A loss against soft labels, for `Trainer(compute_loss_func=...)` and for a plain loop.

    Without one, Trainer takes float labels for those of several classes at once and trains each output by binary
    cross-entropy.

    Args:
        loss: "soft_ce" (cross-entropy to the soft label), "kl" (KL divergence at a temperature), "mse_gt" (squared distance
            of logits, and `gamma` times the cross-entropy to the class) or "gift"; or a protocol, with all its values.
        temperature, temperature_squared, gamma, label_smoothing: as in `Protocol`.

    Raises:
        ConfigError: an unknown loss.
    """
    if isinstance(loss, Protocol):
        return SoftLabelLoss(loss)
    check(loss in ("soft_ce", "kl", "mse_gt", "gift"), "loss", loss, "soft_ce, kl, mse_gt, gift, or a protocol")
    protocol = Protocol(
        "trainer",
        "",
        loss=loss,
        temperature=temperature,
        temperature_squared=temperature_squared,
        gamma=gamma,
        label_smoothing=label_smoothing,
    )
    return SoftLabelLoss(protocol)
