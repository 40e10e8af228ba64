"""Refuses networks whose loss, weights or outputs are not finite, because their labels would be NaN."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hf_condense.errors import ModelError


def need_finite_loss(loss: float, name: str, epoch: int, epochs: int, setting: str, remedy: str) -> None:
    """Raises ModelError where the mean loss of an epoch is infinite or no number.

    Args:
        name: of the network; setting: the setting that chose it.
        epoch: number of finished epochs, of `epochs`.
        remedy: what to change.
    """
    if not math.isfinite(loss):
        raise ModelError(
            setting, name, f"a network whose loss stays finite; it is {loss} in epoch {epoch} of {epochs}", remedy
        )


def need_finite_weights(model: nn.Module, name: str, setting: str, remedy: str) -> None:
    """Raises ModelError where a weight or buffer is infinite or no number; the first such tensor is named."""
    for part, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise ModelError(
                setting, name, f"finite weights; {count} of the {tensor.numel()} numbers in {part} are not", remedy
            )


def need_finite_outputs(logits: Tensor, name: str, setting: str, remedy: str) -> None:
    """Raises ModelError where logits [n, K] of images are infinite or no numbers."""
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise ModelError(setting, name, f"finite outputs; those for {bad} of {len(logits)} images are not", remedy)
