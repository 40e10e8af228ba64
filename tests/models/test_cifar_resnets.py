"""ResNet-20 to -56 of He et al. 2015: sizes, short cuts, and the networks trained on CIFAR-10 where they are at hand."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models import cifar_resnets
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.loading import load_model

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}
TOP1 = {20: 91.73, 32: 92.63, 44: 93.10, 56: 93.39}  # published, on 10,000 test images
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize("depth", PARAMETERS)
def test_sizes(depth):
    model = timm.create_model(f"cifar_resnet{depth}").eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[depth]
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules())
    assert convolutions + 1 == depth  # the linear layer is the last one
    images = torch.rand(2, 3, 32, 32)
    assert model(images).shape == (2, 10) and model.forward_features(images).shape == (2, 64, 8, 8)


def test_grey_images_and_another_head():
    model = timm.create_model("cifar_resnet20", num_classes=5, in_chans=1).eval()
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 5)
    model.reset_classifier(3)
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 3) and model.get_classifier().out_features == 3


def test_a_short_cut_takes_every_second_pixel_between_channels_of_zeros():
    block = cifar_resnets.CifarBlock(2, 4).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the convolutions add nothing
    x = torch.rand(1, 2, 6, 6)
    out = block(x)
    torch.testing.assert_close(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_a_checkpoint_comes_back(tmp_path):
    images = ImageSpec(len(CLASSES), 32, (0.5,) * 3, (0.2,) * 3, class_names=CLASSES)
    model = load_model("cifar_resnet20", images, key=Key(1)).eval()
    write_checkpoint(model, tmp_path / "net", 32)
    again = load_model(str(tmp_path / "net"), images, key=Key(2)).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x))


@pytest.fixture(scope="module")
def test_images() -> tuple[torch.Tensor, np.ndarray]:
    """2,000 test images of CIFAR-10, their classes by turn."""
    from datasets import Image as Encoded
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(trained(20).parents[1] / "data/cifar10/test.parquet"), split="train")
    rows = rows.select(range(2000)).cast_column("image", Encoded(decode=False))
    pixels = [np.asarray(Image.open(BytesIO(one["bytes"])).convert("RGB")) for one in rows["image"]]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255, np.asarray(rows["label"])


def trained(depth: int) -> Path:
    """The folder of a network trained on CIFAR-10, in `models/` beside the folder of datasets."""
    data = os.environ.get("HF_CONDENSE_DATA")
    folder = Path(data or "nowhere").resolve().parent / "models" / f"cifar10_resnet{depth}"
    if not data or not folder.is_dir():
        pytest.skip("no models/ beside the folder HF_CONDENSE_DATA")
    return folder


@pytest.mark.parametrize("depth", [20, 56])
def test_networks_trained_on_cifar10_reach_their_published_accuracy(depth, test_images):
    images, labels = test_images
    spec = ImageSpec(len(CLASSES), 32, (0.5,) * 3, (0.2,) * 3, class_names=CLASSES)
    model = load_model(str(trained(depth)), spec, key=Key(0)).freeze()
    assert not model.needs_squeeze and model.build["architecture"] == f"cifar_resnet{depth}"
    with torch.no_grad():
        found = torch.cat([model(chunk).argmax(1) for chunk in images.split(250)]).numpy()
    # 2,000 of the 10,000 images: two standard deviations of a sample are 1.2 points
    assert 100 * (found == labels).mean() == pytest.approx(TOP1[depth], abs=1.5)
