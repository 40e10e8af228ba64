"""Builds networks and loads weights from timm, torchvision, transformers, the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_condense.config import nearest
from hf_condense.errors import ModelError
from hf_condense.files import read_json
from hf_condense.models.architectures import check_architecture, first_line, is_timm_resnet, registered_timm
from hf_condense.records.base import checked
from hf_condense.records.networks import config_kind

SMALL_STEM_UP_TO = 64  # pixels; above it ResNets keep their 7x7 stem and pooling


@dataclass
class Network:
    """A backbone and the facts from its library. `mean`, `std` and `class_names` are None where it was not trained."""

    backbone: nn.Module
    library: str
    architecture: str
    id: str
    num_classes: int
    in_chans: int = 3
    model_args: dict[str, Any] = field(default_factory=dict)
    input_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: list[tuple[str, ...]] | None = None
    revision: str | None = None
    pretrained: bool = False
    manifest: dict[str, Any] = field(default_factory=dict)  # of a pruned network, as in `checkpoints`


def build(name: str, num_classes: int, image_size: int, channels: int, pretrained: bool) -> Network:
    """The network that `name` stands for (see `load_model`); from scratch it has `num_classes` outputs.

    Raises:
        ModelError: unknown name, or weights that cannot be fetched.
    """
    prefix, _, rest = name.partition(":")
    if prefix == "transformers":
        return _transformers(name, rest)
    if prefix in ("hf-hub", "hf_hub"):
        return _timm_checkpoint(name, f"hf-hub:{rest}", rest)
    if prefix == "local-dir" or is_path(name):
        return _folder(name, Path(rest if prefix == "local-dir" else name).expanduser())
    if name.startswith("torchvision/"):
        return _torchvision(name, name.removeprefix("torchvision/"), num_classes, pretrained)
    return _timm(name, name.removeprefix("timm/"), num_classes, image_size, channels, pretrained)


def means_weights(name: str) -> bool:
    """Whether `name` always stands for trained weights: Hub ids, folders and names of timm with a tag do."""
    sources = "transformers", "hf-hub", "hf_hub", "local-dir"
    return name.partition(":")[0] in sources or is_path(name) or weight_tag(name) != ""


def weight_tag(name: str) -> str:
    """`tv_in1k` of `timm/resnet18.tv_in1k`: the tag of weights in a name of timm; otherwise an empty string."""
    plain = ":" not in name and not is_path(name) and not name.startswith("torchvision/")
    return name.removeprefix("timm/").partition(".")[2] if plain else ""


def without_tag(name: str) -> str:
    """The name of the same network from scratch, where it is one of timm."""
    tag = weight_tag(name)
    return name.removesuffix(f".{tag}") if tag else name


def is_path(name: str) -> bool:
    """Whether the name of a network is a folder."""
    return Path(name).is_dir() or name.startswith(("/", "./", "../", "~"))


@contextmanager
def _fetching(name: str, id: str) -> Iterator[None]:
    """Turns the exceptions of libraries that fetch weights into one error that names the next step."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, GatedRepoError):
            step = f"accept the terms on https://huggingface.co/{id}, then run `hf auth login`"
        elif isinstance(error, RepositoryNotFoundError):
            step = "check the spelling of the id; for a private repository run `hf auth login`"
        elif Path(id).exists():
            step = "write the folder again with timm's save_for_hf or transformers' save_pretrained"
        elif id.startswith("https:"):
            step = f"connect to the network, or put that file into {torch.hub.get_dir()}/checkpoints"
        else:
            step = (
                f"connect to the network, or run `hf download {id} --local-dir FOLDER` where there is one and give "
                "that folder as --base_model; names of timm without a tag need no download unless --pretrained"
            )
        raise ModelError("base_model", name, f"weights of {id} that can be read ({reason})", step) from error


def _timm(name: str, model: str, num_classes: int, image_size: int, channels: int, pretrained: bool) -> Network:
    timm = registered_timm()
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        step = nearest(architecture, timm.list_models())
        if "/" in model:
            step = f"for a repository of the Hub write hf-hub:{model} (timm) or transformers:{model}"
        raise ModelError("base_model", name, "a model that timm knows", step)
    tagged = timm.list_pretrained(architecture)
    if (tag or pretrained) and (model if tag else architecture) not in [t if tag else t.split(".")[0] for t in tagged]:
        known = ", ".join(tagged) or f"none: {architecture} has no published weights"
        drop = f"{architecture} for one from scratch" if tag else "drop --pretrained"
        raise ModelError("base_model", name, f"published weights: {known}", f"name one of them, or {drop}")
    if tag or pretrained:
        return _timm_checkpoint(name, model, timm.get_pretrained_cfg(model).hf_hub_id or model)
    known = timm.get_pretrained_cfg(architecture)
    cfg = known.to_dict() if known else {}  # a model registered without one has no size and no limits that we know of
    args: dict[str, Any] = {"in_chans": channels}
    smallest = (cfg.get("min_input_size") or (3, 32, 32))[-1]
    if cfg.get("fixed_input_size") and image_size >= smallest:
        args["img_size"] = image_size
    if image_size <= SMALL_STEM_UP_TO and is_timm_resnet(architecture):
        architecture, args["base"] = "small_stem_resnet", architecture
    backbone, args = _created(timm, name, architecture, num_classes, args)
    size = args.get("img_size") or cfg.get("input_size", (None,))[-1]
    return Network(backbone, "timm", architecture, model, num_classes, channels, args, size)


