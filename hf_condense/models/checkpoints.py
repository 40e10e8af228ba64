"""Writes and reads a trained network as a folder that timm or transformers also loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_condense.errors import ArtefactError, CondensationError, ModelError
from hf_condense.files import load_tensor_shapes, read_json, redo, write_json
from hf_condense.models.architectures import build_timm, first_line, timm_shapes
from hf_condense.models.image_model import ImageModel
from hf_condense.records.base import checked, read_record, write_record
from hf_condense.records.networks import ModelFacts, TransformersConfig

FACTS = "image_model.json"  # facts that neither library stores


def write_checkpoint(model: ImageModel, folder: Path, image_size: int) -> None:
    """Writes weights and configuration into `folder`: safetensors and JSON only, never a pickle.

    timm networks load anywhere with `timm.create_model("local-dir:FOLDER", pretrained=True)`; for those that this
    library registers, import their module of `hf_condense.models` (convnet, cifar_nets, cifar_resnets, resnet_ap)
    before. transformers networks load with `AutoModelForImageClassification.from_pretrained(FOLDER)`. Pruned ones come
    back with `read_checkpoint` only: their shapes are stored beside the weights, because no library has their
    architecture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    if model.build["library"] == "transformers":
        _write_transformers(model, folder, mean, std)
    else:
        _write_timm(model, folder, image_size, mean, std)
    build = model.build | (shape_manifest(model.backbone) if "shapes" in model.build else {})
    facts = {
        "name": model.name,
        "num_classes": model.num_classes,
        "channels": model.channels,
        "in_chans": model.in_chans,
        "input_size": model.input_size,
        "mean": mean,
        "std": std,
        "class_names": model.class_names,
        "source": model.source,
        "needs_squeeze": model.needs_squeeze,
        "build": build,
        "sha256": model.sha256(),
    }
    write_record(folder / FACTS, ModelFacts, facts)


