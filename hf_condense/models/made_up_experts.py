"""Weights in the place of expert trajectories, for a step that is tried before there are any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_condense.models.image_model import ImageModel


@dataclass(frozen=True)
class MadeUpExperts:
    """In the place of an `ExpertBuffer` where a step is tried: `size` weights that differ by snapshot."""

    size: int
    epochs: int
    experts: int = 1

    @classmethod
    def of(cls, network: ImageModel, epochs: int) -> MadeUpExperts:
        """One training of `network`."""
        return cls(sum(p.numel() for p in network.parameters()), epochs)

    def placed(self, expert: int, epoch: int, device: torch.device) -> Tensor:
        return (torch.arange(self.size, device=device) % 13 - 6 + epoch % 2) / 100

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        return self.placed(expert, epoch, torch.device("cpu"))
