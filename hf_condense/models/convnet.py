"""ConvNet, the small network of this field: blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_condense.errors import ModelError
from hf_condense.models.cifar_nets import untrained_cfg
from hf_condense.models.norm_relu_pool import available, norm_relu_pool


class HalvingPool(nn.AvgPool2d):
    """2x2 average pooling. On CPUs pairs of rows times a matrix of quarters: a third of the time of torch's own kernel."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        small = w <= 64 and x.dtype in (torch.float32, torch.float64)  # the product does w multiplications a pixel
        product = small and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not product or h % 2 or w % 2 or not x.is_contiguous():
            return super().forward(x)
        return (x.view(-1, 2 * w) @ _quarters(w, x.dtype)).view(n, c, h // 2, w // 2)


@lru_cache
def _quarters(width: int, dtype: torch.dtype) -> Tensor:
    """[2 * width, width / 2]: a quarter where a pixel of two rows belongs to a pooled one."""
    with torch.inference_mode(False):  # the first caller may be in that mode, later ones differentiate
        return 0.25 * torch.eye(width // 2, dtype=dtype).repeat_interleave(2, 0).repeat(2, 1)


class ConvNet(nn.Module):
    """`depth` blocks that each halve the side, and one linear layer (Gidaris & Komodakis, CVPR 2018).

    Grey images of 28 px (MNIST, Fashion-MNIST) are padded to 32 px by the first convolution, as in the papers of
    this field: all of depth 3 then have 4 x 4 places left, and 128 * 4 * 4 = 2048 features.

    `fused`: norm, ReLU and pooling of a block are one operation where that is possible (`fuse`). Hooks on these layers are
    then not called, and there is no second derivative.

    Args:
        img_size: side of the images in pixels; 2 ** depth or more.
        norm: "instance" as in gradient matching, or "batch" as in RDED, where statistics of batch norms are needed.

    Raises:
        ModelError: the images are too small for that many poolings.
    """

    fused = False

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[-1]
        padding = 3 if in_chans == 1 and side == 28 else 1
        left = (side + 2 * padding - 2) >> depth
        if left < 1:
            raise ModelError(
                "base_model",
                f"ConvNet of depth {depth} at {side} px",
                f"images of {2**depth} px or more",
                "use a shallower ConvNet (convnet_d1, convnet_d2) or a larger --image_size",
            )
        self.num_classes, self.num_features = num_classes, width * left * left
        blocks: list[nn.Module] = []
        for i in range(depth):
            blocks.append(nn.Conv2d(in_chans if i == 0 else width, width, 3, padding=padding if i == 0 else 1))
            # one group a channel: instance norm, but with statistics that need no running average
            blocks.append(nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width, width))
            blocks.append(nn.ReLU())
            blocks.append(HalvingPool())
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(self.num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes, self.classifier = num_classes, nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        if not self.fused:
            return self.features(x)
        layers = iter(self.features)
        for convolution, norm, relu, pool in zip(layers, layers, layers, layers, strict=True):
            x = convolution(x)
            pooled = norm_relu_pool(x, norm)
            x = pool(relu(norm(x))) if pooled is None else pooled
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = torch.flatten(x, 1)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def fuse(network: nn.Module, on: bool) -> bool:
    """Switches `fused` of the ConvNets in `network`; returns whether there are some and it is on."""
    found = [m for m in network.modules() if isinstance(m, ConvNet)]
    on = on and bool(found) and available()
    for convnet in found:
        convnet.fused = on
    return on


@contextmanager
def fused(network: nn.Module) -> Iterator[bool]:
    """Context in which `network` is fused; gives whether it is. The way back may be taken after it."""
    on = fuse(network, True)
    try:
        yield on
    finally:
        fuse(network, False)


def block_elements(network: nn.Module, size: int) -> int:
    """Elements of all maps whose gradients `fuse` speeds up, of one image of `size` px: those before instance norms."""
    found = [m for m in network.modules() if isinstance(m, ConvNet) and isinstance(m.features[1], nn.GroupNorm)]
    total = 0
    for convnet in found:
        side = size
        for convolution in list(convnet.features)[::4]:
            side += 2 * convolution.padding[0] - 2
            total += convolution.out_channels * side**2
            side //= 2
    return total


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": untrained_cfg(fixed_input_size=True, min_input_size=(3, 2, 2), first_conv="features.0")
        for name in (
            "convnet_d1",
            "convnet_d2",
            "convnet_d2_w16",
            "convnet_d4",
            "convnet_d5",
            "convnet_w32",
            "convnet_w64",
            "convnet_w128",
            "convnet_bn_w32",
            "convnet_bn_w128",
        )
    }
)


def _convnet(variant: str, pretrained: bool, **kwargs) -> ConvNet:
    return build_model_with_cfg(ConvNet, variant, pretrained, **kwargs)


@register_model
def convnet_d1(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 1, width 128: the shallowest observer of EDC's CIFAR pool."""
    return _convnet("convnet_d1", pretrained, **dict({"width": 128, "depth": 1}, **kwargs))


@register_model
def convnet_d2(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 2, width 128."""
    return _convnet("convnet_d2", pretrained, **dict({"width": 128, "depth": 2}, **kwargs))


@register_model
def convnet_d2_w16(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 2, width 16: for studies on 8 px digits."""
    return _convnet("convnet_d2_w16", pretrained, **dict({"width": 16, "depth": 2}, **kwargs))


@register_model
def convnet_d4(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 4, width 128: the ConvNet for Tiny-ImageNet's 64 px."""
    return _convnet("convnet_d4", pretrained, **dict({"width": 128, "depth": 4}, **kwargs))


@register_model
def convnet_d5(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 5, width 128: the ConvNet for ImageNet's subsets at 128 px."""
    return _convnet("convnet_d5", pretrained, **dict({"width": 128, "depth": 5}, **kwargs))


@register_model
def convnet_w32(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 3, width 32: the smallest, for studies on small machines."""
    return _convnet("convnet_w32", pretrained, **dict({"width": 32, "depth": 3}, **kwargs))


@register_model
def convnet_w64(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 3, width 64."""
    return _convnet("convnet_w64", pretrained, **dict({"width": 64, "depth": 3}, **kwargs))


@register_model
def convnet_w128(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 3, width 128: "ConvNet" in most papers on dataset condensation."""
    return _convnet("convnet_w128", pretrained, **dict({"width": 128, "depth": 3}, **kwargs))


@register_model
def convnet_bn_w32(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 3, width 32, batch norm: the smallest one with running statistics of the data."""
    return _convnet("convnet_bn_w32", pretrained, **dict({"width": 32, "depth": 3, "norm": "batch"}, **kwargs))


@register_model
def convnet_bn_w128(pretrained: bool = False, **kwargs) -> ConvNet:
    """Depth 3, width 128, batch norm: RDED's Conv3."""
    return _convnet("convnet_bn_w128", pretrained, **dict({"width": 128, "depth": 3, "norm": "batch"}, **kwargs))
