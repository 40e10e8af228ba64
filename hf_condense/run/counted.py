"""What a pass through a network computes and moves, counted on the meta device: without numbers, at any size."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hf_condense.plan import Shard
from hf_condense.run.devices import Device

IMAGES = 64  # of a counted pass; weights are read once for all of them


class Work(NamedTuple):
    """One operation: floating-point operations of products (two for each multiply and add), and bytes read and written."""

    flops: float
    bytes: float


class Passes(NamedTuple):
    """The operations of a network for `IMAGES` images, and what it keeps.

    Args:
        forward: without gradients. backward: forward, and back to the images. training: forward, and back to the weights.
        kept: bytes that are kept for the way back to the weights, of one image. weights: bytes.
        images: of a pass.
    """

    forward: list[Work]
    backward: list[Work]
    training: list[Work]
    kept: int
    weights: int
    images: int = IMAGES


@dataclass
class Counted:
    """What was counted of a run: passes by network, and for shards the operations of a step with their peak of memory."""

    passes: dict[str, Passes] = field(default_factory=dict)
    steps: dict[Shard, tuple[list[Work], int]] = field(default_factory=dict)


class Counting(TorchDispatchMode):
    """Notes every operation that is more than a view or an allocation, and the memory of its results while they live.

    Attributes:
        found: the operations.
        peak: bytes of results that were in use at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Work] = []
        self.peak = self._live = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def _free(self, size: int) -> None:
        self._live -= size

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" and storage not in self._known:
            self._known.add(storage)
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._free, storage.nbytes())

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operation(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        if not operation.is_view and "empty" not in operation.name():
            of = flop_registry.get(operation._overloadpacket)
            flops = of(*args, **kwargs, out_val=out) if of else 0
            moved = sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
            self.found.append(Work(flops, moved))
        return out


def count(model: nn.Module, shape: Sequence[int]) -> Passes:
    """Counts the passes of `model` for images of `shape` (channels, height, width); it is moved to the meta device."""
    model = model.to("meta")
    weights = sum(p.nbytes for p in model.parameters())
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}

    def work(gradient: str | None) -> tuple[list[Work], int]:
        model.train(gradient == "weights").requires_grad_(gradient == "weights")
        images = torch.empty(IMAGES, *shape, device="meta", requires_grad=gradient == "images")
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with Counting() as counting, hooks, torch.set_grad_enabled(gradient is not None):
            logits = model(images)
            if gradient is not None:
                logits.sum().backward()
        model.zero_grad(set_to_none=True)
        return counting.found, sum(kept.values())

    forward, backward = work(None)[0], work("images")[0]
    training, kept = work("weights")
    return Passes(forward, backward, training, kept // IMAGES, weights)


def flops(work: list[Work], precision: str) -> float:
    """Floating-point operations of products."""
    return sum(one.flops for one in work)


def traffic(work: list[Work], precision: str) -> float:
    """Bytes read and written; half of those of float32 in bf16."""
    return sum(one.bytes for one in work) * (0.5 if precision == "bf16" else 1.0)


def seconds_on(device: Device) -> Callable[[list[Work], str], float]:
    """Seconds: each operation takes the longer of its products and its traffic. Launches are not counted."""

    def seconds(work: list[Work], precision: str) -> float:
        peak, share = device.products(precision), 0.5 if precision == "bf16" and device.bf16 else 1.0
        return sum(max(one.flops / peak, share * one.bytes / device.moved) for one in work)

    return seconds
