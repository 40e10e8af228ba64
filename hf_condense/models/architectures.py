"""Architectures by plain name: validates the choice of an untrusted file, and the size of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_condense.errors import ModelError


def registered_timm():
    """timm, with the networks of this library registered in it."""
    import timm

    from hf_condense.models import cifar_nets, cifar_resnets, convnet, resnet_ap  # noqa: F401  (their import registers them)

    return timm


def is_timm_resnet(architecture: str) -> bool:
    """Whether a network that timm knows is one of its ResNets, whose stem can be replaced."""
    from hf_condense.models.cifar_nets import SMALL_STEMS

    module = registered_timm().model_entrypoint(architecture).__module__
    return module == "timm.models.resnet" and architecture not in SMALL_STEMS


def build_timm(architecture: str, **args: Any) -> nn.Module:
    """A network of timm, or of this library, by its plain name and without weights. Raises as `check_architecture`."""
    check_architecture(architecture, args)
    return registered_timm().create_model(architecture, pretrained=False, **args)


def check_architecture(architecture: str, args: dict[str, Any]) -> None:
    """Checks names of networks, also of a base network: no repositories, folders or weights.

    Raises:
        ModelError: timm or torchvision have no such network.
    """
    from torchvision import models as zoo

    timm = registered_timm()
    if not timm.is_model(architecture):
        raise ModelError(
            "architecture", architecture, "the plain name of a network of this timm", "install another timm"
        )
    if "base" in args and not (timm.is_model(args["base"]) and is_timm_resnet(args["base"])):
        raise ModelError("base", args["base"], "the plain name of a ResNet of timm", "install another timm")
    if "arch" in args and args["arch"] not in zoo.list_models(module=zoo):
        raise ModelError(
            "arch", args["arch"], "a classification network of torchvision", "install another torchvision"
        )


def timm_shapes(
    architecture: str, num_classes: int, args: dict[str, Any], there: dict[str, list[int]]
) -> dict[str, list[int]]:
    """Shapes of the tensors of a network without building it: untrusted sizes allocate no memory before the check.

    Args:
        there: shapes of the stored weights.
    """
    if (
        architecture == "torchvision_net"
    ):  # some of them cannot be built without memory; they take no sizes but this one
        heads = any(shape[:1] == [num_classes] for shape in there.values())
        if not heads:
            raise ModelError("num_classes", num_classes, "as many as the last layer has outputs", "")
        return {
            name: list(v.shape)
            for name, v in build_timm(architecture, num_classes=num_classes, **args).state_dict().items()
        }
    with torch.device("meta"):
        network = build_timm(architecture, num_classes=num_classes, **args)
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def first_line(error: Exception) -> str:
    """The message of an error without torch's advice, which is to load the file in the mode that runs its code."""
    said = (str(error).strip().splitlines() or [""])[0]
    return (
        f"{type(error).__name__}: {said}"
        if "weights_only" not in said
        else f"{type(error).__name__}: not only weights"
    )
