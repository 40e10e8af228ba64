"""Students that are a new linear head on a frozen network: `probe:` and the network's name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key, keyed
from hf_condense.data.whitening import Whitening
from hf_condense.errors import ModelError
from hf_condense.models import heads
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model, load_untrained
from hf_condense.models.networks import is_path

PREFIX = "probe:"
HEAD_STD = 0.01  # of the weights of a new head (arXiv:2511.16674, official code)


def is_probe(student: str) -> bool:
    """Whether the name of a student stands for a linear probe."""
    return student.startswith(PREFIX)


def load_student(
    field: str,
    name: str,
    images: ImageSpec,
    *,
    key: Key,
    whitening: Whitening | None = None,
    backbones: Mapping[str, ImageModel] | None = None,
) -> ImageModel:
    """A student that has not seen the set: a network from scratch (`load_untrained`), or `probe:` and a trained network.

    Args:
        whitening: of networks from scratch; those with weights normalise as they were trained.
        backbones: trained networks by name, which go before those that `load_backbone` finds.

    Raises:
        ModelError: as `load_untrained` and `load_backbone`; or a probed network has no single linear last layer.
    """
    if not is_probe(name):
        return load_untrained(field, name, images, whitening=whitening, key=key)
    return new_head(backbone_of(name, images, backbones, field), key)


def backbone_of(
    student: str, images: ImageSpec, backbones: Mapping[str, ImageModel] | None = None, field: str = "students"
) -> ImageModel:
    """The frozen network of the student `probe:<network>`, shared by all who ask for it."""
    name = student.removeprefix(PREFIX)
    return (backbones or {}).get(name) or load_backbone(field, name, images)


def short_name(student: str) -> str:
    """The name of a student in tables, and in the keys of its draws: without the folders above a probed network."""
    path = student.removeprefix(PREFIX).removeprefix("local-dir:")
    return f"{PREFIX}{Path(path).name}" if is_probe(student) and is_path(path) else student


def load_backbone(field: str, name: str, images: ImageSpec) -> ImageModel:
    """The network `name` with its published weights, frozen. Its head, which may be new, is not used.

    Args:
        field: the setting that held `name`.

    Raises:
        ModelError: it has none, or they cannot be fetched.
    """
    return _load(field, name, replace(images, mean=tuple(images.mean), std=tuple(images.std), class_names=None))


@lru_cache(maxsize=4)  # all classes, rows and seeds use the same networks
def _load(field: str, name: str, images: ImageSpec) -> ImageModel:
    try:
        model = load_model(name, images, pretrained=True, key=Key(0, "backbone"))
    except ModelError as error:
        step = error.next_step.replace("--base_model", f"--{field}").split("; names of timm")[0]
        step = step.replace(", or drop --pretrained", "")
        raise ModelError(field, name, error.allowed, step) from error
    return model.freeze()


def new_head(backbone: ImageModel, key: Key) -> ImageModel:
    """A copy of a network whose last layer alone is trained, from small random weights; it stays in evaluation mode."""
    model = copy.deepcopy(backbone).freeze()
    model.always_eval, model.needs_squeeze = True, True
    head = head_of(model)
    with keyed(key), torch.no_grad():
        head.weight.normal_(0, HEAD_STD)
        if head.bias is not None:
            head.bias.zero_()
    head.requires_grad_(True)
    return model


def head_of(model: ImageModel) -> nn.Module:
    """The last layer. Raises ModelError for a network with several (distilled transformers)."""
    found = heads.find(model.backbone, model.num_classes, model.name)
    if len(found) > 1:
        raise ModelError("students", model.name, "a network with one last layer, for a linear probe", "choose another")
    return found[0]


class FeatureHead(nn.Module):
    """The last layer of a network on features [n, d] of `models.embedding.embed`, with the parameters of that layer."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.layer, self.name = head_of(model), model.name

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.layer.weight.flatten(1), self.layer.bias)
