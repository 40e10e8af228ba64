"""What a run's networks cost, timed on a few images before the work starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from hf_condense.data.randomness import Key
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import PREFIX, is_probe, load_student
from hf_condense.models.loading import load_model
from hf_condense.models.networks import without_tag
from hf_condense.run.base import Run

IMAGES = 16  # enough for a rate, small enough for any memory


@dataclass(frozen=True)
class NetworkCost:
    """Of one network: seconds an image for a forward pass, and for forward and backward; bytes of its activations.

    `training`: seconds an image with gradients of the weights, where they are known.
    """

    forward: float
    backward: float
    activations: int
    weights: int
    training: float | None = None

    @property
    def update(self) -> float:
        """Seconds an image of training: gradients of the weights are more than those of the images."""
        return 1.5 * self.backward if self.training is None else self.training


class Probe:
    """Times each network of a run once, when it is asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.measured: dict[str, NetworkCost] = {}

    @property
    def processes(self) -> int:
        return self.run.accelerator.num_processes

    def network(self, name: str) -> NetworkCost:
        """The cost of a network of this name."""
        if name not in self.measured:
            train = self.run.train
            model = self._network(name)
            shape = (train.channels, train.image_size, train.image_size)
            self.measured[name] = measure(model, shape, self.run.device)
        return self.measured[name]

    def _network(self, name: str) -> ImageModel:
        """One of the same cost: untrained where the weights are not there yet."""
        spec, plain = self.run.train.plain_spec, without_tag(name.removeprefix(PREFIX))
        if is_probe(name) and plain not in self.run.config.squeeze.base_model:
            return load_student("students", name, spec, key=Key(0))
        return load_model(plain, spec, pretrained=False, key=Key(0))

    @cached_property
    def base(self) -> list[NetworkCost]:
        """The networks that squeeze trains."""
        return [self.network(name) for name in self.run.config.squeeze.base_model]

    @cached_property
    def observers(self) -> list[NetworkCost]:
        """Those that synthesis looks through."""
        squeeze, weak = self.run.config.squeeze, self.run.config.weak
        if weak.weak:  # weak models cost about as much as their base, which made them
            return self.base[:1] * len(squeeze.observers or range(weak.pool_size))
        return [self.network(name) for name in squeeze.observers or squeeze.base_model]

    @cached_property
    def teachers(self) -> list[NetworkCost]:
        """Those that make soft labels."""
        squeeze, weak = self.run.config.squeeze, self.run.config.weak
        if weak.weak:
            sizes = {"base": 1, "pool": weak.pool_size, "both": 1 + weak.pool_size}
            return self.base[:1] * len(squeeze.teachers or range(sizes[weak.label_source]))
        return [self.network(name) for name in squeeze.teachers or squeeze.base_model]


def measure(model: ImageModel, shape: tuple[int, int, int], device: torch.device) -> NetworkCost:
    """Times `model` on a few random images of `shape` (channels, height, width)."""
    model = model.to(device).freeze()
    images = torch.rand(IMAGES, *shape, device=device)
    sizes: list[int] = []

    def note(module: nn.Module, _, output) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    model(images)
    for hook in hooks:
        hook.remove()

    def pass_through(gradient: bool) -> None:
        x = images.clone().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model(x)
            if gradient:
                logits.sum().backward()

    pass_through(True)
    forward, backward = (min(_seconds(pass_through, g, device) for _ in range(2)) for g in (False, True))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return NetworkCost(forward / IMAGES, backward / IMAGES, sum(sizes) // IMAGES, weights)


def _seconds(work: Callable[[bool], None], gradient: bool, device: torch.device) -> float:
    started = time.perf_counter()
    work(gradient)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
