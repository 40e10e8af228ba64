"""Models by name: from scratch, from checkpoints of timm and transformers, and what a person can get wrong."""

import pytest
import timm
import torch
from torch import nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model, load_untrained
from hf_condense.models.networks import means_weights, weight_tag, without_tag

MODEL = Key(0, "model")
NAMES = ("ant", "bee", "cat", "dog")


def load(name, classes=NAMES, size=32, channels=3, key=MODEL, pretrained=False, **changes):
    own = {"class_names": classes, "mean": (0.4,) * channels, "std": (0.2,) * channels, **changes}
    images = ImageSpec(num_classes=len(classes), image_size=size, channels=channels, **own)
    return load_model(name, images, pretrained=pretrained, key=key).eval()


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A trained timm model as a person would have saved it, with a mean of its own."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(1)
    model = timm.create_model("test_efficientnet", num_classes=4).eval()
    timm.models.save_for_hf(model, folder, model_config={"label_names": list(NAMES)}, safe_serialization=True)
    return folder, model


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(2)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(NAMES))
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(folder)
    return folder, model


def normalised(images, mean, std):
    return (images - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)


def test_from_scratch_normalises_and_repeats():
    images = torch.rand(2, 3, 32, 32)
    model = load("convnet_w32")
    torch.testing.assert_close(model(images), model.backbone(normalised(images, [0.4] * 3, [0.2] * 3)))
    assert model.needs_squeeze and model.input_size is None and model.source["pretrained"] is False
    assert model.sha256() == load("convnet_w32").sha256()
    assert model.sha256() != load("convnet_w32", key=Key(1, "model")).sha256()


def test_the_key_draws_the_weights_and_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load("convnet_w32")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "name, size, channels, architecture, in_chans, input_size",
    [
        ("test_resnet", 32, 1, "small_stem_resnet", 1, None),
        ("test_resnet", 96, 3, "test_resnet", 3, None),
        ("test_vit", 32, 1, "test_vit", 1, None),  # built for that size
        ("test_vit", 8, 1, "test_vit", 1, 160),  # its patches are larger than the image: images are resized
        ("torchvision/shufflenet_v2_x0_5", 64, 1, "torchvision_net", 3, None),
        ("timm/convnet_d2", 8, 1, "convnet_d2", 1, None),
    ],
)
def test_adapted_to_the_images(name, size, channels, architecture, in_chans, input_size):
    model = load(name, size=size, channels=channels)
    assert model.build["architecture"] == architecture
    assert (model.in_chans, model.input_size) == (in_chans, input_size)
    assert model(torch.rand(2, channels, size, size)).shape == (2, 4)


def test_timm_folder_is_used_as_it_is(timm_folder):
    folder, trained = timm_folder
    images = torch.rand(2, 3, 32, 32)
    expected = trained(normalised(images, trained.pretrained_cfg["mean"], trained.pretrained_cfg["std"]))
    for name in (str(folder), f"local-dir:{folder}"):
        model = load(name)
        torch.testing.assert_close(model(images), expected)
        assert not model.needs_squeeze and model.source["pretrained"]


def test_rows_of_the_head_follow_the_names(timm_folder):
    folder, trained = timm_folder
    images = torch.rand(2, 3, 32, 32)
    model = load(str(folder), ("dog", "Bee", "ant"))
    expected = trained(normalised(images, trained.pretrained_cfg["mean"], trained.pretrained_cfg["std"]))[:, [3, 1, 0]]
    torch.testing.assert_close(model(images), expected)
    assert not model.needs_squeeze and model.num_classes == 3


def test_other_classes_get_a_new_head(timm_folder):
    folder, trained = timm_folder
    model = load(str(folder), ("ant", "bee", "cat", "shark"))
    assert model.needs_squeeze
    assert torch.equal(model.backbone.conv_stem.weight, trained.conv_stem.weight)
    assert not torch.equal(model.backbone.get_classifier().weight, trained.get_classifier().weight)
    assert torch.equal(
        model.backbone.get_classifier().weight,
        load(str(folder), ("w", "x", "y", "z")).backbone.get_classifier().weight,
    )
    assert load(str(folder), tuple("abcdefg"))(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def test_grey_images_on_an_rgb_checkpoint(timm_folder):
    model = load(str(timm_folder[0]), channels=1)
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(grey), load(str(timm_folder[0]))(grey.repeat(1, 3, 1, 1)))
    assert (model.channels, model.in_chans) == (1, 3)


def test_transformers_folder(transformers_folder):
    folder, trained = transformers_folder
    images = torch.rand(2, 3, 32, 32)
    expected = trained(normalised(images, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])).logits
    for name in (f"transformers:{folder}", str(folder)):
        torch.testing.assert_close(load(name)(images), expected)
    reordered = load(str(folder), ("cat", "ant"))
    torch.testing.assert_close(reordered(images), expected[:, [2, 0]])
    assert load(str(folder), ("a", "b")).needs_squeeze


def test_timm_checkpoint_through_transformers(timm_folder):
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load(f"transformers:{timm_folder[0]}")(images), load(str(timm_folder[0]))(images))


