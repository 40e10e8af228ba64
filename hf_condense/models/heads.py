"""Maps the logits of a trained head to the classes of the dataset, and reorders or replaces the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hf_condense.errors import ModelError


def _spelled(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _parts(names: Sequence[str]) -> set[str]:
    """Every synonym: "tench, Tinca tinca" is both."""
    return {_spelled(part) for name in names for part in name.split(",")} - {""}


def class_rows(head: Sequence[Sequence[str]] | None, classes: Sequence[str] | None) -> list[int] | None:
    """For each class of the dataset the row of the head that stands for it, or None when they do not map.

    Whole names go before synonyms; among several candidates (ImageNet has two cranes) only one at the class's own
    position is taken. Every class needs a row of its own; the head may have more rows (a subset of ImageNet).

    Args:
        head: for each row all names it goes by (WordNet id, lemmas, plain name).
        classes: class names of the dataset in its order.
    """
    if head is None or classes is None or len(classes) > len(head):
        return None
    whole, part = {}, {}
    for row, names in enumerate(head):
        for spelled in {_spelled(n) for n in names}:
            whole.setdefault(spelled, []).append(row)
        for spelled in _parts(names):
            part.setdefault(spelled, []).append(row)
    same_length = len(head) == len(classes)
    rows = []
    for position, name in enumerate(classes):
        for found in (whole.get(_spelled(name), []), sorted({r for p in _parts([name]) for r in part.get(p, [])})):
            if same_length and position in found:
                rows.append(position)
            elif len(found) == 1:
                rows.append(found[0])
            else:
                continue
            break
        else:
            return None
    return rows if len(set(rows)) == len(rows) else None


def find(backbone: nn.Module, num_classes: int, name: str) -> list[nn.Module]:
    """The layer (two in distilled transformers) that computes the logits.

    Raises:
        ModelError: there is no linear layer or 1x1 convolution with that many outputs.
    """
    named = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier")
    if named:
        layers = [backbone.get_submodule(n) for n in ([named] if isinstance(named, str) else named)]
        if all(hasattr(layer, "weight") for layer in layers):
            return layers
    # the last in order of definition: wherever the name is not known, the head is defined at the end
    outputs = ((m, getattr(m, "out_features", getattr(m, "out_channels", None))) for m in backbone.modules())
    layers = [m for m, n in outputs if n == num_classes and isinstance(m, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise ModelError(
            "base_model", name, f"a network whose last layer is linear with {num_classes} outputs", "choose another"
        )
    return layers[-1:]


def keep_rows(backbone: nn.Module, rows: list[int], num_classes: int, name: str) -> None:
    """Puts the head's rows in the dataset's order and drops the others."""
    if rows == list(range(num_classes)):
        return
    for layer in find(backbone, num_classes, name):
        layer.weight = nn.Parameter(layer.weight.detach()[rows].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    _resize(backbone, layer_size=len(rows), old=num_classes, name=name)


def replace(backbone: nn.Module, num_classes: int, old: int, name: str) -> None:
    """A new head for `num_classes` classes, drawn from the global stream (call it under `keyed`)."""
    if old == 0:  # a feature extractor of timm (DINO and the like) has no head yet
        backbone.reset_classifier(num_classes)
        return
    for layer in find(backbone, old, name):
        layer.weight = nn.Parameter(torch.empty(num_classes, *layer.weight.shape[1:]))
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.empty(num_classes))
        layer.reset_parameters()
    _resize(backbone, layer_size=num_classes, old=old, name=name)


def _resize(backbone: nn.Module, layer_size: int, old: int, name: str) -> None:
    """Sets the number of classes in all attributes of the libraries that hold it, so that a checkpoint loads again."""
    for layer in find(backbone, old, name):
        for attribute in ("out_features", "out_channels"):
            if hasattr(layer, attribute):
                setattr(layer, attribute, layer_size)
    for attribute in ("num_classes", "num_labels"):
        if hasattr(backbone, attribute):
            setattr(backbone, attribute, layer_size)
