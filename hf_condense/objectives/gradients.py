"""Gradients of the loss in the weights, and distances between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hf_condense.config import check
from hf_condense.objectives.twice import twice_differentiable

Distance = Literal["rows", "mse", "l1", "cos", "layer_cos", "inner"]
SMALL = 1e-6  # added to products of lengths, so that a row without gradient is far from nothing


def parameter_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    create_graph: bool = False,
    dims: int = 0,
    without: Collection[int] = (),
    weights: Tensor | None = None,
) -> list[Tensor]:
    """Gradient of the mean cross-entropy in each parameter of `model`, in the order of `model.parameters()`.

    The weights are not changed: they may be frozen, and no `.grad` is set on them.

    Args:
        images: float unit pixels [n, C, H, W]; `labels` int64 [n].
        create_graph: keep the graph, so that a function of the gradients can be differentiated in the images.
        dims: only of parameters with this many dimensions or more: 2 leaves biases and norms out, 3 leaves
            convolution kernels. The model must then be frozen, or a graph is built for the others as well.
        without: numbers of dimensions that are left out too.
        weights: share of each image [n] in the mean, if these differ; they add up to 1.
    """
    learned = {
        name: p.detach().requires_grad_(True)
        for name, p in model.named_parameters()
        if p.ndim >= dims and p.ndim not in without
    }
    with twice_differentiable() if create_graph else nullcontext():
        logits = functional_call(model, learned, (images,))
    if weights is None:
        loss = F.cross_entropy(logits, labels)
    else:
        loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
    return list(torch.autograd.grad(loss, learned.values(), create_graph=create_graph, materialize_grads=True))


def full_gradient(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Gradient of the mean cross-entropy over all images of `batches` of (images, labels), without a graph."""
    total, count = None, 0
    for images, labels in batches:
        found = [len(images) * g for g in parameter_gradients(model, images, labels)]
        total = found if total is None else torch._foreach_add(total, found)
        count += len(images)
    return [g / count for g in total]


def gradient_distance(a: Sequence[Tensor], b: Sequence[Tensor], kind: Distance = "rows") -> Tensor:
    """Distance of the gradients `a` from `b` (lists with a tensor for each parameter): a scalar.

    Args:
        kind: "rows": 1 - cosine for each output unit of each layer, summed; biases and norms do not count
            (arXiv:2006.05929, Eq. 10). "layer_cos": 1 - cosine for each tensor, summed. Over all tensors as one vector:
            "cos" is 1 - cosine, "mse" the squared distance, "l1" the sum of absolute differences, "inner" the negative
            inner product.

    Raises:
        ConfigError: another kind.
    """
    check(kind in get_args(Distance), "distance", kind, ", ".join(get_args(Distance)))
    if kind == "rows":
        rows = [(x.flatten(1), y.flatten(1)) for x, y in zip(a, b, strict=True) if x.ndim > 1]
    elif kind == "layer_cos":
        rows = [(x.view(1, -1), y.view(1, -1)) for x, y in zip(a, b, strict=True)]
    else:
        rows = [tuple(torch.cat([t.flatten() for t in side])[None] for side in (a, b))]
    if kind == "mse":
        return sum((x - y).square().sum() for x, y in rows)
    if kind == "l1":
        return sum((x - y).abs().sum() for x, y in rows)
    if kind == "inner":
        return -sum((x * y).sum() for x, y in rows)
    return sum((1 - (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + SMALL)).sum() for x, y in rows)
