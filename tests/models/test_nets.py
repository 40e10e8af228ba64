"""The networks registered in timm: sizes, layers and channels of EDC's CIFAR pool."""

import pytest
import timm
import torch
from torch import nn

from hf_condense.errors import ModelError
from hf_condense.models import cifar_nets, convnet  # noqa: F401  (registers them)

# parameters at 10 classes and 3x32x32, convolutions + batch norms (EDC, official code)
POOL = {
    "cifar_resnet18": (11_173_962, 40),
    "convnet_w128": (320_010, 3),
    "cifar_mobilenetv2": (697_546, 106),
    "cifar_wrn16_2": (691_674, 29),
    "cifar_shufflenetv2_x0_5": (351_466, 112),
    "convnet_d1": (331_530, 1),
    "convnet_d2": (233_610, 2),
    "convnet_w32": (24_714, 3),
}


def hooks(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d) for m in model.modules())


def test_the_eight_observers_of_edc():
    found = {}
    for name in POOL:
        model = timm.create_model(name, num_classes=10).eval()
        found[name] = (sum(p.numel() for p in model.parameters()), hooks(model))
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert found == POOL
    assert sum(h for _, h in found.values()) == 296


@pytest.mark.parametrize("name", [n for n in POOL if n != "cifar_resnet18"])
@pytest.mark.parametrize("side", [8, 64])
def test_grey_images_of_other_sizes(name, side):
    sized = {"img_size": side} if name.startswith("convnet") else {}
    model = timm.create_model(name, num_classes=5, in_chans=1, **sized).eval()
    assert model(torch.rand(2, 1, side, side)).shape == (2, 5)
    model.reset_classifier(3)
    assert model(torch.rand(2, 1, side, side)).shape == (2, 3)
    assert model.get_classifier().out_features == 3


def test_convnet_refuses_more_poolings_than_pixels():
    assert timm.create_model("convnet_w32", img_size=8).num_features == 32
    with pytest.raises(ModelError, match="images of 8 px or more"):
        timm.create_model("convnet_w32", img_size=7)


def test_grey_images_of_28_px_become_32_px():
    """The ConvNet of gradient matching on Fashion-MNIST: 317,706 parameters and 2048 features at 10 classes."""
    model = timm.create_model("convnet_w128", num_classes=10, in_chans=1, img_size=28).eval()
    assert sum(p.numel() for p in model.parameters()) == 317_706
    assert model.num_features == 2048 and model.features[0].padding == (3, 3)
    image = torch.rand(2, 1, 28, 28)
    assert model.forward_features(image).shape == (2, 128, 4, 4) and model(image).shape == (2, 10)
    for channels, side in ((3, 28), (1, 32)):  # all others are padded by 1
        model = timm.create_model("convnet_w128", num_classes=10, in_chans=channels, img_size=side).eval()
        assert model.features[0].padding == (1, 1) and model(torch.rand(1, channels, side, side)).shape == (1, 10)
        assert model.num_features == 128 * (side // 8) ** 2
    deep = timm.create_model("convnet_d4", num_classes=200, img_size=64).eval()
    assert deep.num_features == 2048 and deep.forward_features(torch.rand(1, 3, 64, 64)).shape == (1, 128, 4, 4)


def test_convnet_normalises_each_image_alone():
    model = timm.create_model("convnet_w32", num_classes=4).eval()
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
    shifted = model.features[1](model.features[0](images) * 3 + 1)
    torch.testing.assert_close(shifted, model.features[1](model.features[0](images)), atol=1e-3, rtol=1e-3)


def test_small_stem_keeps_the_resolution():
    model = timm.create_model("small_stem_resnet", base="test_resnet", num_classes=4, in_chans=1)
    assert model.conv1.stride == (1, 1) and isinstance(model.maxpool, nn.Identity)
    assert model.maxpool(model.act1(model.bn1(model.conv1(torch.rand(1, 1, 16, 16))))).shape[-1] == 16


def test_registered_like_any_other_model_of_timm():
    assert set(POOL) | {"convnet_w64", "torchvision_net"} <= set(timm.list_models())
    model = timm.create_model("torchvision_net", arch="shufflenet_v2_x0_5", num_classes=7).eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7)
