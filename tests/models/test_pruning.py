"""Pruning: smaller by the known ratio, different for each key, and back from disk exactly as it was."""

import pytest
import timm
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError, ModelError
from hf_condense.files import read_json, write_json
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model
from hf_condense.models.members import count_macs
from hf_condense.models.pruning import prune
from hf_condense.models.taps import Taps

KEY = Key(0, "pruning")


def load(name, size=8, channels=1, classes=10, **kwargs):
    return load_model(name, ImageSpec(num_classes=classes, image_size=size, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels, class_names=[f"class {c}" for c in range(classes)], **kwargs), key=Key(0)).eval()  # fmt: skip


@pytest.fixture(scope="module")
def wide():
    return load("cifar_wrn16_2")


def test_cost_falls_as_measured_for_resnet18():
    """Ratios of the multiply-adds of a ResNet-18 with a 3x3 stem: 0.59, 0.45 and 0.32 at 0.2, 0.3 and 0.4."""
    base = load("cifar_resnet18", 32, 3, 200)
    whole = count_macs(base, 32)
    for ratio, known in ((0.2, 0.59), (0.3, 0.45), (0.4, 0.32)):
        pruned = prune(base, ratio, KEY, image_size=32)
        assert count_macs(pruned, 32) / whole == pytest.approx(known, rel=0.05)
        assert pruned.backbone.fc.in_features == pruned.backbone.layer4[1].bn2.num_features < 512


@pytest.mark.parametrize("name", ["convnet_w32", "convnet_d1", "cifar_resnet18", "cifar_wrn16_2", "cifar_mobilenetv2"])
def test_saved_and_loaded_it_gives_the_same_logits(name, tmp_path):
    size = 32 if name == "cifar_mobilenetv2" else 8
    base = load(name, size)
    before = base.sha256()
    pruned = prune(base, 0.25, KEY, image_size=size)
    assert base.sha256() == before and "shapes" not in base.build, "the base stays as it is"
    images = torch.rand(3, 1, size, size)
    assert pruned(images).shape == (3, 10) and pruned.parameter_count < 0.8 * base.parameter_count
    write_checkpoint(pruned, tmp_path, size)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}, "nothing is pickled"
    again = read_checkpoint(tmp_path).eval()
    assert torch.equal(again(images), pruned(images)) and again.sha256() == pruned.sha256()
    assert [str(m) for m in again.modules()] == [str(m) for m in pruned.modules()], "layers say their own sizes"


def test_no_layer_is_rounded_away():
    pruned = prune(load("convnet_w32"), 0.3, KEY, image_size=8).backbone.features
    assert [m.out_channels for m in pruned if isinstance(m, torch.nn.Conv2d)] == [20, 20, 20]  # 22 in steps of 4
    assert all(m.num_groups == m.num_channels for m in pruned if isinstance(m, torch.nn.GroupNorm))
    nine_tenths = prune(load("cifar_wrn16_2"), 0.9, KEY, image_size=8)
    assert min(m.out_channels for m in nine_tenths.modules() if isinstance(m, torch.nn.Conv2d)) >= 1


