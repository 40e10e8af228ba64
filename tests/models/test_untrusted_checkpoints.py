"""Folders of networks that strangers wrote: nothing in them chooses a keyword, an address, a path, a module or a size."""

import builtins
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, CondensationError, ModelError
from hf_condense.files import read_json
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.loading import load_model
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.records.base import sealed

NAMES = ("ant", "bee", "cat")


def load(name):
    return load_model(
        name,
        ImageSpec(num_classes=3, image_size=8, channels=1, mean=(0.4,), std=(0.2,), class_names=NAMES),
        key=Key(0),
    ).eval()


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(load("convnet_d1"), tmp_path / "model", 8)
    return tmp_path / "model"


def rewrite(path, change):
    """The JSON file as a stranger would write it: whole, with the right checksum."""
    found = read_json(path)
    change(found)
    path.write_text(json.dumps(sealed(found) if "checksum" in found else found))


def build_of(**values):
    return lambda facts: facts["build"].update(values)


def arguments_of(**values):
    return lambda facts: facts["build"]["model_args"].update(values)


def acting(tmp_path) -> dict:
    """Arguments of `timm.create_model` that would read or write elsewhere."""
    evil = tmp_path / "evil.pth"
    torch.save({"x": torch.zeros(1)}, evil)
    fetch = {"pretrained": True, "pretrained_cfg": {"url": evil.as_uri()}, "cache_dir": str(tmp_path / "victim")}
    return {
        "fetch": fetch, "file": {"pretrained": True, "pretrained_cfg": {"file": str(evil)}},
        "checkpoint": {"checkpoint_path": str(evil)}, "overlay": {"pretrained_cfg_overlay": {"url": evil.as_uri()}},
        "unknown": {"anything": 1}, "text": {"in_chans": "1"}, "huge": {"width": 10**9}, "nested": {"norm": {"a": []}},
    }  # fmt: skip


@pytest.mark.parametrize("what", ["fetch", "file", "checkpoint", "overlay", "unknown", "text", "huge", "nested"])
def test_arguments_that_act_are_refused_before_anything_is_built(folder, tmp_path, what):
    rewrite(folder / "image_model.json", arguments_of(**acting(tmp_path)[what]))
    with pytest.raises(ArtefactError, match=r"build\.model_args\.\w+ of .*image_model\.json"):
        read_checkpoint(folder)
    with pytest.raises(ModelError, match=r"model_args"):  # as --base_model
        load(str(folder))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "name", ["hf-hub:org/net", "local-dir:{}", "timm/resnet18", "resnet18.a1_in1k", "no_such_net", "../x"]
)
def test_only_plain_names_of_networks_are_looked_up(folder, name):
    rewrite(folder / "image_model.json", build_of(architecture=name.format(folder)))
    with pytest.raises(ArtefactError, match="architecture|plain name"):
        read_checkpoint(folder)


@pytest.mark.parametrize("base", ["local-dir:{}", "hf-hub:org/net", "vit_base_patch16_224", "small_stem_resnet"])
def test_the_network_inside_a_network_is_a_plain_name_too(folder, base):
    args = {"in_chans": 1, "base": base.format(folder)}
    rewrite(folder / "image_model.json", build_of(architecture="small_stem_resnet", model_args=args))
    with pytest.raises(ArtefactError):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        arguments_of(width=60_000),
        arguments_of(img_size=4000),
        arguments_of(depth=900),
        build_of(architecture="vit_giant_patch14_224", model_args={}),
    ],
)
def test_a_network_larger_than_its_weights_takes_no_memory(folder, change):
    rewrite(folder / "image_model.json", change)
    with pytest.raises(ArtefactError):
        read_checkpoint(folder)


def test_sizes_of_a_pruned_network_are_held_against_its_weights(folder):
    weights = load_file(folder / "model.safetensors")
    shapes = {name: list(value.shape) for name, value in weights.items()}
    groups = {"features.1": 128}

    def pruned(shapes, groups):
        rewrite(folder / "image_model.json", build_of(shapes=shapes, groups=groups))
        return read_checkpoint(folder)

    assert pruned(shapes, groups).sha256()
    for wrong in ({"classifier.weight": [10**6, 10**6]}, {"classifier.weight": []}, {"x.weight": [1]}):
        with pytest.raises(ArtefactError):
            pruned(shapes | wrong, groups)
    for wrong in ({"features.1": 127}, {"features.1": 10**9}, {"nowhere": 2}):
        with pytest.raises(ArtefactError):
            pruned(shapes, groups | wrong)


