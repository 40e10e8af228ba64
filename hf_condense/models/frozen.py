"""Frozen networks: evaluation mode, no weight gradients, the memory layout that is fastest on the device."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hf_condense.precision import autocast


def freeze(model: nn.Module, precision: str = "fp32") -> nn.Module:
    """The model in evaluation mode without weight gradients.

    In fp32 that is the model itself; in bf16 it is a copy, channels-last, whose convolutions and linear layers have
    their weights in bf16 (autocast would convert frozen weights again in every forward pass). Norms stay in fp32.
    """
    if precision == "bf16":
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
    return model.requires_grad_(False).eval()


def forward(model: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """Logits, float32 (float64 for float64 images), of a model from `freeze`."""
    if precision == "fp32":
        return model(images)
    with autocast(images.device):
        return model(images.contiguous(memory_format=torch.channels_last)).float()
