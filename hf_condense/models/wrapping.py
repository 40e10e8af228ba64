"""Wraps a user's network of timm or transformers as an ImageModel that can be saved and rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_condense.config import check
from hf_condense.errors import ModelError
from hf_condense.models.architectures import timm_shapes
from hf_condense.models.image_model import ImageModel


def as_image_model(
    model: nn.Module,
    *,
    class_names: Sequence[str],
    channels: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    field: str = "model",
) -> ImageModel:
    """The network with the facts that rebuild it, read from its configuration.

    Args:
        model: of `timm.create_model`, or an image classification model of transformers.
        class_names: classes of its outputs, in order.
        channels: of the images that it was trained on.
        mean, std: by which these were normalised, in unit pixels; not at all by default.
        field: its name in errors.

    Raises:
        ModelError: it is of another library, has another number of outputs, or was made with arguments that cannot be
            read from it.
    """
    from transformers import PreTrainedModel

    wrapped = isinstance(model, PreTrainedModel)
    describe = _transformers if wrapped else _timm
    architecture, outputs, in_chans, args = describe(model, field)
    check(outputs == len(class_names), field, f"{architecture} with {outputs} outputs", f"{len(class_names)} outputs")
    return ImageModel(
        model,
        num_classes=outputs,
        mean=mean,
        std=std,
        name=architecture,
        channels=channels,
        in_chans=in_chans,
        class_names=class_names,
        needs_squeeze=False,
        build={"library": "transformers" if wrapped else "timm", "architecture": architecture, "model_args": args},
    )


def _transformers(model: Any, field: str) -> tuple[str, int, int, dict]:
    c = model.config
    return c.model_type, c.num_labels, getattr(c, "num_channels", 3), {}


def _timm(model: Any, field: str) -> tuple[str, int, int, dict]:
    """Name, outputs, channels and arguments; a network of the same shapes can be built from them."""
    cfg, allowed = getattr(model, "pretrained_cfg", None), "a network of timm.create_model or of transformers"
    if not cfg or not cfg.get("architecture"):
        raise ModelError(
            field, type(model).__name__, allowed, "take one that load_model or `DistilledDataset.train` made"
        )
    there = {name: list(value.shape) for name, value in model.state_dict().items()}
    first = cfg.get("first_conv")
    first = first if isinstance(first, str) else next(iter(first or ()), None)
    in_chans = there.get(f"{first}.weight", [0, 3])[1]
    args: dict[str, Any] = {"in_chans": in_chans}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        args["img_size"] = size[0] if size[0] == size[1] else list(size)
    try:
        same = timm_shapes(cfg["architecture"], model.num_classes, args, there) == there
    except (TypeError, ValueError, RuntimeError, AssertionError):  # what timm raises for arguments it does not take
        same = False
    if not same:
        raise ModelError(
            field,
            cfg["architecture"],
            "a network made with num_classes, in_chans and img_size alone",
            "make it with load_model, or push it with timm's push_to_hf_hub",
        )
    return cfg["architecture"], model.num_classes, in_chans, args
