"""ResNetAP-10, the network in which IDC and its followers condense ImageNet: average pooling in place of every stride."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_condense.models.cifar_nets import PooledNet, untrained_cfg


def _instance_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels, channels)  # without running averages


class PooledBlock(nn.Module):
    """Two 3x3 convolutions and a short cut; where the side is halved, both ways by a 2x2 average."""

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = _instance_norm(outputs)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = _instance_norm(outputs)
        same = inputs == outputs and not halve
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), self.pool, _instance_norm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(F.relu(self.first_norm(self.first(x))))
        return F.relu(self.second_norm(self.second(out)) + self.short(x))


class ResNetAP(PooledNet):
    """Four blocks of 64 to 512 channels behind a 7x7 stem with a 4x4 average (arXiv:2205.14959, section 5.1)."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 7, padding=3, bias=False),
            _instance_norm(64),
            nn.ReLU(),
            nn.AvgPool2d(4),
            *(PooledBlock(a, b, i > 0) for i, (a, b) in enumerate(pairwise(widths))),
        )
        self._finish(512, num_classes)
        self.classifier.reset_parameters()


default_cfgs = generate_default_cfgs({"resnet_ap10.untrained": untrained_cfg(224, first_conv="features.0")})


@register_model
def resnet_ap10(pretrained: bool = False, **kwargs) -> ResNetAP:
    """4.90 M parameters at 10 classes."""
    return build_model_with_cfg(ResNetAP, "resnet_ap10", pretrained, **kwargs)
