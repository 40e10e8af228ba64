"""ResNet-20, -32, -44 and -56 for images of 32 pixels, as in section 4.2 of arXiv:1512.03385, registered in timm."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_condense.models.cifar_nets import untrained_cfg

WIDTHS = (16, 32, 64)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions beside a short cut without parameters.

    Where the side is halved, the short cut takes every second pixel and zeros for the channels that it lacks, half of
    them before and half behind its own.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve, self.lacking = inputs != outputs, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.halve else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.halve:
            before = self.lacking // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.lacking - before))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """A stem, three stages of `blocks` blocks each, the average over all pixels and one linear layer."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, blocks: int = 3) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, WIDTHS[-1]
        self.conv1 = nn.Conv2d(in_chans, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        stages = [
            nn.Sequential(CifarBlock(inputs, outputs), *(CifarBlock(outputs, outputs) for _ in range(blocks - 1)))
            for inputs, outputs in pairwise((WIDTHS[0], *WIDTHS))
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(self.num_features, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes, self.fc = num_classes, nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_CFG = untrained_cfg(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), first_conv="conv1", classifier="fc")
default_cfgs = generate_default_cfgs({f"cifar_resnet{depth}.untrained": _CFG for depth in (20, 32, 44, 56)})


def _built(name: str, pretrained: bool, blocks: int, **kwargs) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, name, pretrained, blocks=blocks, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs) -> CifarResNet:
    """0.27 M parameters at 10 classes."""
    return _built("cifar_resnet20", pretrained, 3, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs) -> CifarResNet:
    """0.46 M parameters at 10 classes."""
    return _built("cifar_resnet32", pretrained, 5, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs) -> CifarResNet:
    """0.66 M parameters at 10 classes."""
    return _built("cifar_resnet44", pretrained, 7, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs) -> CifarResNet:
    """0.85 M parameters at 10 classes."""
    return _built("cifar_resnet56", pretrained, 9, **kwargs)
