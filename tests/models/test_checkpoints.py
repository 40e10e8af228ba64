"""A network in a folder: back here exactly as it was, and readable by timm and transformers alone."""

import json

import pytest
import timm
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.loading import load_model

NAMES = ("ant", "bee", "cat")


def load(name, size=32, channels=3):
    return load_model(name, ImageSpec(num_classes=3, image_size=size, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels, class_names=NAMES), key=Key(0)).eval()  # fmt: skip


@pytest.mark.parametrize(
    "name, size, channels",
    [
        ("convnet_w32", 8, 1), ("cifar_shufflenetv2_x0_5", 32, 3), ("test_resnet", 32, 1), ("test_resnet", 96, 3),
        ("test_vit", 32, 1), ("test_vit", 8, 3), ("torchvision/shufflenet_v2_x0_5", 64, 1),
    ],
)  # fmt: skip
def test_round_trip_and_timm(tmp_path, name, size, channels):
    model = load(name, size, channels)
    images = torch.rand(2, channels, size, size)
    write_checkpoint(model, tmp_path, size)
    assert not {p.suffix for p in tmp_path.iterdir()} & {".bin", ".pt", ".pth", ".pkl"}
    again = read_checkpoint(tmp_path).eval()
    assert torch.equal(again(images), model(images)) and again.sha256() == model.sha256()
    assert (again.name, again.input_size, again.class_names) == (model.name, model.input_size, NAMES)

    alone = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    cfg = timm.data.resolve_model_data_config(alone)
    seen = images.expand(-1, model.in_chans, -1, -1)
    if model.input_size:
        seen = torch.nn.functional.interpolate(seen, [model.input_size] * 2, mode="bilinear", antialias=True)
    seen = (seen - torch.tensor(cfg["mean"]).view(1, -1, 1, 1)) / torch.tensor(cfg["std"]).view(1, -1, 1, 1)
    torch.testing.assert_close(alone(seen), model(images))
    assert tuple(cfg["input_size"]) == (model.in_chans, *[model.input_size or size] * 2)

    # and as a --base_model: the head maps by name
    named = load_model(str(tmp_path), ImageSpec(num_classes=2, image_size=size, channels=channels, mean=(0,), std=(1,), class_names=("cat", "ant")), key=Key(1)).eval()  # fmt: skip
    torch.testing.assert_close(named(images), model(images)[:, [2, 0]])
    assert not named.needs_squeeze


def test_transformers_round_trip(tmp_path):
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        ResNetConfig,
        ResNetForImageClassification,
    )

    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**shape, id2label=dict(enumerate("wxyz")))).save_pretrained(
        tmp_path / "a"
    )
    model = load(str(tmp_path / "a"))
    assert model.needs_squeeze and model.num_classes == 3
    write_checkpoint(model, tmp_path / "b", 32)
    images = torch.rand(2, 3, 32, 32)
    again = read_checkpoint(tmp_path / "b").eval()
    assert torch.equal(again(images), model(images))
    alone = AutoModelForImageClassification.from_pretrained(tmp_path / "b").eval()
    assert alone.config.id2label == dict(enumerate(NAMES))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "b")
    torch.testing.assert_close(alone((images - 0.4) / 0.2).logits, model(images))
    assert list(processor.image_mean) == pytest.approx([0.4] * 3)


def test_damage_is_found(tmp_path):
    write_checkpoint(load("convnet_w32"), tmp_path, 32)
    facts = json.loads((tmp_path / "image_model.json").read_text())
    (tmp_path / "image_model.json").write_text(json.dumps(facts | {"mean": [0.4, 0.4, 0.5]}))
    with pytest.raises(ArtefactError, match="changed"):
        read_checkpoint(tmp_path)
    facts.pop("checksum")
    (tmp_path / "image_model.json").write_text(json.dumps(facts | {"mean": [0.4, 0.4, 0.5]}))
    with pytest.raises(ArtefactError, match="weights with sha256"):
        read_checkpoint(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ArtefactError, match="a whole safetensors file"):
        read_checkpoint(tmp_path)
    (tmp_path / "image_model.json").unlink()
    with pytest.raises(ArtefactError, match="missing"):
        read_checkpoint(tmp_path)
