"""The common interface of networks: unit pixels in, one logit a class out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.whitening import Whitening
from hf_condense.errors import ModelError


class ImageModel(nn.Module):
    """A backbone that takes unit pixels, with its normalisation, input size and channels.

    Args:
        backbone: takes normalised images [n, in_chans, H, W]; gives logits [n, K], or an object that has `.logits`.
        num_classes: K.
        mean, std: in unit pixels, one value for each of the backbone's channels (or one for all).
        name: its name as given by the user.
        channels: of the images it is given; grey ones are repeated where the backbone needs RGB.
        in_chans: of the backbone; defaults to `channels`.
        input_size: side the backbone must be given, or None where it takes any; others are resized to it.
        class_names: classes of the logits, or None if unknown.
        source: {"id", "revision", "pretrained"}: where the weights come from.
        needs_squeeze: whether weights or head are new, so that the logits mean nothing yet.
        build: how to make the backbone again: {"library", "architecture", "model_args"}; for a pruned one also
            "shapes" and "groups", as in `checkpoints.shape_manifest`.
        whitening: of the dataset, by which images are normalised instead of `mean` and `std`; is in no `state_dict`.

    `always_eval`: it stays in evaluation mode while its last layer is trained (`models.linear_probe`).
    """

    always_eval = False

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

    def train(self, mode: bool = True) -> ImageModel:
        return super().train(mode and not self.always_eval)

    def freeze(self) -> ImageModel:
        """Sets eval mode and removes weight gradients permanently."""
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