def _created(
    timm, name: str, architecture: str, num_classes: int, args: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A backbone from scratch and the arguments it was made with: without `img_size` where it does not take that."""
    plain = {k: v for k, v in args.items() if k != "img_size"}
    try:
        return timm.create_model(architecture, num_classes=num_classes, **args), args
    except (
        AssertionError,
        ValueError,
        RuntimeError,
        TypeError,
    ) as error:  # patch sizes that do not divide, and the like
        problem = error
    try:
        return timm.create_model(architecture, num_classes=num_classes, **plain), plain
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        wanted = f"a model that can be made with num_classes={num_classes}, in_chans={args['in_chans']} ({problem})"
        step = "let the registered function take num_classes, in_chans and **kwargs, or choose another network"
        raise ModelError("base_model", name, wanted, step) from error


def _timm_checkpoint(name: str, model: str, id: str) -> Network:
    """A checkpoint that timm reads: a tagged model, `hf-hub:` or `local-dir:`.

    config.json of the latter two is untrusted: it is checked before timm sees it, at the commit that timm then reads.
    """
    from huggingface_hub import hf_hub_download

    timm = registered_timm()
    repository, _, revision = id.partition("@")
    with _fetching(name, repository):
        facts, read = {"architecture": model.partition(".")[0]}, model
        if model.startswith("local-dir:"):
            facts = _checked_config(Path(id) / "config.json")
        elif model.startswith("hf-hub:"):
            config = Path(hf_hub_download(repository, "config.json", revision=revision or None))
            if "architecture" not in read_json(config):
                step = f"name it transformers:{id}"
                raise ModelError("base_model", name, "a repository with a timm checkpoint", step)
            facts, read = _checked_config(config), f"hf-hub:{repository}@{config.parent.name}"
        backbone = timm.create_model(read, pretrained=True)
    cfg = getattr(backbone, "pretrained_cfg", None)
    if not cfg:  # such a function has also ignored the weights it was given
        allowed = "an architecture that is built by timm's build_model_with_cfg, which reads the checkpoint"
        raise ModelError("base_model", name, allowed, "build it so, or give the network by its registered name")
    args = {k: v for k, v in (facts.get("model_args") or {}).items() if k != "num_classes"}
    return Network(
        backbone,
        "timm",
        facts["architecture"],
        id,
        backbone.num_classes,
        cfg["input_size"][0],
        args,
        cfg["input_size"][-1],
        cfg["mean"],
        cfg["std"],
        _timm_class_names(cfg, backbone.num_classes),
        _cached_revision(id),
        True,
    )


def _checked_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint, checked to choose only sizes.

    Raises:
        ArtefactError: it is damaged, or names files, addresses or code.
        ModelError: its architecture is none that timm has.
    """
    found = read_json(path)
    # old versions of timm wrote the entries of `pretrained_cfg` beside it
    nested = {"pretrained_cfg": found} if "architecture" in found and "pretrained_cfg" not in found else {}
    checked(config_kind(found), found | nested, path, "ask whoever made it for a checkpoint without that")
    if "architecture" in found:
        check_architecture(found["architecture"], found.get("model_args") or {})
    return found


def _timm_class_names(cfg: dict, num_classes: int) -> list[tuple[str, ...]] | None:
    labels = cfg.get("label_names")
    if labels:
        labels = [labels[k] for k in sorted(labels, key=int)] if isinstance(labels, dict) else list(labels)
        described = cfg.get("label_descriptions") or {}
        return [(n, described[n]) if n in described else (n,) for n in labels]
    return _imagenet_names() if num_classes == 1000 and "in1k" in str(cfg.get("tag")) else None


def _imagenet_names() -> list[tuple[str, ...]]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return list(zip(info.label_names(), info.label_descriptions()))


def _cached_revision(id: str) -> str | None:
    """The commit that the local Hub cache holds for `id`; None for what did not come from the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, _, revision = id.partition("@")
    ref = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "refs" / (revision or "main")
    return ref.read_text().strip() if ref.is_file() else revision or None


def _torchvision(name: str, model: str, num_classes: int, pretrained: bool) -> Network:
    from torchvision import models as zoo

    known = zoo.list_models(module=zoo)
    if model not in known:
        raise ModelError("base_model", name, "a classification model of torchvision", nearest(model, known))
    registered_timm()
    if not pretrained:
        backbone = zoo.get_model(model, weights=None, num_classes=num_classes)
        return Network(
            backbone, "timm", "torchvision_net", name, num_classes, model_args={"arch": model}, input_size=224
        )
    published = zoo.get_model_weights(model)
    # V1 where there is one: the weights that EDC, G-VBSM and SRe2L observed
    weights = getattr(published, "IMAGENET1K_V1", None) or published.DEFAULT
    with _fetching(name, weights.url):
        backbone = zoo.get_model(model, weights=weights)
    view, categories = weights.transforms(), weights.meta["categories"]
    names = [(*known, plain) for known, plain in zip(_imagenet_names(), categories)]
    return Network(
        backbone,
        "timm",
        "torchvision_net",
        name,
        len(categories),
        3,
        {"arch": model},
        view.crop_size[0],
        view.mean,
        view.std,
        names,
        f"{weights.name} {weights.url.rsplit('/', 1)[-1]}",
        True,
    )


def _folder(name: str, folder: Path) -> Network:
    if (folder / "image_model.json").is_file():
        return _own_checkpoint(name, folder)
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            "base_model",
            name,
            "a folder with config.json and model.safetensors (timm or transformers)",
            "save the model with timm's save_for_hf or transformers' save_pretrained",
        )
    with _fetching(name, str(folder)):
        facts = _checked_config(config)
    if "model_type" not in facts:
        return _timm_checkpoint(name, f"local-dir:{folder}", str(folder))
    return _transformers(name, str(folder))


def _own_checkpoint(name: str, folder: Path) -> Network:
    """A folder that this library wrote: also of pruned networks, and checked by its sha256."""
    from hf_condense.models.checkpoints import read_checkpoint

    with _fetching(name, str(folder)):
        model = read_checkpoint(folder)
        config = read_json(folder / "config.json")
    seen = config.get("pretrained_cfg", {}).get("input_size")
    build = dict(model.build)
    library, architecture, args = (build.pop(k) for k in ("library", "architecture", "model_args"))
    return Network(
        model.backbone,
        library,
        architecture,
        str(folder),
        model.num_classes,
        model.in_chans,
        args,
        model.input_size or (seen[-1] if seen else None),
        model.mean.flatten().tolist(),
        model.std.flatten().tolist(),
        None if model.class_names is None else [(n,) for n in model.class_names],
        pretrained=True,
        manifest=build,
    )


def _transformers(name: str, id: str) -> Network:
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig, AutoModelForImageClassification

    repository, _, revision = id.partition("@")
    with _fetching(name, repository):
        place, at = Path(repository), revision or None
        if not place.is_dir():
            place = Path(hf_hub_download(repository, "config.json", revision=at)).parent
            at = place.name  # the commit that was checked
        _checked_config(place / "config.json")
        config = AutoConfig.from_pretrained(repository, revision=at, trust_remote_code=False)
        # timm's own checkpoints name num_classes twice unless model_args is given again
        wrapped = {"model_args": {}} if config.model_type == "timm_wrapper" else {}
        backbone = AutoModelForImageClassification.from_pretrained(
            repository, revision=at, trust_remote_code=False, **wrapped
        )
        seen = _preprocessing(repository, at, config)
    labels = [str(config.id2label[k]) for k in sorted(config.id2label)]
    named = any(label != f"LABEL_{k}" for k, label in enumerate(labels))
    return Network(
        backbone,
        "transformers",
        config.model_type,
        id,
        len(labels),
        class_names=[(label,) for label in labels] if named else None,
        revision=getattr(config, "_commit_hash", None) or revision or None,
        pretrained=True,
        **seen,
    )


def _preprocessing(repository: str, revision: str | None, config) -> dict[str, Any]:
    """Channels, side, mean and std that a transformers checkpoint was trained with, where recorded."""
    from transformers import AutoImageProcessor

    if config.model_type == "timm_wrapper":
        cfg = config.pretrained_cfg
        return {
            "in_chans": cfg["input_size"][0],
            "input_size": cfg["input_size"][-1],
            "mean": cfg["mean"],
            "std": cfg["std"],
        }
    side = getattr(config, "image_size", None) or 224
    seen = {"in_chans": getattr(config, "num_channels", 3), "input_size": side if isinstance(side, int) else side[-1]}
    try:
        processor = AutoImageProcessor.from_pretrained(repository, revision=revision, trust_remote_code=False)
    except (OSError, ValueError):  # no preprocessor_config.json: the dataset's mean and std are taken
        return seen
    if not getattr(processor, "do_normalize", True):
        return seen | {"mean": (0.0,), "std": (1.0,)}
    return seen | {"mean": processor.image_mean, "std": processor.image_std}
