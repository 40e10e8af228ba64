"""What one network costs, timed on a few images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hf_condense.models.image_model import ImageModel

IMAGES = 16  # small enough for any memory
QUICK, MANY_IMAGES = 0.05, 128  # seconds of a pass through these below which more are taken, as batches are larger


@dataclass(frozen=True)
class NetworkCost:
    """Of one network: seconds an image for a forward pass, for forward and backward to the image, and for forward and
    backward to the weights; bytes of its activations and weights; seconds to build it."""

    forward: float
    backward: float
    training: float
    activations: int
    weights: int
    making: float = 0.0


def measure(model: ImageModel, shape: tuple[int, int, int], device: torch.device) -> NetworkCost:
    """Times `model` on a few random images of `shape` (channels, height, width)."""
    model = model.to(device).freeze()
    with torch.no_grad():
        quick = min(seconds_of(lambda: model(torch.rand(IMAGES, *shape, device=device)), device) for _ in range(2))
    count = MANY_IMAGES if quick < QUICK else IMAGES
    images = torch.rand(count, *shape, device=device)
    sizes: list[int] = []

    def note(module: nn.Module, _, output) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    model(images)
    for hook in hooks:
        hook.remove()

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def backward() -> None:
        model(images.clone().requires_grad_(True)).sum().backward()

    def training() -> None:
        F.cross_entropy(model(images), labels).backward()

    def image_of(work: Callable[[], object]) -> float:
        return statistics.median(seconds_of(work, device) for _ in range(3)) / count

    seconds = [image_of(forward), image_of(backward)]
    labels = torch.zeros(count, dtype=torch.long, device=device)
    model.train().requires_grad_(True)
    seconds.append(image_of(training))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return NetworkCost(*seconds, sum(sizes) // count, weights)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