def test_taps_find_the_channels_that_are_left(wide):
    pruned = prune(wide, 0.3, KEY, image_size=8)
    with Taps(pruned, patch=4, kinds=("norm",)) as taps:
        pruned(torch.rand(2, 1, 8, 8))
        first, _ = taps.collect()
    left = [m.num_features for m in pruned.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [s.stop - s.start for s in taps.layout.segments] == left and len(first) == sum(left)
    assert sum(left) < 0.75 * sum(m.num_features for m in wide.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_equal_ratios_give_equal_shapes_and_other_networks(wide):
    one, two, same = (prune(wide, 0.3, Key(seed), image_size=8) for seed in (1, 2, 1))
    assert one.sha256() == same.sha256() != two.sha256()
    assert one.build["shapes"] == two.build["shapes"]
    plain = [prune(wide, 0.3, Key(seed), noise=0.0, image_size=8).sha256() for seed in (1, 2)]
    assert plain[0] == plain[1], "only the noise makes them different"


def test_the_least_important_channels_go():
    base = load("convnet_d1")
    with torch.no_grad():  # every second channel is small wherever it appears
        base.backbone.features[0].weight[::2] *= 0.01
        base.backbone.classifier.weight.view(10, 128, 16)[:, ::2] *= 0.01
    kept = prune(base, 0.5, KEY, noise=0.1, image_size=8).backbone.features[0].weight
    assert torch.equal(kept, base.backbone.features[0].weight[1::2])
    with torch.no_grad():  # turned round, the others go
        base.backbone.features[0].weight[::2] *= 1e4
        base.backbone.classifier.weight.view(10, 128, 16)[:, ::2] *= 1e4
    kept = prune(base, 0.5, KEY, noise=0.1, image_size=8).backbone.features[0].weight
    assert torch.equal(kept, base.backbone.features[0].weight[::2])


def test_a_folder_is_a_base_model_with_its_classes_checked(wide, tmp_path):
    pruned = prune(wide, 0.3, KEY, image_size=8)
    pruned.needs_squeeze = False
    write_checkpoint(pruned, tmp_path / "a", 8)
    images = torch.rand(2, 1, 8, 8)
    names = ("class 7", "class 2", "class 4")
    taken = load_model(
        str(tmp_path / "a"),
        ImageSpec(num_classes=3, image_size=8, channels=1, mean=(0,), std=(1,), class_names=names),
        key=KEY,
    ).eval()
    torch.testing.assert_close(taken(images), pruned(images)[:, [7, 2, 4]])
    assert not taken.needs_squeeze and taken.source["pretrained"]
    write_checkpoint(taken, tmp_path / "b", 8)  # with the head's new shape
    assert torch.equal(read_checkpoint(tmp_path / "b").eval()(images), taken(images))
    other = load_model(str(tmp_path / "a"), ImageSpec(num_classes=2, image_size=8, channels=1, mean=(0,), std=(1,), class_names=("x", "y")), key=KEY)  # fmt: skip
    assert other.needs_squeeze, "the classes are others"


def test_damage_and_plain_timm(wide, tmp_path):
    write_checkpoint(prune(wide, 0.3, KEY, image_size=8), tmp_path, 8)
    with pytest.raises(RuntimeError, match="size mismatch"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    facts = read_json(tmp_path / "image_model.json")
    del facts["checksum"]
    facts["build"]["shapes"]["classifier.weight"][1] += 1
    write_json(tmp_path / "image_model.json", facts)
    with pytest.raises(ArtefactError, match=r"classifier.weight of shape \[10, 88\]"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="weights of .* that can be read"):
        load_model(str(tmp_path), ImageSpec(num_classes=10, image_size=8, channels=1, mean=(0,), std=(1,)), key=KEY)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5])
def test_ratios_that_leave_nothing_are_refused(wide, ratio):
    with pytest.raises(ConfigError, match="prune_ratios"):
        prune(wide, ratio, KEY, image_size=8)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_attention_keeps_its_size_and_feed_forward_blocks_lose_channels(library, tmp_path, caplog):
    """Vision transformers of both libraries come back from disk as they were pruned."""
    caplog.set_level("INFO")
    base = load("test_vit", 32, 3) if library == "timm" else small_transformer()
    pruned = prune(base, 0.3, KEY, image_size=32)
    assert "in its feed-forward blocks only" in caplog.text
    before, after = (dict(model.backbone.named_parameters()) for model in (base, pruned))
    changed = {name for name, value in after.items() if value.shape != before[name].shape}
    hidden = ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight")
    hidden += ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")
    assert changed and all(name.endswith(hidden) and "attention" not in name for name in changed)
    images = torch.rand(2, 3, 32, 32)
    write_checkpoint(pruned, tmp_path, 32)
    again = read_checkpoint(tmp_path).eval()
    assert torch.equal(again(images), pruned(images)) and again.sha256() == pruned.sha256() != base.sha256()
    assert [str(m) for m in again.modules()] == [str(m) for m in pruned.modules()]


def small_transformer() -> ImageModel:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10))
    build = {"library": "transformers", "architecture": "ViTForImageClassification", "model_args": {}}
    return ImageModel(network, num_classes=10, input_size=32, name="vit", build=build, needs_squeeze=False).eval()


def test_layer_norms_of_a_convolutional_network_are_pruned_with_their_channels():
    base = load("test_convnext", 32, 3)
    norms = [
        [m.normalized_shape[0] for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
        for model in (base, prune(base, 0.3, KEY, image_size=32))
    ]
    assert len(norms[0]) == len(norms[1]) > 4 and all(now < then for then, now in zip(*norms))


def test_what_cannot_be_pruned_is_said_with_the_next_step():
    name = "cifar_shufflenetv2_x0_5"
    with pytest.raises(ModelError, match=f"(?s){name}.*can be pruned.*--pool_kind prior"):
        prune(load(name, 32), 0.3, KEY, image_size=32)


def test_a_network_with_nothing_to_lose_is_refused():
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ModelError, match="takes no channel"):
        prune(ImageModel(head, num_classes=10, channels=1), 0.3, KEY, image_size=8)


@pytest.mark.parametrize("fault", [TimeoutError, MemoryError, torch.OutOfMemoryError])
def test_faults_that_are_not_the_networks_are_not_taken_for_it(fault):
    network = load("convnet_d1")

    def fail(*_):
        raise fault("the machine")

    network.backbone.register_forward_pre_hook(fail)
    with pytest.raises(fault, match="the machine"):
        prune(network, 0.3, Key(0), image_size=8)
