"""Networks for images of 32 and 64 pixels, registered in timm: the rest of EDC's CIFAR pool, and ResNets with a small stem."""

from __future__ import annotations

import math

import timm
import torch.nn.functional as F
import torchvision
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

SMALL_STEMS = ("small_stem_resnet", "cifar_resnet18")


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _initialise(network: nn.Module) -> None:
    """He initialisation over fan-out, as the reference networks of this field use it."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)


class PooledNet(nn.Module):
    """Base class of the networks of this file: `features`, global average pooling, one linear `classifier`."""

    features: nn.Module

    def _finish(self, num_features: int, num_classes: int) -> None:
        self.num_features, self.num_classes = num_features, num_classes
        self.classifier = nn.Linear(num_features, num_classes)
        _initialise(self)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes, self.classifier = num_classes, nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (arXiv:1801.04381); expands even by a factor of 1, as EDC's network does."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_conv_norm(inputs, hidden, 1),
            nn.ReLU(),
            *_conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *_conv_norm(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class CifarMobileNetV2(PooledNet):
    """MobileNetV2 at half width for small images: stem of stride 2, and two more halvings left out of the body."""

    # expansion, channels at width 1, blocks, stride of the first
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: float = 0.5) -> None:
        super().__init__()
        inputs = int(32 * width)
        layers: list[nn.Module] = [*_conv_norm(in_chans, inputs, 3, 2), nn.ReLU()]
        for expansion, channels, blocks, stride in self.STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, int(channels * width), stride if i == 0 else 1, expansion))
                inputs = int(channels * width)
        self.features = nn.Sequential(*layers, *_conv_norm(inputs, 1280, 1), nn.ReLU())
        self._finish(1280, num_classes)


class WideBlock(nn.Module):
    """Pre-activation residual block; where the width changes, the shortcut starts after the activation too."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        out = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(PooledNet):
    """WRN-depth-width (arXiv:1605.07146) without dropout."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, depth: int = 16, width: int = 2) -> None:
        super().__init__()
        inputs, blocks = 16, (depth - 4) // 6
        layers: list[nn.Module] = [nn.Conv2d(in_chans, inputs, 3, 1, 1, bias=False)]
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for i in range(blocks):
                layers.append(WideBlock(inputs, outputs, stride if i == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU())
        self._finish(inputs, num_classes)


class CifarShuffleNetV2(PooledNet):
    """torchvision's ShuffleNetV2 x0.5 body behind a 1x1 stem, with no pooling before it."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        body = torchvision.models.shufflenet_v2_x0_5(weights=None)
        self.features = nn.Sequential(
            *_conv_norm(in_chans, 24, 1), nn.ReLU(), body.stage2, body.stage3, body.stage4, body.conv5
        )
        self._finish(1024, num_classes)


def _small_stem(base: str = "resnet18", **kwargs) -> nn.Module:
    """A timm ResNet whose stem is one 3x3 convolution of stride 1, without pooling."""
    model = timm.create_model(base, **kwargs)
    first = next(m for m in model.conv1.modules() if isinstance(m, nn.Conv2d))
    model.conv1 = nn.Conv2d(first.in_channels, model.bn1.num_features, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def _torchvision_net(arch: str = "shufflenet_v2_x0_5", num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    model = torchvision.models.get_model(arch, weights=None, num_classes=num_classes)
    model.num_classes, model.num_features = num_classes, getattr(model, "num_features", None)
    return model


def untrained_cfg(side: int = 32, classes: int = 10, **kwargs) -> dict:
    """The configuration that timm gets of a network without published weights, for RGB images of `side` pixels."""
    plain = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "crop_pct": 1.0}
    return {"num_classes": classes, "input_size": (3, side, side), "classifier": "classifier", **plain, **kwargs}


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet18.untrained": untrained_cfg(first_conv="conv1", classifier="fc"),
        "small_stem_resnet.untrained": untrained_cfg(first_conv="conv1", classifier="fc"),
        "cifar_mobilenetv2.untrained": untrained_cfg(first_conv="features.0"),
        "cifar_wrn16_2.untrained": untrained_cfg(first_conv="features.0"),
        "cifar_shufflenetv2_x0_5.untrained": untrained_cfg(first_conv="features.0"),
        "torchvision_net.untrained": untrained_cfg(224, 1000, classifier=None, first_conv=None),
    }
)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no pooling: 11.17 M parameters at 10 classes."""
    return build_model_with_cfg(_small_stem, "cifar_resnet18", pretrained, **dict({"base": "resnet18"}, **kwargs))


@register_model
def small_stem_resnet(pretrained: bool = False, **kwargs) -> nn.Module:
    """Any ResNet of timm (`base="resnet50"`) with a 3x3 stem and no pooling."""
    return build_model_with_cfg(_small_stem, "small_stem_resnet", pretrained, **kwargs)


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs) -> nn.Module:
    """0.70 M parameters at 10 classes; the "MobileNet-V2" student of CIFAR tables."""
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, **kwargs)


@register_model
def cifar_wrn16_2(pretrained: bool = False, **kwargs) -> nn.Module:
    """0.69 M parameters at 10 classes."""
    return build_model_with_cfg(WideResNet, "cifar_wrn16_2", pretrained, **kwargs)


@register_model
def cifar_shufflenetv2_x0_5(pretrained: bool = False, **kwargs) -> nn.Module:
    """0.35 M parameters at 10 classes."""
    return build_model_with_cfg(CifarShuffleNetV2, "cifar_shufflenetv2_x0_5", pretrained, **kwargs)


@register_model
def torchvision_net(pretrained: bool = False, **kwargs) -> nn.Module:
    """A classification network of torchvision (`arch="alexnet"`), so that its checkpoints load through timm too."""
    return build_model_with_cfg(_torchvision_net, "torchvision_net", pretrained, **kwargs)