def _write_timm(model: ImageModel, folder: Path, image_size: int, mean: list, std: list) -> None:
    _save_weights(model, folder)
    known = getattr(model.backbone, "pretrained_cfg", None) or {}
    config: dict[str, Any] = {
        "architecture": model.build["architecture"],
        "num_classes": model.num_classes,
        "num_features": getattr(model.backbone, "num_features", None),
        "model_args": model.build["model_args"],
        "pretrained_cfg": {
            "num_classes": model.num_classes,
            "input_size": [model.in_chans, *[model.input_size or image_size] * 2],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": mean,
            "std": std,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }
    if model.class_names:
        config["label_names"] = list(model.class_names)
    write_json(folder / "config.json", config)


def _save_weights(model: ImageModel, folder: Path) -> None:
    # clones: tied weights share memory, which safetensors refuses
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.backbone.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _write_transformers(model: ImageModel, folder: Path, mean: list, std: list) -> None:
    names = model.class_names or [f"LABEL_{k}" for k in range(model.num_classes)]
    config = model.backbone.config
    config.id2label = dict(enumerate(names))
    config.label2id = {n: k for k, n in enumerate(names)}
    if "shapes" in model.build:  # nothing of transformers loads these, so that they keep the names they have here
        config.save_pretrained(folder)
        _save_weights(model, folder)
    else:
        model.backbone.save_pretrained(folder)
    read = {"do_normalize": True, "image_mean": mean, "image_std": std, "do_rescale": True, "rescale_factor": 1 / 255}
    kind = "ViTImageProcessor"  # resize, rescale, normalise: what every image processor of transformers does
    size = {"height": model.input_size or 224, "width": model.input_size or 224}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": kind, "size": size, **read})


def read_checkpoint(folder: Path | str) -> ImageModel:
    """The network of a folder written by `write_checkpoint`, on the CPU.

    The folder is untrusted: only architectures that timm, torchvision or transformers provide are built,
    with arguments that are sizes and counts, and only if the weights beside them are of that size.

    Raises:
        ArtefactError: a file is missing or damaged, a fact is not allowed, or the weights differ from those that were
            written.
    """
    folder = Path(folder)
    facts = read_record(folder / FACTS, ModelFacts)
    digest = facts.pop("sha256")
    facts.pop("checksum", None)
    try:
        read = read_transformers if facts["build"]["library"] == "transformers" else _read_timm
        model = ImageModel(read(folder, facts), **facts)
    except ArtefactError:
        raise
    except CondensationError as error:
        raise ArtefactError(str(folder), error.value, error.allowed, redo(folder)) from error
    except Exception as error:  # other libraries raise errors of many types on unsuitable arguments
        raise ArtefactError(str(folder), first_line(error), "a whole checkpoint", redo(folder)) from error
    if model.sha256() != digest:
        raise ArtefactError(str(folder), model.sha256(), f"weights with sha256 {digest}", redo(folder))
    return model


def _read_timm(folder: Path, facts: dict[str, Any]) -> nn.Module:
    build, weights = facts["build"], folder / "model.safetensors"
    there = load_tensor_shapes(weights)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and at once replaced
        needed = timm_shapes(build["architecture"], facts["num_classes"], build["model_args"], there)
        if "shapes" in build:
            _check_pruned(build, needed)
            needed = build["shapes"]
        if needed != there:
            name = next(n for n in sorted({*needed, *there}) if needed.get(n) != there.get(n))
            raise ModelError("weights", f"{name} of shape {there.get(name)}", f"the shape {needed.get(name)}", "")
        backbone = build_timm(build["architecture"], num_classes=facts["num_classes"], **build["model_args"])
    if "shapes" in build:
        reshape(backbone, build["shapes"], build["groups"])
    backbone.load_state_dict(load_file(weights))
    return backbone


def _check_pruned(build: dict[str, Any], whole: dict[str, list[int]]) -> None:
    """Raises ModelError where shapes are not those of a part of the network, or groups do not divide their layer."""
    for name, shape in build["shapes"].items():
        before = whole.get(name, [])
        if len(shape) != len(before) or any(now > then for now, then in zip(shape, before)):
            raise ModelError("shapes", f"{name} {shape}", f"a part of {before}", "")
    for name, groups in build["groups"].items():
        outputs = build["shapes"].get(f"{name}.weight", [0])[0]
        if outputs == 0 or outputs % groups:
            raise ModelError("groups", f"{name} {groups}", f"a divisor of its {outputs} channels", "")


def read_transformers(folder: Path, facts: dict[str, Any]) -> nn.Module:
    """The network of a transformers folder: safetensors only, no code but that of the library, no larger than its weights."""
    from transformers import AutoConfig, AutoModelForImageClassification

    checked(TransformersConfig, read_json(folder / "config.json"), folder / "config.json", redo(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    there = load_tensor_shapes(folder / "model.safetensors")
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    needed = {name: list(value.shape) for name, value in network.state_dict().items()}
    if "shapes" in facts["build"]:
        return _read_pruned_transformers(folder, config, facts["build"], needed, there)
    large = next((n for n, shape in needed.items() if shape != there.get(n, shape)), None)
    missing = sum(math.prod(shape) for n, shape in needed.items() if n not in there)
    if large or missing > sum(map(math.prod, there.values())):  # tied weights are stored once
        raise ModelError("weights", "of another size", "those of the network in config.json", "")
    return AutoModelForImageClassification.from_pretrained(
        folder, config=config, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )


def _read_pruned_transformers(
    folder: Path, config: Any, build: dict[str, Any], whole: dict[str, list[int]], there: dict[str, list[int]]
) -> nn.Module:
    from transformers import AutoModelForImageClassification

    _check_pruned(build, whole)
    if build["shapes"] != there:
        raise ModelError("weights", "of other sizes", "those of the pruned network", "")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and at once replaced
        network = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    reshape(network, build["shapes"], build["groups"])
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network


def shape_manifest(backbone: nn.Module) -> dict[str, Any]:
    """What defines a pruned network: "shapes" of all tensors, "groups" of layers that have some."""
    groups = {
        name: getattr(module, "groups", None) or module.num_groups
        for name, module in backbone.named_modules()
        if isinstance(module, nn.GroupNorm) or (isinstance(module, nn.Conv2d) and module.groups > 1)
    }
    return {"shapes": {k: list(v.shape) for k, v in backbone.state_dict().items()}, "groups": groups}


def reshape(backbone: nn.Module, shapes: dict[str, list[int]], groups: dict[str, int]) -> None:
    """Gives every layer of the unpruned architecture the sizes of the pruned one; the weights are loaded afterwards.

    Raises:
        KeyError: the architecture has no such tensor.
    """
    there = backbone.state_dict(keep_vars=True)
    for name, shape in shapes.items():
        if list(there[name].shape) == shape:
            continue
        place, _, leaf = name.rpartition(".")
        new = torch.empty(shape, dtype=there[name].dtype)
        is_weight = isinstance(there[name], nn.Parameter)
        setattr(backbone.get_submodule(place), leaf, nn.Parameter(new) if is_weight else new)
    for name, module in backbone.named_modules():
        _note_sizes(module, groups.get(name, 1))


def _note_sizes(module: nn.Module, groups: int) -> None:
    """Writes the sizes of a layer's tensors into the attributes that its forward pass reads."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Conv2d):
        module.groups, module.out_channels, module.in_channels = groups, len(weight), weight.shape[1] * groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif weight is None:
        return
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(weight)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels, module.num_groups = len(weight), groups
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
