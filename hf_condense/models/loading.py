"""The network interface of all other parts: unit pixels in, one logit a class out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ModelError

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening


class ImageModel(nn.Module):
    """A backbone that takes unit pixels, with its own normalisation, input size and channels.

    Args:
        backbone: takes normalised images [n, in_chans, H, W]; gives logits [n, K], or an object that has `.logits`.
        num_classes: K.
        mean, std: in unit pixels, one value for each of the backbone's channels (or one for all).
        name: what the person called it.
        channels: of the images it is given; grey ones are repeated where the backbone needs RGB.
        in_chans: of the backbone; defaults to `channels`.
        input_size: side the backbone must be given, or None where it takes any; others are resized to it.
        class_names: what the logits stand for, or None where that is not known.
        source: {"id", "revision", "pretrained"}: where the weights come from.
        needs_squeeze: whether weights or head are new, so that the logits mean nothing yet.
        build: how to make the backbone again: {"library", "architecture", "model_args"}; for a pruned one also
            "shapes" and "groups", as in `checkpoints.shape_manifest`.
        whitening: of the dataset, by which images are normalised instead of `mean` and `std`; is in no `state_dict`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_classes: int,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        name: str = "network",
        channels: int = 3,
        in_chans: int | None = None,
        input_size: int | None = None,
        class_names: Sequence[str] | None = None,
        source: dict | None = None,
        needs_squeeze: bool = True,
        build: dict | None = None,
        whitening: Whitening | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.name, self.num_classes = backbone, name, num_classes
        self.channels, self.in_chans, self.input_size = channels, in_chans or channels, input_size
        self.class_names = tuple(class_names) if class_names is not None else None
        self.source = source or {"id": name, "revision": None, "pretrained": False}
        self.needs_squeeze, self.build, self.whitening = needs_squeeze, build, whitening
        if self.channels not in (1, self.in_chans):
            allowed = f"{' or '.join(sorted({'1', str(self.in_chans)}))}, which {name} takes"
            raise ModelError("channels", channels, allowed, "set --channels, or choose another --base_model")
        self.register_buffer("mean", _per_channel(mean, self.in_chans, name))
        self.register_buffer("std", _per_channel(std, self.in_chans, name))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, K] of float unit pixels [n, channels, H, W]."""
        return self.classify(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Float unit pixels [n, channels, H, W] to what the backbone takes."""
        if images.shape[1] != self.in_chans:
            images = images.expand(-1, self.in_chans, -1, -1)
        side = self.input_size
        if side is not None and tuple(images.shape[-2:]) != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        return (images - self.mean) / self.std if self.whitening is None else self.whitening(images)

    def classify(self, images: Tensor) -> Tensor:
        """Logits [n, K] of images as `normalise` gives them."""
        out = self.backbone(images)
        return out if isinstance(out, Tensor) else out.logits

    def freeze(self) -> ImageModel:
        """Sets eval mode and switches weight gradients off."""
        return self.eval().requires_grad_(False)

    def sha256(self) -> str:
        """Hash of all weights and buffers: names, dtypes, shapes and bytes in the order of their names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def _per_channel(values: Sequence[float], channels: int, name: str) -> Tensor:
    values = list(values) * (channels if len(values) == 1 else 1)
    if len(values) != channels:
        raise ModelError("mean, std", values, f"1 or {channels} values for {name}", "give as many as it has channels")
    return torch.tensor(values, dtype=torch.float32).view(1, channels, 1, 1)


def load_model(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    channels: int = 3,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
    class_names: Sequence[str] | None = None,
    whitening: Whitening | None = None,
    key: Key,
) -> ImageModel:
    """A network by name, fitted to a dataset.

    Names: a timm model (`resnet18`, `timm/resnet18.a1_in1k`), `hf-hub:org/name` (a timm checkpoint),
    `transformers:org/name`, `torchvision/alexnet`, or a folder (`local-dir:/path` or just the path) with a timm or
    transformers checkpoint. Hub ids and folders always mean their weights; other names do when `pretrained`.

    A head with weights is used as it is only when its class names map to `class_names`; its rows are then put in the
    dataset's order. Otherwise it is replaced by a new one, and `needs_squeeze` is true. From scratch, timm's ResNets
    get a 3x3 stem without pooling up to 64 pixels, and grey images keep one channel where the library allows it.

    Args:
        image_size: side of the images it will be given; what cannot take it has them resized to its own size.
        channels: of those images, 1 or 3.
        mean, std: of the dataset, for networks from scratch; others keep what they were trained with.
        whitening: of the dataset, instead of both, where networks from scratch are to see whitened images.
        key: names the random initialisation.

    Raises:
        ModelError: unknown name (near ones are listed), weights that cannot be downloaded, or a network that does
            not take such images, or would have to resize whitened ones.
    """
    from hf_condense.models import heads, networks

    with keyed(key):
        made = networks.build(name, num_classes, image_size, channels, pretrained)
        rows = heads.class_rows(made.class_names, class_names)
        if rows is not None:
            heads.keep_rows(made.backbone, rows, made.num_classes, name)
        elif made.pretrained:
            heads.replace(made.backbone, num_classes, made.num_classes, name)
    model = ImageModel(
        made.backbone,
        num_classes=num_classes,
        mean=made.mean or mean,
        std=made.std or std,
        name=name,
        channels=channels,
        in_chans=made.in_chans,
        class_names=class_names,
        source={"id": made.id, "revision": made.revision, "pretrained": made.pretrained},
        needs_squeeze=rows is None,
        build={"library": made.library, "architecture": made.architecture, "model_args": made.model_args}
        | made.manifest,
        whitening=whitening,
    )
    return _fit_input(model, image_size, made.input_size, num_classes)


def load_untrained(field: str, name: str, **facts: Any) -> ImageModel:
    """As `load_model`, with random weights; a name that stands for trained ones is refused.

    Args:
        field: the setting that `name` was given as.
        facts: the other arguments of `load_model`.

    Raises:
        ModelError: as `load_model`; or the name is a Hub id or a folder, which always mean their weights.
    """
    try:
        model = load_model(name, **facts)
    except ModelError as error:
        if error.field != "base_model":
            raise
        step = error.next_step.replace("--base_model", f"--{field}")
        raise ModelError(field, name, error.allowed, step) from error
    if model.source["pretrained"]:
        known = architecture_name(model)
        raise ModelError(
            field, name, "the name of an architecture: these networks begin untrained, and this one has trained weights",
            f"give {known}, its architecture" if known else "give a network of timm or torchvision by name",
        )  # fmt: skip
    return model


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
            "base_model", f"{model.name}, which takes {shape}", f"a network for whitened images {model.whitening.shape}",
            "choose a ConvNet (convnet_...), which takes images as they are, or settings without ZCA",
        )  # fmt: skip
