"""Networks by name, fitted to a dataset: from timm, torchvision, transformers, the Hub or a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ModelError
from hf_condense.models.image_model import ImageModel
from hf_condense.models.networks import without_tag

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening


def load_model(
    name: str,
    images: ImageSpec,
    *,
    pretrained: bool = False,
    whitening: Whitening | None = None,
    key: Key,
) -> ImageModel:
    """A network by name, fitted to a dataset.

    Names: a timm model (`resnet18`, `timm/resnet18.a1_in1k`), `hf-hub:org/name` (a timm checkpoint),
    `transformers:org/name`, `torchvision/alexnet`, or a folder (`local-dir:/path` or just the path) with a timm or
    transformers checkpoint. Hub ids, folders and timm's names with a weight tag (`resnet18.tv_in1k`) always have their
    weights; other names have weights if `pretrained`, and otherwise give networks from scratch.

    A head with weights is used as it is only when its class names map to those of `images`; its rows are then put in the
    dataset's order. Otherwise it is replaced by a new one, and `needs_squeeze` is true. From scratch, timm's ResNets
    get a 3x3 stem without pooling up to 64 pixels, and grey images keep one channel where the library allows it.

    Args:
        images: its input. A network that cannot take their size has them resized to its own; one with weights
            keeps the mean and std that it was trained with.
        whitening: of the dataset, instead of both, where networks from scratch are to see whitened images.
        key: determines the random initialisation.

    Raises:
        ModelError: unknown name (near ones are listed), weights that cannot be downloaded, or a network that does
            not take such images, or would have to resize whitened ones.
    """
    from hf_condense.models import heads, networks

    with keyed(key):
        classes, channels = images.num_classes, images.channels
        made = networks.build(name, classes, images.image_size, channels, pretrained)
        rows = heads.class_rows(made.class_names, images.class_names)
        if rows is not None:
            heads.keep_rows(made.backbone, rows, made.num_classes, name)
        elif made.pretrained:
            heads.replace(made.backbone, classes, made.num_classes, name)
    model = ImageModel(
        made.backbone,
        num_classes=classes,
        mean=made.mean or images.mean,
        std=made.std or images.std,
        name=name,
        channels=channels,
        in_chans=made.in_chans,
        class_names=images.class_names,
        source={"id": made.id, "revision": made.revision, "pretrained": made.pretrained},
        needs_squeeze=rows is None,
        build={"library": made.library, "architecture": made.architecture, "model_args": made.model_args}
        | made.manifest,
        whitening=whitening,
    )
    return _fit_input(model, images.image_size, made.input_size, classes)


def load_untrained(
    field: str, name: str, images: ImageSpec, *, whitening: Whitening | None = None, key: Key
) -> ImageModel:
    """As `load_model`, with random weights; a name that stands for trained ones is refused.

    Args:
        field: the setting that held `name`.
        images, whitening, key: as for `load_model`.

    Raises:
        ModelError: as `load_model`; or the name is a Hub id, a folder or has a tag, which always have their weights.
    """
    if without_tag(name) != name:  # refused without fetching anything
        refuse_weights(field, name, without_tag(name))
    try:
        model = load_model(name, images, whitening=whitening, key=key)
    except ModelError as error:
        if error.field != "base_model":
            raise
        step = error.next_step.replace("--base_model", f"--{field}")
        raise ModelError(field, name, error.allowed, step) from error
    if model.source["pretrained"]:
        refuse_weights(field, name, architecture_name(model))
    return model


def refuse_weights(field: str, name: str, architecture: str | None) -> NoReturn:
    """Raises ModelError for a name of trained weights where a network begins untrained."""
    raise ModelError(
        field,
        name,
        "the name of an architecture: these networks begin untrained, and this one has trained weights",
        f"give {architecture}, its architecture" if architecture else "give a network of timm or torchvision by name",
    )


def architecture_name(model: ImageModel) -> str | None:
    """The name under which `load_model` makes such a network from scratch; None for those of transformers."""
    library, architecture, args = (model.build[part] for part in ("library", "architecture", "model_args"))
    if library == "transformers":
        return None
    if architecture == "small_stem_resnet":
        return args["base"]
    return f"torchvision/{args['arch']}" if architecture == "torchvision_net" else architecture


@torch.no_grad()
def _fit_input(model: ImageModel, image_size: int, own_size: int | None, num_classes: int) -> ImageModel:
    """Sets `input_size` where the backbone does not take images of `image_size`: the only sure test is to try."""
    model.eval()
    problem = ""
    for size in (None, own_size):
        model.input_size, side = size, size or image_size
        try:
            logits = model.classify(torch.zeros(1, model.in_chans, side, side))
            if tuple(logits.shape) == (1, num_classes):
                _check_whitening(model, side)
                return model.train()
            problem = f"gives {tuple(logits.shape)}, not (1, {num_classes})"
        except (RuntimeError, AssertionError, ValueError) as error:  # what torch, timm and transformers raise here
            problem = str(error).splitlines()[0]
    raise ModelError(
        "base_model",
        model.name,
        f"a network that takes {image_size} px images ({problem})",
        "choose another network or another --image_size",
    )


def _check_whitening(model: ImageModel, side: int) -> None:
    shape = (model.in_chans, side, side)
    if model.whitening is not None and model.whitening.shape != shape:
        raise ModelError(
            "base_model",
            f"{model.name}, which takes {shape}",
            f"a network for whitened images {model.whitening.shape}",
            "choose a ConvNet (convnet_...), which takes images as they are, or settings without ZCA",
        )