def test_fixed_input_size_resizes_with_antialias(tmp_path):
    shape = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, img_size=160, **shape).eval()
    saved = {"model_config": {"label_names": list(NAMES)}, "model_args": {"img_size": 160, **shape}}
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, **saved)
    loaded = load(str(tmp_path), size=64)
    images = torch.rand(1, 3, 64, 64)
    cfg = model.pretrained_cfg
    resized = nn.functional.interpolate(images, (160, 160), mode="bilinear", antialias=True)
    assert loaded.input_size == 160
    torch.testing.assert_close(loaded(images), model(normalised(resized, cfg["mean"], cfg["std"])))


@pytest.mark.parametrize(
    "name, pretrained, told",
    [
        ("resnte18", False, "Did you mean resnet18"),
        ("torchvision/aleznet", False, "Did you mean alexnet"),
        ("resnet18.v9_in1k", False, "resnet18.tv_in1k"),
        ("convnet_w32", True, "no published weights"),
        ("resnet18.v9_in1k", False, "or resnet18 for one from scratch"),
        ("resnet18.tv_in1k", True, "hf download timm/resnet18.tv_in1k"),
        (
            "timm/resnet18.tv_in1k",
            False,
            "hf download timm/resnet18.tv_in1k.*names of timm without a tag need no download",
        ),
        ("microsoft/resnet-50", False, "hf-hub:microsoft/resnet-50 .timm. or transformers:microsoft/resnet-50"),
        ("hf-hub:org/net", False, "weights of org/net.*hf download org/net"),
        ("transformers:org/net", False, "weights of org/net.*hf download org/net"),
        ("/no/such/folder", False, "config.json"),
    ],
)
def test_what_cannot_be_had_is_named_with_the_next_step(name, pretrained, told):
    with pytest.raises(ModelError, match=f"(?s)base_model.*{told}") as caught:
        load(name, pretrained=pretrained)
    assert caught.value.value == name


def test_what_a_name_means_is_seen_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.v2").mkdir()
    weights = (
        "resnet18.tv_in1k",
        "timm/resnet18.tv_in1k",
        "hf-hub:org/net",
        "transformers:org/net",
        "./net.v2",
        "net.v2",
    )
    scratch = "resnet18", "timm/resnet18", "torchvision/alexnet", "convnet_d1"
    assert all(map(means_weights, weights)) and not any(map(means_weights, scratch))
    assert weight_tag("timm/resnet18.tv_in1k") == "tv_in1k" and not any(map(weight_tag, (*scratch, *weights[2:])))
    assert without_tag(weights[1]) == "timm/resnet18" and without_tag("net.v2") == "net.v2"


def test_a_tag_is_refused_where_networks_begin_untrained_without_fetching_anything():
    images = ImageSpec(num_classes=3, image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ModelError, match="students='timm/resnet18.tv_in1k'.*Give timm/resnet18, its architecture"):
        load_untrained("students", "timm/resnet18.tv_in1k", images, key=Key(0))


def test_torchvision_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ModelError, match=r"alexnet-owt.*put that file into"):
        load("torchvision/alexnet", pretrained=True)


def test_damaged_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet"')
    with pytest.raises(ModelError, match="Write the folder again"):
        load(str(tmp_path))


def test_images_that_do_not_fit():
    with pytest.raises(ModelError, match="8 px or more"):
        load("convnet_w32", size=4)
    with pytest.raises(ModelError, match="channels"):
        ImageModel(nn.Flatten(), num_classes=2, channels=3, in_chans=1)


def registered(monkeypatch, function) -> str:
    """Registers `function` with timm for this test; the name that it then has."""
    import sys

    from timm.models import _registry

    names = {n: getattr(_registry, n).copy() for n in ("_model_entrypoints", "_model_to_module", "_module_to_models")}
    for name, before in names.items():
        monkeypatch.setattr(_registry, name, before)
    monkeypatch.setattr(sys.modules[__name__], "__all__", [], raising=False)
    timm.models.register_model(function)
    return function.__name__


def test_a_model_registered_without_a_pretrained_cfg(monkeypatch, tmp_path):
    def plain_net(pretrained=False, num_classes=10, in_chans=3, **_):
        return nn.Sequential(
            nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        )

    name = registered(monkeypatch, plain_net)
    model = load(name, size=12, channels=1)
    assert (model.in_chans, model.input_size, model.build["architecture"]) == (1, None, name)
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 4)
    folder = tmp_path / "kept"
    write_checkpoint(model, folder, 12)
    again = load(str(folder), size=12, channels=1)
    assert again.sha256() == model.sha256()
    # a folder of timm's own: such a function ignores its weights, and random ones would be taken for trained
    (folder / "image_model.json").unlink()
    with pytest.raises(ModelError, match=r"base_model=.* build_model_with_cfg"):
        load(str(folder), size=12, channels=1)


def test_a_registered_model_that_takes_no_channels_is_refused(monkeypatch):
    def closed_net(pretrained=False, num_classes=10, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    with pytest.raises(ModelError, match=r"closed_net.*in_chans=3.*keyword argument 'in_chans'.*Let the.*\*\*kwargs"):
        load(registered(monkeypatch, closed_net))


def test_freeze_and_hash_follow_the_weights():
    model = load("convnet_w32").train().freeze()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    before = model.sha256()
    assert model.double().sha256() != before  # dtype counts
    model.float().backbone.classifier.bias[0] += 1e-3
    assert model.sha256() != before