def test_a_changed_fact_is_noticed_though_the_weights_hold(folder):
    facts = read_json(folder / "image_model.json")
    (folder / "image_model.json").write_text(json.dumps(facts | {"input_size": 16}))
    with pytest.raises(ArtefactError, match="changed"):
        read_checkpoint(folder)
    del facts["checksum"]  # as earlier versions wrote it
    (folder / "image_model.json").write_text(json.dumps(facts))
    assert read_checkpoint(folder).input_size is None


def test_a_pool_names_folders_inside_itself(folder, tmp_path):
    model = load("convnet_d1")
    source = {"id": "convnet_d1", "revision": None, "pretrained": False}
    ModelPool([PoolMember("convnet_d1", model, 0.5, model.sha256(), source, 1, 10, 8)]).save(tmp_path / "pool")
    for name in ("../model", str(folder), "a/../../model", "", "."):
        rewrite(
            tmp_path / "pool" / "manifest.json",
            lambda found, name=name: found.update(members=[name], sha256={name: "0" * 64}),
        )
        with pytest.raises(ArtefactError, match=r"members\.0 of"):
            ModelPool.load(tmp_path / "pool")
    with pytest.raises(CondensationError):  # a stranger's member.json chooses no keyword
        rewrite(tmp_path / "pool" / "00-convnet_d1" / "member.json", lambda found: found.update(model=None))
        PoolMember.load(tmp_path / "pool" / "00-convnet_d1")


@pytest.fixture
def timm_folder(folder, tmp_path):
    """As a stranger publishes it: without our facts, so that timm would read it."""
    (folder / "image_model.json").unlink()
    return folder


@pytest.mark.parametrize("where", ["model_args", "pretrained_cfg"])
def test_a_timm_folder_chooses_sizes_only(timm_folder, tmp_path, where):
    config = timm_folder / "config.json"
    assert load(str(timm_folder))
    before = config.read_text()
    named = {"url": "file:///x", "file": "/etc/passwd", "custom_load": "hf", "hf_hub_filename": "evil.bin"}
    for values in acting(tmp_path).values() if where == "model_args" else [{k: v} for k, v in named.items()]:
        config.write_text(before)
        rewrite(config, lambda found, values=values: found[where].update(values))
        with pytest.raises(ModelError, match=rf"{where}"):
            load(str(timm_folder))
    assert not (tmp_path / "victim").exists()


@pytest.fixture
def transformers_folder(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    names = dict(enumerate(NAMES))
    ResNetForImageClassification(ResNetConfig(**shape, id2label=names)).save_pretrained(tmp_path / "hf")
    model = load_model(str(tmp_path / "hf"), ImageSpec(num_classes=3, image_size=32, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3, class_names=NAMES), key=Key(0))  # fmt: skip
    write_checkpoint(model, tmp_path / "own", 32)
    return tmp_path


@pytest.mark.parametrize("name", ["own", "hf"])
def test_code_of_a_transformers_folder_is_not_run(transformers_folder, name, monkeypatch):
    folder, ran = transformers_folder / name, transformers_folder / "ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import ResNetConfig as EvilConfig, ResNetForImageClassification as EvilNet\n"
    )
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForImageClassification": "evil.EvilNet"}
    rewrite(folder / "config.json", lambda found: found.update(auto_map=code, model_type="evil"))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")  # a person who says yes to everything
    with pytest.raises(CondensationError, match="auto_map"):
        read_checkpoint(folder) if name == "own" else load(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"_attn_implementation": "kernels-community/flash"}, {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"backbone": "resnet18", "use_pretrained_backbone": True}, {"model_type": "no-such-type"},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:org/net"},
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "/x"}},
        {"hidden_sizes": [8, 60_000]}, {"hidden_sizes": "8"}, {"depths": [1, 10**6]},
    ],
    ids=lambda change: ",".join(change),
)  # fmt: skip
def test_a_transformers_folder_chooses_a_network_of_the_library_of_the_size_of_its_weights(
    transformers_folder, change
):
    rewrite(transformers_folder / "own" / "config.json", lambda found: found.update(change))
    with pytest.raises(ArtefactError):
        read_checkpoint(transformers_folder / "own")


def test_pickled_weights_are_not_advised_to_be_opened(timm_folder):
    """torch's own words about a file with code in it say how to run that code."""
    import pickle

    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    (timm_folder / "model.safetensors").unlink()
    (timm_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(ModelError) as caught:
        load(str(timm_folder))
    assert "weights_only" not in str(caught.value)


def test_weights_with_tensors_that_nobody_asked_for_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"more": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ArtefactError, match="more"):
        read_checkpoint(folder)
