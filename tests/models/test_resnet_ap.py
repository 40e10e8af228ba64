"""ResNetAP-10: shape, parameters, no stride, and that a checkpoint of it comes back."""

from __future__ import annotations

import torch
from torch import nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.embedding import embed
from hf_condense.models.loading import load_model


def network(image_size: int = 64):
    facts = {"num_classes": 10, "image_size": image_size, "channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return load_model("resnet_ap10", ImageSpec(**facts), key=Key(0))


def test_its_convolutions_have_no_stride_and_its_norms_remember_nothing(tmp_path):
    model = network()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 8 + 3 and all(m.stride == (1, 1) for m in convolutions)
    assert not any("running" in name for name in model.state_dict())
    count = 64 * 3 * 49 + sum(9 * (a * b + b * b) for a, b in ((64, 64), (64, 128), (128, 256), (256, 512)))
    count += 64 * 128 + 128 * 256 + 256 * 512  # short cuts
    count += 2 * (64 * 3 + 3 * (128 + 256 + 512)) + 5130  # norms, classifier
    assert model.parameter_count == count
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert model.backbone.features(images).shape == (2, 512, 2, 2) and embed(model, images).shape == (2, 512)
        write_checkpoint(model, tmp_path / "net", 64)
        assert torch.equal(read_checkpoint(tmp_path / "net")(images), model(images))
