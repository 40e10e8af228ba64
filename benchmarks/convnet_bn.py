"""The small network of the pool comparison, registered in timm: three blocks of convolution, BatchNorm, ReLU and pooling."""

from __future__ import annotations

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_condense.models.convnet import ConvNet


class ConvNetBN(ConvNet):
    """ConvNet with BatchNorm whose widths differ; the outputs of its blocks are averaged over pixels before the head."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, widths: tuple[int, ...] = (24, 48, 96)) -> None:
        nn.Module.__init__(self)
        blocks: list[nn.Module] = []
        for before, after in zip((in_chans, *widths), widths):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*blocks)
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return super().forward_head(x.mean((2, 3)), pre_logits)


default_cfgs = generate_default_cfgs(
    {
        "convnet_bn.untrained": {
            "num_classes": 10, "input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "interpolation": "bilinear", "crop_pct": 1.0, "first_conv": "features.0", "classifier": "classifier",
        }
    }
)  # fmt: skip


@register_model
def convnet_bn(pretrained: bool = False, **kwargs) -> ConvNetBN:
    """Widths 24, 48, 96."""
    return build_model_with_cfg(ConvNetBN, "convnet_bn", pretrained, **kwargs)
