"""Gradient and distribution matching class by class, as the papers write them: the oracle of the tests and benchmarks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiameseDraw
from hf_condense.selection.paired import PairedViews


def plain_batches(views: PairedViews, images: Tensor, labels: Tensor, draw: SiameseDraw | None, count: int, key: Key):
    """(class, its augmented real batch, its augmented images), one class after another."""
    for c in labels.unique().tolist():
        pair = (views.real(c, count, key), images[labels == c])
        yield c, *(views.seen(batch, draw, torch.full((len(batch),), c)) for batch in pair)


def plain_distribution(network: nn.Module, views, images, labels, draw, count: int, key: Key) -> Tensor:
    """DM's loss: two forward passes a class."""
    loss = torch.zeros((), dtype=images.dtype, device=images.device)
    for _, real, mine in plain_batches(views, images, labels, draw, count, key):
        with torch.no_grad():
            target = _features(network, real).mean(0)
        loss = loss + ((target - _features(network, mine).mean(0)) ** 2).sum()
    return loss


def plain_gradient(network: nn.Module, views, images, labels, draw, count: int, key: Key) -> Tensor:
    """DC's loss with gradients of all parameters, summed over classes before it is differentiated."""
    loss = torch.zeros((), dtype=images.dtype, device=images.device)
    for c, real, mine in plain_batches(views, images, labels, draw, count, key):
        target = [g.detach() for g in _gradients(network, real, c, False)]
        loss = loss + plain_distance(_gradients(network, mine, c, True), target)
    return loss


def plain_distance(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """Layer by layer, 1 - cosine of each output unit."""
    total = found[0].new_zeros(())
    for a, b in zip(found, target):
        if a.dim() < 2:
            continue
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        total = total + torch.sum(1 - torch.sum(a * b, -1) / (torch.norm(a, dim=-1) * torch.norm(b, dim=-1) + 1e-6))
    return total


def _features(network: nn.Module, images: Tensor) -> Tensor:
    return network.backbone.forward_features((images - network.mean) / network.std).flatten(1)


def _gradients(network: nn.Module, images: Tensor, c: int, create_graph: bool):
    labels = torch.full((len(images),), c, device=images.device)
    loss = F.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=create_graph)
