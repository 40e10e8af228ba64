"""One step of any method on made-up images and any device: what is launched, waited for and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.methods import create_method
from hf_condense.methods.base import Context, Method
from hf_condense.methods.pdd.chains import ChainedNetworks
from hf_condense.methods.pdd.stage import ReadyStage
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.loading import load_model
from hf_condense.plan import Synthetic
from hf_condense.run.trial import trial, with_observers
from hf_condense.shard_optimiser import ShardOptimiser

CPU, KEY = torch.device("cpu"), Key(0, "steps")
MEAN, STD = (0.48, 0.45, 0.41), (0.23, 0.23, 0.23)


class MadeUpImages:
    """Random pixels in the place of an `ImageSource`."""

    fits_in_memory, mean, std, channels = True, MEAN, STD, 3

    def __init__(self, num_classes: int, image_size: int, per_class: int) -> None:
        self.num_classes, self.image_size, self.stored_size = num_classes, image_size, image_size
        self.labels = np.repeat(np.arange(num_classes), per_class)
        self.class_names = tuple(str(c) for c in range(num_classes))
        self.fingerprint = f"made up, {num_classes} x {per_class} images of {image_size} pixels"
        self.plain_spec = ImageSpec(num_classes, image_size, MEAN, STD)
        generator = torch.Generator().manual_seed(0)
        self._pixels = torch.randint(0, 256, self.shape, generator=generator, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.channels, self.image_size, self.image_size)

    def rows_of(self, c: int) -> np.ndarray:
        return np.flatnonzero(self.labels == c)

    def images(self, rows: np.ndarray) -> Tensor:
        return self._pixels[torch.as_tensor(rows)]

    def decoded(self) -> Tensor:
        return self._pixels


def step_of(
    name: str,
    source: MadeUpImages,
    networks: Sequence[str],
    device: torch.device,
    *,
    ipc: int = 1,
    precision: str = "fp32",
    tried: bool = False,
    **settings: Any,
) -> ShardOptimiser | None:
    """The first optimised shard of a method on `device`, ready to step; None where the method only selects.

    Networks are untrained and their statistics made up: neither changes what a step does. What a method prepares
    before its steps (experts, chains) is made on the CPU.

    Args:
        tried: take what the method gives in the place of what it would prepare, as the estimate does.
        networks: the observers of methods with a pool; the first is the network of the others.
        settings: of the method.
    """
    method, spec = create_method(name, **settings), source.plain_spec
    fresh = FreshNetworks(networks[0], spec, device=CPU)
    trainer = StudentTrainer(
        get_protocol("small", epochs=1, steps=None), ipc, source.num_classes, MEAN, STD, CPU, True
    )
    context = Context(source, source.image_size, ipc, KEY, CPU, precision, fresh=fresh, student_trainer=trainer)
    shards = method.plan(source.num_classes, ipc).optimised
    if not shards:
        return None
    shard = shards[-1]
    models = [load_model(network, spec, key=KEY / number) for number, network in enumerate(networks)]
    models = models if method.info.pool else []
    if tried:
        return trial(method, context, shard, models, device)
    observed = with_observers(method, context, models)
    ready = _moved(method.ready(shard, observed, _earlier(method, context, shard.stage)), device)
    return trial(method, context, shard, models, device, ready)


def _earlier(method: Method, context: Context, stage: int) -> Synthetic | None:
    """What the stages before have made: random images."""
    if stage == 1:
        return None
    plan = method.plan(context.num_classes, context.ipc)
    labels = torch.tensor([c for group in plan.groups if group[0].stage < stage and group[0].kind == "start" for s in group for c in s.labels])  # fmt: skip
    images = context.train.images(np.arange(len(labels)) % len(context.train))
    return Synthetic(images, images, labels, np.full(len(labels), -1))


def _moved(ready: Any, device: torch.device) -> Any:
    """What was prepared on the CPU, for steps on `device`."""
    if not isinstance(ready, ReadyStage):
        return ready
    chains, context = ready.context.fresh, replace(ready.context, device=device)
    fresh = FreshNetworks(context.fresh.name, context.train.plain_spec, device=device)
    if isinstance(chains, ChainedNetworks):
        fresh = ChainedNetworks(fresh, chains.curriculum, chains.count, chains.key, chains.folder)
    return replace(ready, context=replace(context, fresh=fresh))


class Operations(TorchDispatchMode):
    """Counts what is launched on a device, and finds copies from the host that the host waits for.

    A launch is an operation whose result lies on the device and that is more than a view or an allocation.

    Attributes:
        launches: of each operation.
        waits: copies between host and device that block.
    """

    WITHOUT_KERNEL = ("aten.empty", "aten.new_empty", "aten.detach", "aten.alias", "aten.lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: list[str] = []

    @property
    def total(self) -> int:
        return sum(self.launches.values())

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = operation(*args, **kwargs)
        results = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        taken = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        results = results or taken  # operations on lists in place return nothing
        places = {t.device.type for t in (*results, *taken)}
        name = str(operation)
        copies = name.startswith(("aten._to_copy", "aten.copy_")) and len(places) > 1
        # aten.copy_ takes it as its third argument
        if copies and not (kwargs.get("non_blocking") or (name.startswith("aten.copy_") and any(args[2:]))):
            self.waits.append(f"{name} {[tuple(t.shape) for t in results]}")
        there = any(t.device.type != "cpu" for t in results)
        if there and not operation.is_view and not name.startswith(self.WITHOUT_KERNEL):
            self.launches[name] += 1
        return found
